"""Choosing the constants of post-processing on images that were held back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.panoptic.parameters import PostprocessingParams
from codexseg.backends.panoptic.postprocessing import postprocess
from codexseg.core.algorithms.deep_watershed import deep_watershed
from codexseg.core.labels.operations import Labels
from codexseg.core.labels.overlaps import overlaps
from codexseg.core.metrics.objects import Matches, count_matches, object_pairs
from codexseg.errors import InputError

HEIGHTS = (0.0125, 0.025, 0.05, 0.075, 0.1, 0.15)
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SMOOTHINGS_PX = (0.5, 1.0, 1.5, 2.0)
GROWTHS_PX = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0)
LEAST_MEANS = (0.0, 0.5, 0.55, 0.6, 0.625, 0.65, 0.675, 0.7, 0.725, 0.75, 0.8)
LEAST_PEAKS = (0.0, 0.6, 0.7, 0.75, 0.8)
LEAST_OBJECTS = 30
_FIRST = PostprocessingParams(
    h=0.075, interior_threshold=0.4, smoothing_px=1.0, expansion_px=1.5
)
_COARSE: dict[str, Sequence[float]] = {
    "expansion_px": GROWTHS_PX,
    "min_mean_interior": (0.0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8),
}
_FINE: Sequence[dict[str, Sequence[float]]] = (
    {"smoothing_px": SMOOTHINGS_PX, "h": HEIGHTS},
    {"expansion_px": GROWTHS_PX, "min_mean_interior": LEAST_MEANS},
    {"min_peak": LEAST_PEAKS},
)
"""What depends on one another is tried together."""
_PROMISING = 3
_MOST_ROUNDS = 4


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

    @property
    def both(self) -> float:
        """What constants are chosen by; quality alone gives objects for fine outlines."""
        return (self.quality + self.f1) / 2


def choose_constants(
    held: Sequence[Held], least: int = LEAST_OBJECTS
) -> tuple[PostprocessingParams, Score]:
    """Search the constants of the highest mean of panoptic quality and F1.

    The others depend on the threshold of the interior: with a higher one objects are
    smaller, and the network is surer of what is left of them. So they are sought for the
    three thresholds that promise most: a few at a time, in all combinations, in rounds
    until a round changes nothing.

    Parameters
    ----------
    held : sequence of Held
        Images of one compartment.
    least : int
        Parts with fewer objects do not count.

    Returns
    -------
    constants : PostprocessingParams
        Those of the highest mean over the parts with enough objects.
    score : Score
        Theirs.

    Raises
    ------
    InputError
        If no constants find anything, or no part has enough objects.
    """
    search = _Search(held, least)
    coarse = [
        search.best(replace(_FIRST, interior_threshold=level), _COARSE)
        for level in THRESHOLDS
    ]
    promising = sorted(coarse, key=search.merit, reverse=True)[:_PROMISING]
    best = max(map(search.refined, promising), key=search.merit)
    score = search.score(best)
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
        self._held = [_with_enough(image, least) for image in held]
        self._least = least
        self._known: dict[PostprocessingParams, Score] = {}
        self._flooded: tuple[PostprocessingParams, list[Labels]] | None = None

    def refined(self, constants: PostprocessingParams) -> PostprocessingParams:
        """Return better constants of the same threshold, as far as there are any."""
        for _ in range(_MOST_ROUNDS):
            before = constants
            for grid in _FINE:
                constants = self.best(constants, grid)
            if constants == before:
                break
        return constants

    def best(
        self, constants: PostprocessingParams, grid: dict[str, Sequence[float]]
    ) -> PostprocessingParams:
        """Return the best of all combinations, or what is given where none is better."""
        tried = [constants]
        for values in product(*grid.values()):
            changed: dict[str, Any] = dict(zip(grid, values, strict=True))
            tried.append(replace(constants, **changed))
        return max(tried, key=self.merit)

    def merit(self, constants: PostprocessingParams) -> float:
        """Say how good they are, in one number."""
        return self.score(constants).both

    def score(self, constants: PostprocessingParams) -> Score:
        """Return the means over the parts with enough objects."""
        if constants not in self._known:
            self._known[constants] = self._judge(constants)
        return self._known[constants]

    def _judge(self, constants: PostprocessingParams) -> Score:
        matches: list[Matches] = []
        for image, flooded in zip(self._held, self._floods(constants), strict=True):
            labels = postprocess(flooded, (image.distance, image.interior), constants)
            matches += _matches(image, labels)
        if not matches:
            raise too_few(self._least)
        return Score(
            float(np.mean([one.panoptic_quality for one in matches])),
            float(np.mean([one.f1 for one in matches])),
        )

    def _floods(self, constants: PostprocessingParams) -> list[Labels]:
        alone = PostprocessingParams(**constants.watershed_kwargs)
        if self._flooded is None or self._flooded[0] != alone:
            self._flooded = (
                alone,
                [
                    deep_watershed(image.distance, image.interior, **alone.watershed_kwargs)
                    for image in self._held
                ],
            )
        return self._flooded[1]


def _with_enough(image: Held, least: int) -> Held:
    """Leave out parts with too few objects."""
    kept = [part for part in image.truth if len(np.unique(part[1])) > least]
    return replace(image, truth=kept)


def _matches(image: Held, labels: Labels) -> list[Matches]:
    matches = []
    for place, truth in image.truth:
        pairs = object_pairs(overlaps(truth, np.ascontiguousarray(labels[place])))
        matches.append(count_matches(pairs, 0.5))
    return matches
