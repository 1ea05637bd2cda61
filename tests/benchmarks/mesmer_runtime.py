"""CPU seconds per tile of onnxruntime and TensorFlow, with a network of Mesmer's size.

``python -m tests.benchmarks.mesmer_runtime [--tiles 12]``

The network is the PanopticNet of deepcell with the architecture of Mesmer (resnet50, four
heads) and random weights. It is built in the environment of deepcell, converted in that of
TensorFlow, and kept in the cache of the benchmarks. Two threads, batches of four tiles,
without the first batch.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.common import ROOT, cache, deepcell_python, tensorflow_python

BUILD = """
import sys
import numpy as np
from deepcell.model_zoo.panopticnet import PanopticNet
np.random.seed(0)
model = PanopticNet(
    "resnet50", input_shape=(256, 256, 2), norm_method=None, num_semantic_heads=4,
    num_semantic_classes=[1, 3, 1, 3], location=True, include_top=True, use_imagenet=False,
)
model.save(sys.argv[1], save_format="tf")
"""
TIME = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from codexseg.backends.networks.runtime import open_network
from codexseg.backends.networks.weights import resolve_weights
network = open_network(resolve_weights(Path(sys.argv[1])), sys.argv[2])
tiles = np.random.default_rng(0).random((4, 256, 256, 2), np.float32)
maps = network.predict(tiles)
batches = int(sys.argv[3]) // 4
started = time.process_time()
for _ in range(batches):
    network.predict(tiles)
seconds = (time.process_time() - started) / (4 * batches)
np.save(sys.argv[4], maps)
print(json.dumps({"s": seconds}))
"""


def main() -> None:
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=12)
    tiles = str(parser.parse_args().tiles)
    saved_model, onnx = full_network()
    maps = {}
    figures: dict[str, object] = {}
    for name, python, path in (
        ("onnxruntime", Path(sys.executable), onnx),
        ("tensorflow", tensorflow_python(), saved_model),
    ):
        out = cache() / f"maps_{name}.npy"
        command = [python, "-c", TIME, str(path), name, tiles, str(out)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        figures[name] = round(json.loads(done.stdout.splitlines()[-1])["s"], 3)
        maps[name] = np.load(out)
    difference = np.abs(maps["onnxruntime"] - maps["tensorflow"]).max()
    print(json.dumps({**figures, "max_abs_diff": float(difference), "unit": "CPU s/tile"}))


def full_network() -> tuple[Path, Path]:
    """Return a network of the size of Mesmer, as SavedModel and as ONNX file."""
    folder = cache() / "full"
    saved_model, onnx = folder / "MultiplexSegmentation", folder / "full.onnx"
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if not (saved_model / "saved_model.pb").exists():
        shutil.rmtree(saved_model, ignore_errors=True)
        subprocess.run([deepcell_python(), "-c", BUILD, saved_model], check=True, env=quiet)
    if not onnx.exists():
        command = ["codexseg", "models", "convert", str(saved_model), "--out", str(onnx)]
        command += ["--python", str(tensorflow_python())]
        subprocess.run([sys.executable, "-m", *command], check=True, cwd=ROOT, env=quiet)
    return saved_model, onnx


if __name__ == "__main__":
    main()
