"""Search for the post-processing parameters that fit validation images best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from codexseg.arrays import Float32, Labels
from codexseg.backends.panoptic.parameters import PostprocessingParams
from codexseg.backends.panoptic.postprocessing import postprocess
from codexseg.core.algorithms.deep_watershed import deep_watershed
from codexseg.core.labels.overlaps import overlaps
from codexseg.core.metrics.objects import MatchCounts, count_matches, object_pairs
from codexseg.errors import InputError

HEIGHTS = (0.0125, 0.025, 0.05, 0.075, 0.1, 0.15)
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SMOOTHINGS_PX = (0.5, 1.0, 1.5, 2.0)
EXPANSIONS_PX = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0)
MIN_MEANS = (0.0, 0.5, 0.55, 0.6, 0.625, 0.65, 0.675, 0.7, 0.725, 0.75, 0.8)
MIN_PEAKS = (0.0, 0.6, 0.7, 0.75, 0.8)
MIN_OBJECTS = 30
_FIRST = PostprocessingParams(
    h=0.075, interior_threshold=0.4, smoothing_px=1.0, expansion_px=1.5
)
_COARSE: dict[str, Sequence[float]] = {
    "expansion_px": EXPANSIONS_PX,
    "min_mean_interior": (0.0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8),
}
_FINE: Sequence[dict[str, Sequence[float]]] = (
    {"smoothing_px": SMOOTHINGS_PX, "h": HEIGHTS},
    {"expansion_px": EXPANSIONS_PX, "min_mean_interior": MIN_MEANS},
    {"min_peak": MIN_PEAKS},
)
"""Grids of parameters that depend on each other."""
_CANDIDATES = 3
_MAX_ROUNDS = 4


@dataclass(frozen=True)
class ValidationImage:
    """Maps of a network on an image, and the truth, of one compartment.

    Attributes
    ----------
    distance, interior : (y, x) float32
        Inner distance, and probability of the interior.
    truth : sequence of (slices in y and x, labels)
        Windows of the image with their true labels.
    """

    distance: Float32
    interior: Float32
    truth: Sequence[tuple[tuple[slice, slice], Labels]]


@dataclass(frozen=True)
class Score:
    """Agreement with the truth at IoU 0.5, averaged over the windows of the images.

    Attributes
    ----------
    quality : float
        Panoptic quality (Kirillov et al. 2019): F1 times the mean IoU of matched objects.
        Unlike F1, it distinguishes accurate outlines from barely matching ones.
    f1 : float
    """

    quality: float
    f1: float

    @property
    def mean(self) -> float:
        """The criterion of the search; quality alone trades objects for outlines."""
        return (self.quality + self.f1) / 2


def search_parameters(
    images: Sequence[ValidationImage], min_objects: int = MIN_OBJECTS
) -> tuple[PostprocessingParams, Score]:
    """Find the parameters with the highest mean of panoptic quality and F1.

    All other parameters depend on the threshold of the interior: a higher one gives smaller
    objects with a higher mean interior. They are searched for the three most promising
    thresholds, in grids of a few parameters, in rounds until a round changes nothing.

    Parameters
    ----------
    images : sequence of ValidationImage
        Images of one compartment.
    min_objects : int
        Windows with fewer objects are ignored.

    Returns
    -------
    parameters : PostprocessingParams
        Those with the highest score.
    score : Score
        Their score.

    Raises
    ------
    InputError
        If no parameters detect any true object, or no window has enough objects.
    """
    search = _Search(images, min_objects)
    coarse = [
        search.best(replace(_FIRST, interior_threshold=level), _COARSE)
        for level in THRESHOLDS
    ]
    candidates = sorted(coarse, key=search.merit, reverse=True)[:_CANDIDATES]
    best = max(map(search.refine, candidates), key=search.merit)
    score = search.score(best)
    if score.quality <= 0:
        raise InputError(
            "The network finds none of the objects in the validation images, with any "
            "parameters. Check log.csv and that these images resemble the training images, "
            "or train longer."
        )
    return best, score


def too_few_objects(min_objects: int) -> InputError:
    """Return the error for validation images without enough objects."""
    return InputError(
        f"No validation image has {min_objects} objects or more, expected some for tuning "
        f"the post-processing. Add validation images."
    )


class _Search:
    """Scores of parameters. The flood is repeated only where its parameters change."""

    def __init__(self, images: Sequence[ValidationImage], min_objects: int) -> None:
        self._images = [_with_enough(image, min_objects) for image in images]
        self._min_objects = min_objects
        self._scores: dict[PostprocessingParams, Score] = {}
        self._flooded: tuple[dict[str, float], list[Labels]] | None = None

    def refine(self, parameters: PostprocessingParams) -> PostprocessingParams:
        """Improve parameters at a fixed threshold."""
        for _ in range(_MAX_ROUNDS):
            before = parameters
            for grid in _FINE:
                parameters = self.best(parameters, grid)
            if parameters == before:
                break
        return parameters

    def best(
        self, parameters: PostprocessingParams, grid: dict[str, Sequence[float]]
    ) -> PostprocessingParams:
        """Return the best combination of a grid, or the given one if none is better."""
        tried = [parameters]
        for values in product(*grid.values()):
            changed: dict[str, Any] = dict(zip(grid, values, strict=True))
            tried.append(replace(parameters, **changed))
        return max(tried, key=self.merit)

    def merit(self, parameters: PostprocessingParams) -> float:
        """Return the criterion of the search."""
        return self.score(parameters).mean

    def score(self, parameters: PostprocessingParams) -> Score:
        """Return the mean over the windows with enough objects."""
        if parameters not in self._scores:
            self._scores[parameters] = self._evaluate(parameters)
        return self._scores[parameters]

    def _evaluate(self, parameters: PostprocessingParams) -> Score:
        matches: list[MatchCounts] = []
        for image, flooded in zip(self._images, self._flood(parameters), strict=True):
            labels = postprocess(flooded, (image.distance, image.interior), parameters)
            matches += _matches(image, labels)
        if not matches:
            raise too_few_objects(self._min_objects)
        return Score(
            float(np.mean([match.panoptic_quality for match in matches])),
            float(np.mean([match.f1 for match in matches])),
        )

    def _flood(self, parameters: PostprocessingParams) -> list[Labels]:
        flood = parameters.watershed_kwargs
        if self._flooded is None or self._flooded[0] != flood:
            maps = [(image.distance, image.interior) for image in self._images]
            self._flooded = flood, [deep_watershed(*pair, **flood)[0] for pair in maps]
        return self._flooded[1]


def _with_enough(image: ValidationImage, min_objects: int) -> ValidationImage:
    """Drop windows with too few objects."""
    kept = [
        (window, labels)
        for window, labels in image.truth
        if len(np.unique(labels)) > min_objects
    ]
    return replace(image, truth=kept)


def _matches(image: ValidationImage, labels: Labels) -> list[MatchCounts]:
    matches = []
    for window, truth in image.truth:
        pairs = object_pairs(overlaps(truth, np.ascontiguousarray(labels[window])))
        matches.append(count_matches(pairs, 0.5))
    return matches
