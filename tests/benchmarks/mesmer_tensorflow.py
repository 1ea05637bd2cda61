"""Mesmer's SavedModel on TensorFlow 2.18 and the newest, on all installed Pythons.

``python -m tests.benchmarks.mesmer_tensorflow [PYTHON ...]``

Makes an environment for each pair (kept in the cache of the benchmarks), loads the toy
SavedModel with the runtime of codexseg, and compares the maps with those of onnxruntime.
Prints the largest difference of each; 1e-4 is allowed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from codexseg.backends.networks.runtime import open_network
from codexseg.backends.networks.weights import resolve_weights
from tests.benchmarks.common import OURS, ROOT, environment, toy

TENSORFLOW = ("tensorflow-cpu==2.18.*", "tensorflow-cpu")
ALLOWED = 1e-4
SIDE = """
import sys
from pathlib import Path
import numpy as np, tensorflow
from codexseg.backends.networks.runtime import open_network
from codexseg.backends.networks.weights import resolve_weights
network = open_network(resolve_weights(Path(sys.argv[1])), "tensorflow", "cpu")
np.save(sys.argv[3], network.predict(np.load(sys.argv[2])))
print(tensorflow.__version__)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="*", help="default: python3.11, 3.12, 3.13")
    pythons = parser.parse_args().pythons or installed_pythons()
    tiles = np.random.default_rng(0).random((5, 256, 256, 2), np.float32)
    ours = open_network(resolve_weights(toy() / "toy.onnx")).predict(tiles)
    rows = []
    for python in pythons:
        for requirement in TENSORFLOW:
            row = compare(python, requirement, tiles, ours)
            print(row, file=sys.stderr)
            rows.append(row)
    worst = max(row["max_abs_diff"] for row in rows)
    print(json.dumps({"agrees": worst <= ALLOWED, "max_abs_diff": worst, "runs": rows}))


def installed_pythons() -> list[str]:
    """Return the installed interpreters of the supported versions."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    pythons = []
    for version in ("3.11", "3.12", "3.13"):
        names = [shutil.which(f"python{version}")]
        names += sorted(str(p) for p in home.glob(f"{version}.*/bin/python"))
        for name in filter(None, names):
            done = subprocess.run([name, "-c", "import venv"], check=False)
            if done.returncode == 0:
                pythons.append(name)
                break
    return pythons


def compare(
    python: str, requirement: str, tiles: np.ndarray, ours: np.ndarray
) -> dict[str, object]:
    version = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    name = f"tf-{version}-{requirement.partition('==')[2].rstrip('.*') or 'newest'}"
    environment_python = environment(name, [requirement, *OURS], python)
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "tiles.npy", Path(folder) / "maps.npy"
        np.save(given, tiles)
        words = [toy() / "toy_MultiplexSegmentation", given, out]
        done = subprocess.run(
            [environment_python, "-c", SIDE, *words],
            cwd=ROOT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-3000:]}")
        difference = float(np.abs(np.load(out) - ours).max())
    return {
        "python": version,
        "tensorflow": done.stdout.split()[-1],
        "max_abs_diff": difference,
    }


if __name__ == "__main__":
    main()
