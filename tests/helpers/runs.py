"""Runs of the pipeline and of the command line, and their outputs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from codexseg.pipeline import Pipeline, Result

ROOT = Path(__file__).parents[2]
LABELS = ("cell", "nucleus", "cell_original", "nucleus_original")

TIMES = {"timings.csv", "run.log", "report.html", "manifest.json"}
"""Outputs that contain times."""


def execute(config: Path, out: Path, **options: Any) -> Result:
    """Run the pipeline in this process."""
    return Pipeline.from_yaml(config, out).execute(**options)


def labels(run: Path, name: str = "cell") -> NDArray[np.uint32]:
    """Read a label image (y, x) of a run at full size."""
    store = zarr.open_group(run / "segmentation.ome.zarr", mode="r")
    return np.asarray(store[f"labels/{name}/0"])


def outputs(run: Path) -> dict[str, bytes]:
    """Read the outputs that are identical between runs: all but those with times."""
    paths = (p for p in sorted(run.rglob("*")) if p.is_file())
    names = {p.relative_to(run).as_posix(): p for p in paths}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if name not in TIMES and not name.startswith(("stages/", "work/"))
    }


def codexseg(
    *words: object, cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "codexseg", *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
