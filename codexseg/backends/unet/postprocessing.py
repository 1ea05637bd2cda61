"""Depth map of the foreground, for the watershed that separates objects.

The distance to the background separates touching objects by their shapes (Soille 2003,
chapter 9). Distances end at 64 px, so that they depend on no pixel farther away, and no
object depends on the window that was read.
"""

from math import ceil

import numpy as np
from scipy import ndimage

from codexseg.arrays import Float32
from codexseg.backends.panoptic.parameters import PostprocessingParams
from codexseg.backends.unet.spec import THRESHOLD, ObjectParams
from codexseg.core.algorithms.nuclei_watershed import TRUNCATE, gaussian

REACH_PX = 64
"""Maximum distance; thicker objects have a plateau inside."""
_OBJECT = 0.5 / REACH_PX


def margin_px(objects: ObjectParams) -> int:
    """Return the distance from a cut edge within which :func:`depth_map` may be wrong."""
    return REACH_PX + ceil(TRUNCATE * objects.smoothing_px) + 1


def depth_map(probability: Float32, objects: ObjectParams) -> Float32:
    """Return the distance of each pixel to the background.

    Parameters
    ----------
    probability : (y, x) float32
        Probability of the foreground.
    objects : ObjectParams
        `smoothing_px` is read.

    Returns
    -------
    maps : (2, y, x) float32
        Smoothed depth and depth, in units of 64 px, at most 1; 0: background.
    """
    inside = probability > np.float32(THRESHOLD)
    if inside.all():  # scipy would measure to a pixel beyond the corner
        depth = np.ones(inside.shape, np.float32)
    else:
        depth = ndimage.distance_transform_edt(inside).astype(np.float32)
        depth /= np.float32(REACH_PX)
        np.minimum(depth, 1, out=depth)
    return np.stack([gaussian(depth, objects.smoothing_px), depth])


def depth_params(objects: ObjectParams) -> PostprocessingParams:
    """Return the parameters of the watershed on the maps of :func:`depth_map`."""
    return PostprocessingParams(objects.h_px / REACH_PX, _OBJECT, 0.0, objects.min_area)
