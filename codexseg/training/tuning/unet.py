"""Choosing how a U-Net's foreground becomes objects on images that were held back."""

from collections.abc import Sequence

import numpy as np

from codexseg.backends.unet.postprocessing import depth_map, depth_params
from codexseg.backends.unet.spec import ObjectParams
from codexseg.core.algorithms.deep_watershed import deep_watershed
from codexseg.core.labels.operations import Labels
from codexseg.core.labels.overlaps import overlaps
from codexseg.core.metrics.objects import count_matches, object_pairs
from codexseg.training.data.unet_images import Floats

HEIGHTS_PX = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
SMOOTHINGS_PX = (0.5, 1.0, 2.0)


def choose_objects(
    maps: Sequence[Floats], truths: Sequence[Labels]
) -> tuple[ObjectParams, float]:
    """Try how foreground becomes objects; return the best, and its F1 at IoU 0.5.

    Parameters
    ----------
    maps : sequence of (y, x) float32
        Probabilities of the foreground.
    truths : sequence of (y, x) uint32
        The objects; images without any do not count.
    """
    shown = [(m, t) for m, t in zip(maps, truths, strict=True) if t.any()]
    best, score = ObjectParams(), -1.0
    for smoothing in SMOOTHINGS_PX:
        depths = [
            depth_map(probability, ObjectParams(1.0, smoothing)) for probability, _ in shown
        ]
        for h in HEIGHTS_PX:
            tried = ObjectParams(h, smoothing)
            flood = depth_params(tried).watershed_kwargs
            found = [deep_watershed(*depth, **flood) for depth in depths]
            f1 = float(np.mean([_f1(t, o) for (_, t), o in zip(shown, found, strict=True)]))
            if f1 > score:
                best, score = tried, f1
    return best, score


def _f1(truth: Labels, found: Labels) -> float:
    return count_matches(object_pairs(overlaps(truth, found)), 0.5).f1
