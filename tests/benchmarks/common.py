"""Shared functions of the benchmarks: images, environments, measured commands."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OURS = ["numba", "pydantic", "platformdirs", "pyyaml", "requests", "scipy", "tqdm"]
"""Packages that codexseg needs in an environment of another package."""

ROOT = Path(__file__).parents[2]

CHEAP = """\
data: {{file_name: "{image}"}}
channels: {{nuclear_channel: DAPI{copy}, wholecell_channel: [MEMBRANE{copy}]}}
patching: {{patch_height: {patch}, patch_width: {patch}, overlap: 0}}
segmentation: {{backend: "tests.benchmarks.cheap_backend:Cheap"}}
"""


def shared() -> Path:
    """Return the folder of shared data; exit without one."""
    folder = Path(os.environ.get("CODEXSEG_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        raise SystemExit(
            f"Shared data not found in {folder}. "
            f"Set CODEXSEG_SHARED to the folder that contains data/."
        )
    return folder


def cache() -> Path:
    """Return the folder where benchmarks keep images, environments and networks."""
    folder = Path(tempfile.gettempdir()) / "codexseg_benchmarks"
    folder.mkdir(exist_ok=True)
    return folder


def bench_image(size: int) -> Path:
    """Return the image of bench/make_image.py; make it on first use."""
    path = cache() / f"syn_{size}.ome.tif"
    if not path.exists():
        script = shared() / "bench" / "make_image.py"
        subprocess.run(
            [sys.executable, script, str(size), str(cache())],
            check=True,
            capture_output=True,
        )
    return path


def environment(
    name: str,
    packages: list[str],
    python: str | Path = sys.executable,
    *,
    first: str | None = None,
) -> Path:
    """Return the Python of a separate environment; make it on first use.

    Parameters
    ----------
    first : str, optional
        Package to install alone, before those that depend on it.
    """
    folder = cache() / name
    python_path, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return python_path
    shutil.rmtree(folder, ignore_errors=True)  # incomplete, from a killed command
    subprocess.run([str(python), "-m", "venv", str(folder)], check=True)
    for names in ([first] if first else [], packages):
        if names:
            command = [python_path, "-m", "pip", "install", "-q", *names]
            subprocess.run(command, check=True)
    complete.touch()
    return python_path


def deepcell_python() -> Path:
    """Return a Python 3.10 with deepcell; make its environment on first use."""
    from codexseg.backends.deepcell.environment import find_python310, has_deepcell

    python = find_python310()
    if python is None:
        raise SystemExit("Python 3.10 not found. Set CODEXSEG_PYTHON310.")
    if has_deepcell(python):
        return python
    pins = ROOT / "codexseg" / "backends" / "deepcell" / "requirements.txt"
    return environment("deepcell", ["-r", str(pins)], python)


def tensorflow_python() -> Path:
    """Return a Python with TensorFlow and tf2onnx; make its environment on first use."""
    packages = ["tensorflow-cpu>=2.18", "tf2onnx", "onnxruntime", *OURS]
    return environment("tf", packages)


def toy() -> Path:
    """Return the folder of the toy network, which has Mesmer's inputs and outputs."""
    return ROOT / "tests" / "data" / "mesmer"


def deepcell_side(folder: Path, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Run tests/benchmarks/deepcell_side.py in the environment of deepcell.

    Inputs are passed as .npy files in the folder. Returns the arrays that it writes.
    """
    for name, array in inputs.items():
        np.save(folder / f"{name}.npy", array)
    script = Path(__file__).with_name("deepcell_side.py")
    done = subprocess.run(
        [deepcell_python(), script, folder, toy() / "toy_MultiplexSegmentation"],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"deepcell_side.py failed:\n{done.stderr[-3000:]}")
    return {path.stem.removeprefix("out_"): np.load(path) for path in folder.glob("out_*")}


def cheap_config(folder: Path, image: Path, patch: int = 2048, copy: str = "") -> Path:
    """Write the configuration of a run with the cheap segmenter and all default outputs.

    `copy` is a suffix of the channel names.
    """
    path = folder / "bench.yaml"
    path.write_text(CHEAP.format(image=image, patch=patch, copy=copy))
    return path


def codexseg_run(config: Path, out: Path, workers: int, *words: str) -> list[str]:
    """Return the command of a run."""
    options = ["--out", str(out), "--workers", str(workers), *words]
    return [sys.executable, "-m", "codexseg", "run", str(config), *options]


def measured(command: list[str], root: Path = ROOT) -> dict[str, float]:
    """Run a command in a checkout; return CPU and wall seconds and peak memory (MiB).

    The figures include child processes. Memory is sampled every 0.1 s. Bytecode is cached,
    as in an installed package.
    """
    if sys.platform != "linux":
        raise SystemExit(
            f"Memory is read from /proc/PID/smaps_rollup, which {sys.platform} lacks. "
            f"Run this benchmark on Linux."
        )
    import resource

    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, started, peak = cpu_s(), time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=root, env=env, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.1)
        wall_s = time.perf_counter() - started
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{output.read()}")
    return {
        "cpu_s": round(cpu_s() - before, 2),
        "wall_s": round(wall_s, 1),
        "peak_mb": round(peak / 2**20, 1),
    }


def tree_bytes(pid: int) -> int:
    """Return the anonymous and shared memory of a process and its descendants.

    Shared pages are counted once. Mapped file pages are not counted: they belong to the
    disk cache, and the system frees them on demand.
    """
    import psutil

    total = 0
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    for number in (pid, *(child.pid for child in children)):
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended
        total += sum(
            1024 * int(line.split()[1])
            for line in lines
            if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
        )
    return total


def stage_times(run: Path, workers: int) -> dict[str, dict[str, float]]:
    """Read timings.csv: wall, CPU and driver CPU seconds of each stage.

    Parts of a stage count with it, slide passes with segment. With one worker, the driver
    does all work. With several, the line of the driver does not include the work of the
    workers, but it includes passes over a single patch (except in segment), which the
    driver does itself.
    """
    with (run / "timings.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    visits = Counter(line["stage"] for line in lines if line["patch"] != "driver")
    times: dict[str, dict[str, float]] = {}
    for line in lines:
        part, cpu_s = line["stage"], float(line["cpu_s"])
        stage = part.partition(".")[0].replace("slide_pass", "segment")
        total = times.setdefault(stage, {"wall_s": 0.0, "cpu_s": 0.0, "driver_cpu_s": 0.0})
        if line["patch"] == "driver":
            total["wall_s"] += float(line["wall_s"])
            total["driver_cpu_s"] += cpu_s
            total["cpu_s"] += cpu_s
        elif workers > 1 and (visits[part] > 1 or part == "segment"):
            total["cpu_s"] += cpu_s
    return {
        stage: {key: round(value, 2) for key, value in total.items()}
        for stage, total in times.items()
    }


def cells_of(run: Path) -> int:
    """Return how many cells a run found."""
    return int(json.loads((run / "manifest.json").read_text("utf-8"))["result"]["cells"])
