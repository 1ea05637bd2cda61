"""Choosing the constants of post-processing on images that were held back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.constants import Constants
from codexseg.backends.panoptic_objects import finished
from codexseg.core.deep_watershed import deep_watershed
from codexseg.core.labels import Labels
from codexseg.core.metrics import Matches, count_matches, object_pairs
from codexseg.core.overlaps import overlaps
from codexseg.errors import InputError

HEIGHTS = (0.0125, 0.025, 0.05, 0.075, 0.1, 0.15)
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SMOOTHINGS_PX = (0.5, 1.0, 1.5, 2.0)
GROWTHS_PX = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
LEAST_PEAKS = (0.0, 0.5, 0.6, 0.65, 0.7, 0.725, 0.75, 0.775, 0.8, 0.825)
LEAST_INTERIORS = (0.0, 0.7, 0.8, 0.85, 0.9, 0.95)
LEAST_OBJECTS = 30
_TRIED: Sequence[dict[str, Sequence[float]]] = (
    {"interior_threshold": THRESHOLDS, "growth_px": GROWTHS_PX},
    {"least_peak": LEAST_PEAKS, "least_interior": LEAST_INTERIORS},
    {"smoothing_px": SMOOTHINGS_PX, "h": HEIGHTS},
)
"""What depends on one another is tried together; the flood's own first."""
_FIRST = Constants(h=0.075, interior_threshold=0.4, smoothing_px=1.0, growth_px=1.5)
_MOST_ROUNDS = 6


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


@dataclass(frozen=True)
class Score:
    """How well objects fit the truth at IoU 0.5, means over the parts of the images.

    Attributes
    ----------
    quality : float
        Panoptic quality (Kirillov et al. 2019): F1 times the mean IoU of what matches.
        F1 alone does not tell outlines that fit from such that barely match.
    f1 : float
    """

    quality: float
    f1: float


def choose_constants(
    held: Sequence[Held], least: int = LEAST_OBJECTS
) -> tuple[Constants, Score]:
    """Search the constants of the highest panoptic quality.

    A few are varied at a time, in all combinations, the others kept, in rounds until a
    round changes nothing.

    Parameters
    ----------
    held : sequence of Held
        Images of one compartment.
    least : int
        Parts with fewer objects do not count.

    Returns
    -------
    constants : Constants
        Those of the highest mean over the parts with enough objects.
    score : Score
        Theirs.

    Raises
    ------
    InputError
        If no constants find anything, or no part has enough objects.
    """
    search = _Search(held, least)
    best, score = _FIRST, search.score(_FIRST)
    for _ in range(_MOST_ROUNDS):
        before = best
        for grid in _TRIED:
            for values in product(*grid.values()):
                changed: dict[str, Any] = dict(zip(grid, values, strict=True))
                tried = replace(best, **changed)
                found = search.score(tried)
                if found.quality > score.quality:
                    best, score = tried, found
        if best == before:
            break
    if score.quality <= 0:
        raise InputError(
            "the network finds none of the objects that were held back, with whatever "
            "constants: expected a trained network and images like those it has learnt "
            "from; look at log.csv, and train longer."
        )
    return best, score


def too_few(least: int) -> InputError:
    """Say that no image that is held back has enough objects."""
    return InputError(
        f"none of the images that are held back has {least} objects or more, expected some "
        f"to choose the constants of post-processing by: hold back more images."
    )


class _Search:
    """Judges constants; what only differs in what follows the flood is flooded once."""

    def __init__(self, held: Sequence[Held], least: int) -> None:
        self._held, self._least = held, least
        self._known: dict[Constants, Score] = {}
        self._flooded: tuple[Constants, list[Labels]] | None = None

    def score(self, constants: Constants) -> Score:
        """Return the means over the parts with enough objects."""
        if constants not in self._known:
            self._known[constants] = self._judge(constants)
        return self._known[constants]

    def _judge(self, constants: Constants) -> Score:
        matches: list[Matches] = []
        for image, flooded in zip(self._held, self._floods(constants), strict=True):
            labels = finished(flooded, (image.distance, image.interior), constants)
            matches += _matches(image, labels, self._least)
        if not matches:
            raise too_few(self._least)
        return Score(
            float(np.mean([one.panoptic_quality for one in matches])),
            float(np.mean([one.f1 for one in matches])),
        )

    def _floods(self, constants: Constants) -> list[Labels]:
        alone = replace(constants, growth_px=0.0, least_peak=0.0, least_interior=0.0)
        if self._flooded is None or self._flooded[0] != alone:
            self._flooded = (
                alone,
                [
                    deep_watershed(image.distance, image.interior, **alone.of_flood)
                    for image in self._held
                ],
            )
        return self._flooded[1]


def _matches(image: Held, labels: Labels, least: int) -> list[Matches]:
    matches = []
    for place, truth in image.truth:
        if len(np.unique(truth)) > least:
            pairs = object_pairs(overlaps(truth, np.ascontiguousarray(labels[place])))
            matches.append(count_matches(pairs, 0.5))
    return matches
