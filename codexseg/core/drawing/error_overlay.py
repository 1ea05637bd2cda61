"""Image of the correct and wrong objects of a prediction."""

import numpy as np

from codexseg.arrays import Labels
from codexseg.core.drawing.overlay import Colour, Picture, draw_outlines
from codexseg.core.labels.operations import relabel
from codexseg.core.labels.overlaps import Overlaps
from codexseg.core.metrics.objects import matched_pairs, object_pairs

MATCHED: Colour = (0, 200, 80)
MISSED: Colour = (70, 130, 255)
GAINED: Colour = (255, 60, 60)
TRUTH: Colour = (48, 48, 48)


def draw_errors(
    truth: Labels, pred: Labels, table: Overlaps, threshold: float = 0.5
) -> Picture:
    """Draw outlines of matched (green), missed (blue) and gained (red) objects.

    Parameters
    ----------
    truth, pred : (y, x) uint32
        Labels to draw, for example of every n-th pixel.
    table : Overlaps
        Of all pixels. Objects that it does not contain have no outline.
    threshold : float
        Minimum IoU of a match.

    Returns
    -------
    (y, x, 3) uint8
        True objects are filled grey on black.
    """
    pairs = object_pairs(table)
    rows = matched_pairs(pairs, threshold)
    matched = pairs.pred_labels[pairs.pred[rows]]
    missed = np.setdiff1d(pairs.truth_labels, pairs.truth_labels[pairs.truth[rows]])
    gained = np.setdiff1d(pairs.pred_labels, matched)
    picture = np.zeros((*truth.shape, 3), np.uint8)
    picture[truth > 0] = TRUTH
    for labels, kept, colour in (
        (pred, matched, MATCHED),
        (truth, missed, MISSED),
        (pred, gained, GAINED),
    ):
        draw_outlines(picture, relabel(labels, kept, kept), colour)
    return picture
