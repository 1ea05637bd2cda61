"""Independence of the patch grid: one slide on four grids, by one and two workers.

``python -m tests.benchmarks.mesmer_tiling [--mpp 0.5]``

A slide of 3000 x 2600 px with an empty and a sparse region, segmented by the panoptic
backend with the toy network. Prints the number of objects in all four label images of the
untiled run, and the smallest fraction of them that another run has with the same pixels.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from tests.benchmarks.common import ROOT, bench_image, toy
from tests.benchmarks.pipeline import identical

SHAPE = (3000, 2600)
LABELS = ("cell", "nucleus", "cell_original", "nucleus_original")
CONFIG = """\
data: {{file_name: slide.ome.tif}}
channels: {{nuclear_channel: DAPI, wholecell_channel: [MEMBRANE]}}
patching: {{{patching}, overlap: 0}}
segmentation:
  {{backend: panoptic, model_path: "{network}", save_segmentation_pickle: false}}
export: {{ome_tiff: false, csv: false, h5ad: false}}
report: {{overlays: 0}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mpp", type=float, default=0.5)
    mpp = parser.parse_args().mpp
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slide(folder / "slide.ome.tif", mpp)
        reference = run(folder, "split_mode: full_image", 1)
        fractions = []
        for size in (512, 700, 1024):
            for workers in (1, 2):
                patching = f"patch_height: {size}, patch_width: {size}"
                labels = run(folder, patching, workers)
                same = sum(identical(labels[k], reference[k]) for k in LABELS)
                objects = sum(count(reference[k]) for k in LABELS)
                extra = sum(count(labels[k]) for k in LABELS) - objects
                numbers = all(np.array_equal(labels[k], reference[k]) for k in LABELS)
                fractions.append((same - max(0, extra)) / objects)
                print(patching, workers, same, objects, numbers, file=sys.stderr)
        run_two = run(folder, "split_mode: full_image", 2)
        same_two = all(np.array_equal(run_two[k], reference[k]) for k in LABELS)
    print(
        json.dumps(
            {
                "objects": objects,
                "identical_fraction": min([*fractions, float(same_two)]),
                "runs": len(fractions) + 2,
            }
        )
    )


def count(labels: NDArray[np.uint32]) -> int:
    return len(np.unique(labels)) - 1


def write_slide(path: Path, mpp: float) -> None:
    """Crop the slide from the bench image, with an empty and a sparse region."""
    image = tifffile.imread(bench_image(4096), key=[0, 1])[:, 600:3600, 400:3000]
    background = tifffile.imread(bench_image(4096), key=[0, 1])[:, :600, :700]
    image = image.copy()
    image[:, 200:800, 1500:2200] = background  # empty
    sparse = image[:, 1800:2400, 300:1000]
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.random((10, 10)) < 0.8, np.ones((60, 70), bool))
    sparse[:, blocks] = background[:, blocks]
    tifffile.imwrite(
        path,
        image,
        ome=True,
        tile=(512, 512),
        photometric="minisblack",
        metadata={
            "axes": "CYX",
            "Channel": {"Name": ["DAPI", "MEMBRANE"]},
            "PhysicalSizeX": mpp,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": mpp,
            "PhysicalSizeYUnit": "µm",
        },
    )


def run(folder: Path, patching: str, workers: int) -> dict[str, NDArray[np.uint32]]:
    config, out = folder / "my.yaml", folder / f"run{len(list(folder.iterdir()))}"
    config.write_text(CONFIG.format(patching=patching, network=toy() / "toy.onnx"))
    command = [sys.executable, "-m", "codexseg", "run", str(config), "--out", str(out)]
    done = subprocess.run(
        [*command, "--workers", str(workers), "--until", "repair"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    store = out / "segmentation.ome.zarr" / "labels"
    return {k: np.asarray(zarr.open_array(store / k / "0", mode="r")) for k in LABELS}


if __name__ == "__main__":
    main()
