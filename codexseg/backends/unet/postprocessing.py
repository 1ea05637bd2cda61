"""From foreground to objects: the distance to the background, its peaks, a flood.

What a semantic network leaves open, where one object ends and the next begins, is told
from shapes (Soille 2003, chapter 9). Distances end at 64 px: so a pixel's distance hangs
on nothing farther away, and no object on where a window was cut out of the slide.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from codexseg.backends.panoptic.parameters import Constants
from codexseg.backends.unet.spec import THRESHOLD, Objects
from codexseg.core.algorithms.nuclei_watershed import TRUNCATE, gaussian

Floats = NDArray[np.float32]

REACH_PX = 64
"""Distances are told up to here; objects that are thicker have a plateau inside."""
_OBJECT = 0.5 / REACH_PX


def margin_px(objects: Objects) -> int:
    """Return how far from a cut edge :func:`relief` may be wrong."""
    return REACH_PX + ceil(TRUNCATE * objects.smoothing_px) + 1


def relief(probability: Floats, objects: Objects) -> Floats:
    """Say how deep inside the foreground each pixel lies.

    Parameters
    ----------
    probability : (y, x) float32
        Of the foreground.
    objects : Objects
        `smoothing_px` is read.

    Returns
    -------
    maps : (2, y, x) float32
        The depth, smoothed and as it is, in units of 64 px, at most 1; 0: background.
    """
    inside = probability > np.float32(THRESHOLD)
    if inside.all():  # else scipy measures to a pixel beyond the corner
        depth = np.ones(inside.shape, np.float32)
    else:
        depth = ndimage.distance_transform_edt(inside).astype(np.float32)
        depth /= np.float32(REACH_PX)
        np.minimum(depth, 1, out=depth)
    return np.stack([gaussian(depth, objects.smoothing_px), depth])


def flood_constants(objects: Objects) -> Constants:
    """Return the constants of `core.deep_watershed` for the maps of :func:`relief`."""
    return Constants(objects.h_px / REACH_PX, _OBJECT, 0.0, objects.min_area)
