"""The mesmer backend compared with deepcell 0.12.10, with the toy network.

``python -m tests.benchmarks.mesmer_parity [--oracle]``

deepcell runs in a separate environment; ``--oracle`` uses its stored results instead.
Prints whether preprocessing is equal bit by bit, the largest difference of the maps, and
for 0.5 and 0.377 um per px the objects of both compartments, those with exactly the same
pixels, and the pixels that are foreground in one result only. objects_identical_float16
counts the objects that would stay the same with maps in float16 instead of float32.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import SlideContext
from codexseg.backends.panoptic.backend import Panoptic
from codexseg.backends.panoptic.image import MAPS, Image
from codexseg.backends.slide_pass import InMemory
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from tests.benchmarks.common import deepcell_side, shared, toy
from tests.benchmarks.mesmer_postprocess import postprocess
from tests.benchmarks.pipeline import identical

MPP = (0.5, 0.377)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oracle", action="store_true")
    contract = np.load(shared() / "oracles" / "mesmer" / "toy_contract.npz")
    image = contract["img"][0]
    if parser.parse_args().oracle:
        outputs = np.load(shared() / "oracles" / "mesmer" / "toy_outputs.npz")
        maps = [outputs[name][0, ..., 0] for name in ("wc0", "wc1", "n0", "n1")]
        theirs = {
            "preprocessed": contract["pre"][0],
            "maps": np.stack(maps),
            "labels_0.5": contract["both"][0],
            "labels_0.377": contract["both377"][0],
        }
    else:
        with tempfile.TemporaryDirectory() as folder:
            theirs = deepcell_side(Path(folder), image=image, mpp=np.array(MPP))
    print(json.dumps(compare(np.moveaxis(image, -1, 0), theirs)))


def compare(
    image: NDArray[np.float32], theirs: dict[str, NDArray[Any]]
) -> dict[str, object]:
    """Segment the image, and return the differences from deepcell."""
    whole = Window(0, 0, *image.shape[1:])
    view = InMemory(image)
    for slide_pass in panoptic(image, 0.5).slide_passes:
        view.execute(slide_pass)
    seen = Image.of(view.shape, 0.5)
    preprocessed = np.moveaxis(seen.preprocessed(whole, view), 0, -1)
    maps = seen.maps(whole, MAPS, view)
    figures: dict[str, object] = {
        "preprocess_equal": bool(np.array_equal(preprocessed, theirs["preprocessed"])),
        "maps_max_abs_diff": float(np.abs(maps - theirs["maps"]).max()),
    }
    halves = maps.astype(np.float16).astype(np.float32)
    whole_maps, half_maps = (postprocess(m, "raster") for m in (maps, halves))
    pairs = list(zip(half_maps, whole_maps, strict=True))
    figures["objects_identical_float16"] = sum(identical(h, w) for h, w in pairs)
    for mpp in MPP:
        labels = panoptic(image, mpp).predict(image[None], [whole])[0]
        reference = np.moveaxis(theirs[f"labels_{mpp}"], -1, 0)
        suffix = "" if mpp == MPP[0] else f"_{mpp}"
        pairs = list(zip(labels, reference, strict=True))
        figures |= {
            f"objects{suffix}": sum(len(np.unique(r)) - 1 for _, r in pairs),
            f"objects_found{suffix}": sum(len(np.unique(o)) - 1 for o, _ in pairs),
            f"objects_identical{suffix}": sum(identical(o, r) for o, r in pairs),
            f"fg_px_differing{suffix}": int(((labels > 0) != (reference > 0)).sum()),
        }
    return figures


def panoptic(image: NDArray[np.float32], mpp: float) -> Panoptic:
    config = SegmentationConfig(backend="panoptic", model_path=toy() / "toy.onnx")
    return Panoptic(config, SlideContext(image.shape[1:], mpp))


if __name__ == "__main__":
    main()
