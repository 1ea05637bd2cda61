"""What the benchmarks share."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shared() -> Path:
    """Return the folder of shared data, or end with the reason why there is none."""
    folder = Path(os.environ.get("CODEXSEG_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        raise SystemExit(
            f"this benchmark needs the shared data, and {folder} has none: "
            f"set CODEXSEG_SHARED to the folder that holds data/."
        )
    return folder


def cache() -> Path:
    """Return the folder in which benchmarks keep what is costly to make."""
    folder = Path(tempfile.gettempdir()) / "codexseg_benchmarks"
    folder.mkdir(exist_ok=True)
    return folder


def bench_image(size: int) -> Path:
    """Return the image that bench/make_image.py makes, made once."""
    path = cache() / f"syn_{size}.ome.tif"
    if not path.exists():
        script = shared() / "bench" / "make_image.py"
        subprocess.run(
            [sys.executable, script, str(size), str(cache())],
            check=True,
            capture_output=True,
        )
    return path


def measured(command: list[str]) -> dict[str, float]:
    """Run a command under bench/tree_memory.py: CPU seconds and peak memory of its tree.

    Both sides may keep compiled bytecode, as they do where they are installed.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as report:
        script = shared() / "bench" / "tree_memory.py"
        done = subprocess.run(
            [sys.executable, str(script), report.name, *command],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            capture_output=True,
            text=True,
            check=False,
        )
        figures = json.loads(report.read().splitlines()[-1])
    if figures["rc"] != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return {"cpu_s": figures["cpu_s"], "peak_mb": figures["peak_tree_pss_mb"]}
