"""What the benchmarks share."""

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
"""What codexseg's runtime needs in an environment that has other packages beside it."""

ROOT = Path(__file__).parents[2]

CHEAP = """\
data: {{file_name: "{image}"}}
channels: {{nuclear_channel: DAPI{copy}, wholecell_channel: [MEMBRANE{copy}]}}
patching: {{patch_height: {patch}, patch_width: {patch}, overlap: 0}}
segmentation: {{backend: "tests.benchmarks.cheap_backend:Cheap"}}
"""


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


def environment(
    name: str,
    packages: list[str],
    python: str | Path = sys.executable,
    *,
    first: str | None = None,
) -> Path:
    """Return the Python of an environment of its own, made when it is asked for first.

    `first` is a package to install alone, before those that depend on it.
    """
    folder = cache() / name
    made, whole = folder / "bin" / "python", folder / "whole"
    if whole.exists():
        return made
    shutil.rmtree(folder, ignore_errors=True)  # half of one, of a command that was killed
    subprocess.run([str(python), "-m", "venv", str(folder)], check=True)
    for wanted in ([first] if first else [], packages):
        if wanted:
            subprocess.run([made, "-m", "pip", "install", "-q", *wanted], check=True)
    whole.touch()
    return made


def deepcell_python() -> Path:
    """Return a Python 3.10 that has deepcell; its environment is made where it lacks."""
    from codexseg.backends.deepcell.environment import find_python310, has_deepcell

    found = find_python310()
    if found is None:
        raise SystemExit("this benchmark needs Python 3.10: set CODEXSEG_PYTHON310.")
    if has_deepcell(found):
        return found
    pins = ROOT / "codexseg" / "backends" / "deepcell" / "requirements.txt"
    return environment("deepcell", ["-r", str(pins)], found)


def tensorflow_python() -> Path:
    """Return a Python that has TensorFlow and tf2onnx; made where it lacks."""
    packages = ["tensorflow-cpu>=2.18", "tf2onnx", "onnxruntime", *OURS]
    return environment("tf", packages)


def toy() -> Path:
    """Return the folder of the toy network with Mesmer's contract."""
    return ROOT / "tests" / "data" / "mesmer"


def deepcell_side(folder: Path, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Have tests/benchmarks/deepcell_side.py do a job in deepcell's environment.

    `inputs` are written as .npy files to the folder; what it writes is returned.
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

    `copy` is what the names of the channels end with.
    """
    path = folder / "bench.yaml"
    path.write_text(CHEAP.format(image=image, patch=patch, copy=copy))
    return path


def codexseg_run(config: Path, out: Path, workers: int, *words: str) -> list[str]:
    """Return the command of a run."""
    options = ["--out", str(out), "--workers", str(workers), *words]
    return [sys.executable, "-m", "codexseg", "run", str(config), *options]


def measured(command: list[str]) -> dict[str, float]:
    """Run a command: seconds of CPU and of wall, and peak memory (MiB), of its tree.

    Memory is looked at every 0.1 s. Both sides may keep compiled bytecode, as they do
    where they are installed.
    """
    if sys.platform != "linux":
        raise SystemExit(
            f"this benchmark reads memory from /proc/PID/smaps_rollup, which Linux has "
            f"and {sys.platform} has not: run it on Linux."
        )
    import resource

    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, started, peak = cpu_s(), time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT
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

    What processes share is counted once; mapped file pages are not: they are the disk
    cache's, and go when memory is wanted.
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
            continue  # it has just ended
        total += sum(
            1024 * int(line.split()[1])
            for line in lines
            if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
        )
    return total


def stage_times(run: Path, workers: int) -> dict[str, dict[str, float]]:
    """Read timings.csv: a stage's seconds of wall, of CPU, and of the driver's own CPU.

    A stage's parts count with it, slide passes with segment. With one worker the driver
    does everything; with more, its line lacks what they did, but has passes over a single
    patch, which it does itself (not those of segment).
    """
    with (run / "timings.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    visits = Counter(line["stage"] for line in lines if line["patch"] != "driver")
    times: dict[str, dict[str, float]] = {}
    for line in lines:
        part, cpu_s = line["stage"], float(line["cpu_s"])
        stage = part.partition(".")[0].replace("slide_pass", "segment")
        found = times.setdefault(stage, {"wall_s": 0.0, "cpu_s": 0.0, "driver_cpu_s": 0.0})
        if line["patch"] == "driver":
            found["wall_s"] += float(line["wall_s"])
            found["driver_cpu_s"] += cpu_s
            found["cpu_s"] += cpu_s
        elif workers > 1 and (visits[part] > 1 or part == "segment"):
            found["cpu_s"] += cpu_s
    return {
        stage: {key: round(value, 2) for key, value in found.items()}
        for stage, found in times.items()
    }


def cells_of(run: Path) -> int:
    """Return how many cells a run found."""
    return int(json.loads((run / "manifest.json").read_text("utf-8"))["result"]["cells"])
