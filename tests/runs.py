"""Running the pipeline in tests, and looking at what it wrote."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from codexseg.pipeline import Pipeline, Result

ROOT = Path(__file__).parents[1]
LABELS = ("cell", "nucleus", "cell_original", "nucleus_original")

TIMES = {"timings.csv", "run.log", "report.html", "manifest.json"}
"""Outputs that hold times."""


def execute(config: Path, out: Path, **options: Any) -> Result:
    return Pipeline.from_yaml(config, out).execute(**options)


def labels(run: Path, name: str = "cell") -> NDArray[np.uint32]:
    store = zarr.open_group(run / "segmentation.ome.zarr", mode="r")
    return np.asarray(store[f"labels/{name}/0"])


def outputs(run: Path) -> dict[str, bytes]:
    """Read every output that must be the same each time; markers and rows have times."""
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
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "codexseg", *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
