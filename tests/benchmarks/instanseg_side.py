"""InstanSeg, for comparison: its weights, and a Python with torch.

The Python is $CODEXSEG_TORCH_PYTHON, or an environment in the cache of the benchmarks.
The weights are those of ``codexseg models fetch instanseg``, fetched on first use.
"""

import os
import subprocess

from tests.benchmarks.common import OURS, ROOT, environment


def torch_python() -> str:
    """Return a Python with torch; make its environment on first use."""
    if python := os.environ.get("CODEXSEG_TORCH_PYTHON"):
        return python
    # A package that depends on torch would install its build for CUDA.
    return str(environment("torch", ["scikit-image", *OURS], first="torch==2.13.0"))


def with_instanseg(code: str, *words: object) -> str:
    """Run code with the weights and `words` as arguments; return its output."""
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
