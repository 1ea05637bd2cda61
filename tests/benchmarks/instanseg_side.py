"""InstanSeg, beside which figures stand: its weights, and a Python that can run them.

That is $CODEXSEG_TORCH_PYTHON, or an environment that is made in the benchmarks' cache;
the weights are those of ``codexseg models fetch instanseg``, fetched where they lack.
"""

import os
import subprocess

from tests.benchmarks.common import OURS, ROOT, environment


def torch_python() -> str:
    """Return a Python that has torch; its environment is made where it lacks."""
    if told := os.environ.get("CODEXSEG_TORCH_PYTHON"):
        return told
    # What depends on torch would bring its build for CUDA.
    return str(environment("torch", ["scikit-image", *OURS], first="torch==2.13.0"))


def with_instanseg(code: str, *words: object) -> str:
    """Run code whose arguments are the weights and `words`; return what it prints."""
    from codexseg.backends.tiled.instanseg_weights import fetch_instanseg
    from codexseg.samples.download import download

    weights = fetch_instanseg(download)
    done = subprocess.run(
        [torch_python(), "-c", code, str(weights), *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"InstanSeg failed:\n{done.stderr[-3000:]}")
    return done.stdout
