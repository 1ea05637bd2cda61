"""Measuring the cells of a slide of 20 channels, compared with scikit-image.

``python -m tests.benchmarks.profile --size 4096 --channels 20``

Means of all channels in cell, nucleus and cytoplasm, and morphology without solidity. The
slide repeats the channels of bench/make_image.py, in uncompressed tiles of 512 px; the
cells are those of the cheap segmenter.

cpu_s is the CPU of the stage profile of ``codexseg run --force profile`` with one worker:
reading labels and pixels (from the disk cache), measuring and writing tables, with the
imports and compiled kernels that it loads first. command_cpu_s is the CPU of the whole
command. Both are medians of three. regionprops_cpu_s is one regionprops_table of cells,
nuclei and cytoplasms, with reading, after scikit-image is imported. max_rel_diff is the
largest relative difference between the means of the two.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import zarr
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from codexseg.artifacts.columns import intensity_column
from tests.benchmarks.common import (
    bench_image,
    cache,
    cells_of,
    cheap_config,
    codexseg_run,
    measured,
    stage_times,
)

NAMES = ("DAPI", "MEMBRANE", "CD3", "PANCK")
TILE_PX = 512
ROUNDS = 3
MORPHOLOGY = (
    "area",
    "centroid",
    "bbox",
    "eccentricity",
    "axis_major_length",
    "axis_minor_length",
    "orientation",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=20)
    options = parser.parse_args()
    names = [f"{NAMES[i % 4]}-{i // 4 + 1}" for i in range(options.channels)]
    image = many_channels(options.size, names)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run"
        figures = ours(cheap_config(folder, image, copy="-1"), run)
        cells = cells_of(run)
        start = time.process_time()
        peer = theirs(image, run)
        regionprops_cpu_s = time.process_time() - start
        difference = largest_difference(pd.read_parquet(run / "cells.parquet"), peer, names)
    result = {
        **figures,
        "regionprops_cpu_s": round(regionprops_cpu_s, 2),
        "ratio": round(regionprops_cpu_s / figures["cpu_s"], 1),
        "cells": cells,
        "max_rel_diff": difference,
    }
    print(json.dumps(result))


def many_channels(size: int, names: list[str]) -> Path:
    """Return a slide that repeats the channels of bench_image; make it on first use."""
    path = cache() / f"syn_{size}x{len(names)}.ome.tif"
    if path.exists():
        return path
    source = bench_image(size)

    def tiles() -> Iterator[NDArray[np.uint16]]:
        for number in range(len(names)):
            channel = tifffile.imread(source, key=number % len(NAMES))
            for y in range(0, size, TILE_PX):
                for x in range(0, size, TILE_PX):
                    yield channel[y : y + TILE_PX, x : x + TILE_PX]

    part = path.with_name(f"part-{path.name}")
    tifffile.imwrite(
        part,
        tiles(),
        shape=(len(names), size, size),
        dtype=np.uint16,
        tile=(TILE_PX, TILE_PX),
        photometric="minisblack",
        bigtiff=True,
        ome=True,
        metadata={
            "axes": "CYX",
            "Channel": {"Name": names},
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
        },
    )
    return part.replace(path)


def ours(config: Path, run: Path) -> dict[str, float]:
    """Measure the stage profile of a run that has its labels; end with all outputs."""
    measured(codexseg_run(config, run, 1, "--until", "repair"))
    measured(codexseg_run(config, run, 1, "--until", "profile"))
    stage, command = [], []
    for _ in range(ROUNDS):
        (run / "timings.csv").unlink()
        again = codexseg_run(config, run, 1, "--force", "profile", "--until", "profile")
        command.append(measured(again)["cpu_s"])
        stage.append(stage_times(run, 1)["profile"]["cpu_s"])
    measured(codexseg_run(config, run, 1, "--until", "export"))
    return {
        "cpu_s": statistics.median(stage),
        "command_cpu_s": statistics.median(command),
    }


def theirs(image: Path, run: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Measure the same with scikit-image."""
    labels = zarr.open_group(run / "segmentation.ome.zarr/labels", mode="r")
    cells, nuclei = (np.asarray(labels[f"{name}/0"]) for name in ("cell", "nucleus"))
    cytoplasms = np.where(nuclei == cells, 0, cells)
    # regionprops is faster on contiguous pixels with channels last than on a view
    pixels = np.ascontiguousarray(np.moveaxis(tifffile.imread(image), 0, -1))
    means = ("label", "intensity_mean")
    return {
        "cell": regionprops_table(cells, pixels, (*means, *MORPHOLOGY)),
        "nucleus": regionprops_table(nuclei, pixels, means),
        "cytoplasm": regionprops_table(cytoplasms, pixels, means),
    }


def largest_difference(
    table: pd.DataFrame, peer: dict[str, dict[str, NDArray[Any]]], names: list[str]
) -> float:
    """Return the largest relative difference between the means of codexseg and the peer."""
    table, differences = table.set_index("cell_id"), []
    for compartment, columns in peer.items():
        rows = table.loc[columns["label"]]
        for number, name in enumerate(names):
            own = rows[intensity_column(name, compartment)].to_numpy(np.float64)
            mean = columns[f"intensity_mean-{number}"]
            differences.append(np.max(np.abs(own - mean) / mean))
    return float(np.max(differences))


if __name__ == "__main__":
    main()
