"""Choosing the constants of a trained panoptic network on images that were held back."""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import SlideContext
from codexseg.backends.networks.contract import NETWORK_MPP
from codexseg.backends.panoptic.backend import Panoptic
from codexseg.backends.panoptic.image import MAPS, Image
from codexseg.backends.panoptic.parameters import PostprocessingParams
from codexseg.backends.slide_pass import InMemory
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.core.intensity.histogram import merge_channels
from codexseg.core.labels.operations import Labels
from codexseg.errors import RunStateError
from codexseg.run.files import write_atomic
from codexseg.training.data.examples import Crops
from codexseg.training.data.pair_examples import Pairs
from codexseg.training.data.resize import nearest
from codexseg.training.recipe.sources import Held as Source
from codexseg.training.tuning.search import LEAST_OBJECTS, Held, choose_constants, too_few

log = logging.getLogger(__name__)

SCORES = "scores.json"
MOST_PX = 4096**2
"""So many pixels of the images that are held back are looked at."""

Pixels = NDArray[np.float32]
Part = tuple[tuple[slice, slice], tuple[Labels | None, Labels | None]]


def choose(
    path: Path,
    held: Sequence[Source],
    otherwise: tuple[PostprocessingParams, PostprocessingParams],
    out: Path,
    scales: Sequence[float] = (1.0,),
) -> tuple[PostprocessingParams, PostprocessingParams]:
    """Choose the constants of cells and nuclei; write them, and their scores, to a file.

    Parameters
    ----------
    path : Path
        The ONNX file of the network.
    held : sequence of Crops or Pairs
        Images at 0.5 um per px, with labels.
    otherwise : (PostprocessingParams, PostprocessingParams)
        Those of a compartment that no labels are there for.
    out : Path
        The folder of that file, scores.json.
    scales : sequence of float
        The sizes at which the images are shown: constants that suit large cells alone
        would merge or lose small ones.

    Raises
    ------
    InputError
        If no constants find anything.
    """
    found: tuple[list[Held], list[Held]] = ([], [])
    for (image, parts), scale in product(_images(held), scales):
        maps = _maps(path, image, NETWORK_MPP * scale)
        for c, listed in enumerate(found):
            truth = [(place, both[c]) for place, both in parts]
            known = [(place, labels) for place, labels in truth if labels is not None]
            if known:
                sized = [_sized(*part, image.shape[1:], maps.shape[1:]) for part in known]
                listed.append(Held(maps[2 * c], maps[2 * c + 1], sized))
    least = _least(held)
    chosen, scores = list(otherwise), {}
    with ThreadPoolExecutor() as pool:  # the kernels run without the GIL
        best = pool.map(lambda held: choose_constants(held, least) if held else None, found)
    for c, (name, result) in enumerate(zip(("cell", "nucleus"), best, strict=True)):
        if result is not None:
            chosen[c], score = result
            rounded = {key: round(value, 4) for key, value in asdict(score).items()}
            scores[name] = {**rounded, **asdict(chosen[c])}
            log.info("%s: %s with %s", name, score, chosen[c])
    write_atomic(out / SCORES, json.dumps(scores, indent=2))
    return chosen[0], chosen[1]


def need_objects(held: Sequence[Source]) -> None:
    """Check, before a network is trained, that constants can be chosen afterwards.

    Raises
    ------
    InputError
        If the labels that are held back have too few objects.
    """
    least = _least(held)
    known: set[str] = set()
    enough: set[str] = set()
    for source in held:
        for example in source.every():
            drawn = {"cells": example.cells, "nuclei": example.nuclei}
            here = {name: plane for name, plane in drawn.items() if plane is not None}
            known |= set(here)
            enough |= {name for name in here if len(np.unique(here[name])) > least}
            if set(here) <= enough:  # the other images need not be read
                break
    if known - enough:
        raise too_few(least)


def _least(held: Sequence[Source]) -> int:
    """Say how many objects an image needs to count."""
    # crops of a teacher's labels are many; of a user's images every one counts
    return 1 if any(isinstance(source, Pairs) for source in held) else LEAST_OBJECTS


def _images(held: Sequence[Source]) -> Iterator[tuple[Pixels, list[Part]]]:
    """Yield images (c, y, x), nuclei first, with parts that have labels."""
    pixels = 0
    for source in held:
        if isinstance(source, Crops):
            image, truth = source.region()
            yield image, [(place, (both[0], both[1])) for place, both in truth]
            continue
        for example in source.every():
            if pixels and pixels + example.nucleus.size > MOST_PX:
                return
            pixels += example.nucleus.size
            height, width = example.nucleus.shape
            whole = slice(0, height), slice(0, width)
            image = np.concatenate([example.nucleus[None], example.markers])
            yield image, [(whole, (example.cells, example.nuclei))]


def _sized(
    place: tuple[slice, slice],
    labels: Labels,
    seen: Sequence[int],
    shown: Sequence[int],
) -> tuple[tuple[slice, slice], Labels]:
    """Bring labels of a part of an image to the size at which the image was shown."""
    y, x = (
        slice(round(part.start * new / old), round(part.stop * new / old))
        for part, new, old in zip(place, shown, seen, strict=True)
    )
    return (y, x), nearest(labels, (y.stop - y.start, x.stop - x.start))


def _maps(path: Path, image: Pixels, mpp: float) -> Pixels:
    """Have the backend make the four maps of an image, at its own scale."""
    merged = np.zeros_like(image[0])
    if len(image) > 1:  # as a run merges them
        brightest = [channel_statistics(marker)[-1] for marker in image[1:]]
        merged = merge_channels(list(image[1:]), brightest)
    both = np.stack([image[0], merged])
    config = SegmentationConfig(backend="panoptic", model_path=path)
    network = Panoptic(config, SlideContext((both.shape[1], both.shape[2]), mpp))
    view = InMemory(both, network.slide_passes)
    shown = Image.of(view.shape, mpp)
    maps = shown.maps(Window(0, 0, *shown.shape), MAPS, view)
    if maps is None:
        raise RunStateError("the network gives no maps of the images that were held back.")
    return maps
