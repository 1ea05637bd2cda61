"""A slide of more than 2**30 px with little tissue, segmented by the panoptic backend.

``python -m tests.benchmarks.mesmer_sparse [--size 33000] [--workers 2]``

The background repeats every 384 px (least common multiple of the stride of the network and
the blocks of the contrast enhancement), and the same tissue is copied to several places: at
both ends of the slide, and before and after pixel 2**30 and byte 2**31. All places must
have the same objects. Prints the objects of each place, those identical to the first place,
and wall seconds, CPU seconds and peak memory of the run.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from tests.benchmarks.common import bench_image, measured, toy
from tests.benchmarks.pipeline import identical

PERIOD, ISLAND_PX, TILE_PX = 384, 768, 512
LABELS = ("cell", "nucleus", "cell_original", "nucleus_original")
CONFIG = """\
data: {{file_name: slide.ome.tif}}
channels: {{nuclear_channel: DAPI, wholecell_channel: [MEMBRANE]}}
segmentation:
  {{backend: panoptic, model_path: "{network}", save_segmentation_pickle: false}}
export: {{ome_tiff: false, csv: false, h5ad: false}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=33000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    size = options.size
    last = (size - ISLAND_PX) // PERIOD * PERIOD - PERIOD
    middle = last // PERIOD // 2 * PERIOD
    places = [(PERIOD, PERIOD), (PERIOD, last), (middle, middle), (last, last)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slide(folder / "slide.ome.tif", size, places)
        config = folder / "bench.yaml"
        config.write_text(CONFIG.format(network=toy() / "toy.onnx"))
        command = [sys.executable, "-m", "codexseg", "run", str(config)]
        started = time.perf_counter()
        figures = measured([*command, "--workers", str(options.workers)])
        seconds = time.perf_counter() - started
        store = folder / "bench_codexseg" / "segmentation.ome.zarr" / "labels"
        crops = [[crop(store / label, place) for label in LABELS] for place in places]
    objects = [sum(len(np.unique(image)) - 1 for image in images) for images in crops]
    same = [
        sum(identical(a, b) for a, b in zip(images, crops[0], strict=True))
        for images in crops
    ]
    print(
        json.dumps(
            {
                "size": size,
                "pixels_above_2_30": size * size > 2**30,
                "objects_per_place": objects,
                "identical": same,
                "all_identical": set(objects) == set(same) == {objects[0]},
                "wall_s": round(seconds, 1),
                **figures,
            }
        )
    )


def crop(path: Path, place: tuple[int, int]) -> NDArray[np.uint32]:
    """Read the labels around a place."""
    y, x = place
    labels = zarr.open_array(path / "0", mode="r")
    side = ISLAND_PX + 64
    return np.asarray(labels[y - 32 : y - 32 + side, x - 32 : x - 32 + side])


def write_slide(path: Path, size: int, places: list[tuple[int, int]]) -> None:
    bench = tifffile.imread(bench_image(4096), key=[0, 1])
    island = bench[:, 1800 : 1800 + ISLAND_PX, 1200 : 1200 + ISLAND_PX]
    background = bench[:, :PERIOD, :PERIOD]  # without cells
    repeats = TILE_PX // PERIOD + 2

    def tiles() -> Iterator[NDArray[np.uint16]]:
        for channel in (0, 1):
            wide = np.tile(background[channel], (repeats, repeats))
            for y in range(0, size, TILE_PX):
                for x in range(0, size, TILE_PX):
                    dy, dx = y % PERIOD, x % PERIOD
                    tile = wide[dy : dy + TILE_PX, dx : dx + TILE_PX].copy()
                    for place in places:
                        copy_island(tile, (y, x), island[channel], place)
                    yield tile

    tifffile.imwrite(
        path,
        tiles(),
        shape=(2, size, size),
        dtype=np.uint16,
        tile=(TILE_PX, TILE_PX),
        compression="zstd",
        bigtiff=True,
        ome=True,
        photometric="minisblack",
        metadata={
            "axes": "CYX",
            "Channel": {"Name": ["DAPI", "MEMBRANE"]},
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
        },
    )


def copy_island(
    tile: NDArray[np.uint16],
    corner: tuple[int, int],
    island: NDArray[np.uint16],
    place: tuple[int, int],
) -> None:
    """Copy the overlap of an island with a tile into the tile."""
    tile_slices, island_slices = [], []
    for start, at, side in zip(corner, place, island.shape, strict=True):
        low, high = max(start, at), min(start + TILE_PX, at + side)
        if low >= high:
            return
        tile_slices.append(slice(low - start, high - start))
        island_slices.append(slice(low - at, high - at))
    tile[tuple(tile_slices)] = island[tuple(island_slices)]


if __name__ == "__main__":
    main()
