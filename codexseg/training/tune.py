"""Choosing the constants of post-processing on images that were held back."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.constants import Constants
from codexseg.core.deep_watershed import deep_watershed
from codexseg.core.labels import Labels
from codexseg.core.metrics import count_matches, object_pairs
from codexseg.core.overlaps import overlaps
from codexseg.core.watershed import grow_labels
from codexseg.errors import InputError

PEAKS = (0.05, 0.075, 0.1, 0.15)
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)
SMOOTHINGS_PX = (0.5, 1.0, 1.5, 2.0)
GROWTHS_PX = (0.0, 1.0, 1.5, 2.0, 2.5)
LEAST_OBJECTS = 30


@dataclass(frozen=True)
class Held:
    """What a network says of an image, and the truth, of one compartment.

    Attributes
    ----------
    distance, interior : (y, x) float32
        The two maps.
    truth : sequence of (Window slices, labels)
        Parts of the image with their true labels.
    """

    distance: NDArray[np.float32]
    interior: NDArray[np.float32]
    truth: Sequence[tuple[tuple[slice, slice], Labels]]


def choose_constants(
    held: Sequence[Held], least: int = LEAST_OBJECTS
) -> tuple[Constants, float]:
    """Try all constants, and return the best with its F1.

    Parameters
    ----------
    held : sequence of Held
        Images of one compartment.
    least : int
        Parts with fewer objects do not count.

    Returns
    -------
    constants : Constants
        Those of the highest mean F1 at IoU 0.5 over the parts with enough objects.
    f1 : float

    Raises
    ------
    InputError
        If no constants find anything, or no part has enough objects.
    """
    best, score = Constants(h=PEAKS[0]), -1.0
    for smoothing, threshold, h in product(SMOOTHINGS_PX, THRESHOLDS, PEAKS):
        flooded = [_flooded(image, Constants(h, threshold, smoothing)) for image in held]
        for growth in GROWTHS_PX:
            tried = Constants(h, threshold, smoothing, growth_px=growth)
            scores = [
                f1
                for image, labels in zip(held, flooded, strict=True)
                for f1 in _scores(image, grow_labels(labels, growth), least)
            ]
            if not scores:
                raise InputError(
                    f"none of the images that are held back has {least} objects or more, "
                    f"expected some to choose the constants of post-processing by: hold "
                    f"back more images."
                )
            found = float(np.mean(scores))
            if found > score:
                best, score = tried, found
    if score <= 0:
        raise InputError(
            "the network finds none of the objects that were held back, with whatever "
            "constants: expected a trained network and images like those it has learnt "
            "from; look at log.csv, and train longer."
        )
    return best, score


def _flooded(image: Held, constants: Constants) -> Labels:
    return deep_watershed(
        image.distance,
        image.interior,
        h=constants.h,
        interior_threshold=constants.interior_threshold,
        smoothing_px=constants.smoothing_px,
        min_area=constants.min_area,
    )


def _scores(image: Held, labels: Labels, least: int) -> list[float]:
    scores = []
    for place, truth in image.truth:
        if len(np.unique(truth)) > least:
            pairs = object_pairs(overlaps(truth, np.ascontiguousarray(labels[place])))
            scores.append(count_matches(pairs, 0.5).f1)
    return scores
