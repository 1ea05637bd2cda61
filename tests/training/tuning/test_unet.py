"""Tuning of the objects of a U-Net."""

import numpy as np
from scipy import ndimage as ndi

from codexseg.training.tuning.unet import HEIGHTS_PX, SMOOTHINGS_PX, search_objects


def test_search_separates_touching_discs():
    y, x = np.mgrid[:120, :120]
    labels = np.zeros((120, 120), np.uint32)
    for i, (cy, cx) in enumerate([(30, 30), (30, 52), (80, 40), (80, 90)], 1):
        labels[(labels == 0) & (np.hypot(y - cy, x - cx) < 12)] = i
    foreground = ndi.gaussian_filter((labels > 0).astype(np.float32), 0.5)
    empty = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.uint32)
    objects, f1 = search_objects([foreground, empty[0]], [labels, empty[1]])
    assert f1 == 1
    assert objects.h_px in HEIGHTS_PX
    assert objects.smoothing_px in SMOOTHINGS_PX
