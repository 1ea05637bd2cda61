"""Tuning of the post-processing of a panoptic network on validation images."""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np

from codexseg.arrays import Float32, Labels
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
from codexseg.errors import RunStateError
from codexseg.run.files import write_atomic
from codexseg.training.data.examples import Crops, LabelledWindow
from codexseg.training.data.pair_examples import Pairs
from codexseg.training.data.resize import resize_labels
from codexseg.training.recipe.sources import ValidationSource
from codexseg.training.tuning.search import (
    MIN_OBJECTS,
    ValidationImage,
    search_parameters,
    too_few_objects,
)

log = logging.getLogger(__name__)

SCORES = "scores.json"
MAX_PX = 4096**2
"""Limit of the total size of the validation images that are used."""


def tune_panoptic(
    path: Path,
    validation: Sequence[ValidationSource],
    default: tuple[PostprocessingParams, PostprocessingParams],
    out: Path,
    scales: Sequence[float] = (1.0,),
) -> tuple[PostprocessingParams, PostprocessingParams]:
    """Tune the parameters of cells and nuclei; write them and their scores to a file.

    Parameters
    ----------
    path : Path
        ONNX file of the network.
    validation : sequence of Crops or Pairs
        Images at 0.5 um per px, with labels.
    default : (PostprocessingParams, PostprocessingParams)
        Parameters of a compartment without labels.
    out : Path
        Folder of the file, scores.json.
    scales : sequence of float
        Magnifications of the images: parameters tuned on large cells alone merge or lose
        small ones.

    Returns
    -------
    (PostprocessingParams, PostprocessingParams)
        Of cells and nuclei.

    Raises
    ------
    InputError
        If no parameters detect any true object.
    """
    images: tuple[list[ValidationImage], list[ValidationImage]] = ([], [])
    for (image, windows), scale in product(_images(validation), scales):
        maps = _maps(path, image, NETWORK_MPP * scale)
        sizes = image.shape[1:], maps.shape[1:]
        for c, compartment in enumerate(images):
            labels = [(window, planes[c]) for window, planes in windows]
            truth = [_rescale(w, plane, *sizes) for w, plane in labels if plane is not None]
            if truth:
                compartment.append(ValidationImage(maps[2 * c], maps[2 * c + 1], truth))
    min_objects = _min_objects(validation)
    tuned, scores = list(default), {}
    with ThreadPoolExecutor() as pool:  # the kernels release the GIL
        results = pool.map(
            lambda images: search_parameters(images, min_objects) if images else None,
            images,
        )
    for c, (name, result) in enumerate(zip(("cell", "nucleus"), results, strict=True)):
        if result is not None:
            tuned[c], score = result
            rounded = {key: round(value, 4) for key, value in asdict(score).items()}
            scores[name] = {**rounded, **asdict(tuned[c])}
            log.info("%s: %s with %s", name, score, tuned[c])
    write_atomic(out / SCORES, json.dumps(scores, indent=2))
    return tuned[0], tuned[1]


def require_objects(validation: Sequence[ValidationSource]) -> None:
    """Check, before training, that parameters can be tuned afterwards.

    Raises
    ------
    InputError
        If a compartment has labels, but no validation image with enough objects.
    """
    min_objects = _min_objects(validation)
    known: set[int] = set()
    enough: set[int] = set()
    for source in validation:
        for example in source.every():
            here = {c: plane for c, plane in enumerate(example.labels) if plane is not None}
            known |= set(here)
            enough |= {
                c for c, plane in here.items() if len(np.unique(plane)) > min_objects
            }
            if set(here) <= enough:  # no need to read the remaining images
                break
    if known - enough:
        raise too_few_objects(min_objects)


def _min_objects(validation: Sequence[ValidationSource]) -> int:
    """Return the minimum number of objects of an image that is used."""
    # a teacher labels many crops, a user few images, so all of the latter are used
    is_user = any(isinstance(source, Pairs) for source in validation)
    return 1 if is_user else MIN_OBJECTS


def _images(
    validation: Sequence[ValidationSource],
) -> Iterator[tuple[Float32, list[LabelledWindow]]]:
    """Yield images (c, y, x), nuclei first, with their labelled windows."""
    pixels = 0
    for source in validation:
        if isinstance(source, Crops):
            yield source.region()
            continue
        for example in source.every():
            if pixels and pixels + example.nucleus.size > MAX_PX:
                return
            pixels += example.nucleus.size
            height, width = example.nucleus.shape
            whole = slice(0, height), slice(0, width)
            image = np.concatenate([example.nucleus[None], example.markers])
            yield image, [(whole, example.labels)]


def _rescale(
    window: tuple[slice, slice],
    labels: Labels,
    size: Sequence[int],
    scaled: Sequence[int],
) -> tuple[tuple[slice, slice], Labels]:
    """Resize a labelled window from the size of the image to that of the maps."""
    y, x = (
        slice(round(side.start * new / old), round(side.stop * new / old))
        for side, new, old in zip(window, scaled, size, strict=True)
    )
    return (y, x), resize_labels(labels, (y.stop - y.start, x.stop - x.start))


def _maps(path: Path, image: Float32, mpp: float) -> Float32:
    """Return the four maps of an image, at the scale of the backend."""
    merged = np.zeros_like(image[0])
    if len(image) > 1:  # merged as in a run
        brightest = [channel_statistics(marker)[-1] for marker in image[1:]]
        merged = merge_channels(list(image[1:]), brightest)
    pixels = np.stack([image[0], merged])
    config = SegmentationConfig(backend="panoptic", model_path=path)
    network = Panoptic(config, SlideContext((pixels.shape[1], pixels.shape[2]), mpp))
    view = InMemory(pixels, network.slide_passes)
    resized = Image.of(view.shape, mpp)
    maps = resized.maps(Window(0, 0, *resized.shape), MAPS, view)
    if maps is None:
        raise RunStateError("The network returns no maps for a validation image.")
    return maps
