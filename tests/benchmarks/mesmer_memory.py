"""Peak memory of a run with Mesmer's computation, above that of the loaded model.

``python -m tests.benchmarks.mesmer_memory --size 8192 [--network full]``

Peaks are anonymous and shared memory of the process tree; mapped file pages do not count.
The peak of the model is that of a process that loads it and predicts one batch. ``--network
full`` uses a network of the size of Mesmer instead of the toy.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.common import bench_image, measured, toy
from tests.benchmarks.mesmer_runtime import full_network

CONFIG = """\
data: {{file_name: "{image}"}}
channels: {{nuclear_channel: DAPI, wholecell_channel: [MEMBRANE]}}
segmentation: {{backend: panoptic, model_path: "{network}"}}
"""
MODEL = """
import sys, time
from pathlib import Path
import numpy as np
from codexseg.execution.process import prepare_process
from codexseg.backends.networks.runtime import Batch, open_network
from codexseg.backends.networks.weights import resolve_weights
prepare_process()
network = open_network(resolve_weights(Path(sys.argv[1])))
network.predict(np.zeros((Batch(0.5).size, 256, 256, 2), np.float32))
time.sleep(2)  # long enough for a sample of the memory
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--network", choices=["toy", "full"], default="toy")
    options = parser.parse_args()
    network = toy() / "toy.onnx" if options.network == "toy" else full_network()[1]
    model = measured([sys.executable, "-c", MODEL, str(network)])
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "bench.yaml"
        config.write_text(CONFIG.format(image=bench_image(options.size), network=network))
        run = measured([sys.executable, "-m", "codexseg", "run", str(config)])
    print(
        json.dumps(
            {
                "peak_mb": run["peak_mb"],
                "model_mb": model["peak_mb"],
                "above_model_mb": round(run["peak_mb"] - model["peak_mb"], 1),
                "cpu_s": run["cpu_s"],
                "size": options.size,
            }
        )
    )


if __name__ == "__main__":
    main()
