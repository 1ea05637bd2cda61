"""Tuning of the conversion of a U-Net's foreground to objects on validation images."""

from collections.abc import Sequence

import numpy as np

from codexseg.arrays import Float32, Labels
from codexseg.backends.unet.postprocessing import depth_map, depth_params
from codexseg.backends.unet.spec import ObjectParams
from codexseg.core.algorithms.deep_watershed import deep_watershed
from codexseg.core.labels.overlaps import overlaps
from codexseg.core.metrics.objects import count_matches, object_pairs

HEIGHTS_PX = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
SMOOTHINGS_PX = (0.5, 1.0, 2.0)


def search_objects(
    maps: Sequence[Float32], truths: Sequence[Labels]
) -> tuple[ObjectParams, float]:
    """Return the parameters of objects with the highest F1 at IoU 0.5, and that F1.

    Parameters
    ----------
    maps : sequence of (y, x) float32
        Probabilities of the foreground.
    truths : sequence of (y, x) uint32
        True objects; images without any are ignored.
    """
    images = [(m, t) for m, t in zip(maps, truths, strict=True) if t.any()]
    best, score = ObjectParams(), -1.0
    for smoothing in SMOOTHINGS_PX:
        depths = [
            depth_map(probability, ObjectParams(1.0, smoothing))
            for probability, _ in images
        ]
        for h in HEIGHTS_PX:
            objects = ObjectParams(h, smoothing)
            flood = depth_params(objects).watershed_kwargs
            labels = [deep_watershed(*depth, **flood)[0] for depth in depths]
            f1 = float(
                np.mean([_f1(t, o) for (_, t), o in zip(images, labels, strict=True)])
            )
            if f1 > score:
                best, score = objects, f1
    return best, score


def _f1(truth: Labels, labels: Labels) -> float:
    return count_matches(object_pairs(overlaps(truth, labels)), 0.5).f1
