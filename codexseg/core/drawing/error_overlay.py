"""A picture of what a prediction got right and wrong."""

import numpy as np

from codexseg.arrays import Labels
from codexseg.core.drawing.overlay import Colour, Picture, draw_outlines
from codexseg.core.labels.operations import relabel
from codexseg.core.labels.overlaps import Overlaps
from codexseg.core.metrics.objects import match_objects, object_pairs

MATCHED: Colour = (0, 200, 80)
MISSED: Colour = (70, 130, 255)
GAINED: Colour = (255, 60, 60)
TRUTH: Colour = (48, 48, 48)


def draw_errors(
    truth: Labels, pred: Labels, table: Overlaps, threshold: float = 0.5
) -> Picture:
    """Draw outlines: matched predictions green, missed objects blue, gained ones red.

    Parameters
    ----------
    truth, pred : (y, x) uint32
        Labels to draw, perhaps of every n-th pixel only.
    table : Overlaps
        Of all pixels. Objects that it lacks are shown without an outline.
    threshold : float
        Least IoU of a match.

    Returns
    -------
    (y, x, 3) uint8
        True objects are grey on black.
    """
    pairs = object_pairs(table)
    rows = match_objects(pairs, threshold)
    found, right = (
        pairs.truth_labels[pairs.truth[rows]],
        pairs.pred_labels[pairs.pred[rows]],
    )
    missed = np.setdiff1d(pairs.truth_labels, found)
    gained = np.setdiff1d(pairs.pred_labels, right)
    picture = np.zeros((*truth.shape, 3), np.uint8)
    picture[truth > 0] = TRUTH
    for labels, kept, colour in (
        (pred, right, MATCHED),
        (truth, missed, MISSED),
        (pred, gained, GAINED),
    ):
        draw_outlines(picture, relabel(labels, kept, kept), colour)
    return picture
