"""Images and labels brought to another size."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.labels.operations import Labels

Floats = NDArray[np.float32]


def resized(image: Floats, shape: tuple[int, ...]) -> Floats:
    """Bring an image (y, x) to another size: smoothed where it shrinks, interpolated."""
    if image.shape == shape:
        return image
    from skimage import transform

    shrinks = image.shape[0] > shape[0] or image.shape[1] > shape[1]
    resize: Any = transform.resize
    made: Floats = resize(image, shape, order=1, mode="reflect", anti_aliasing=shrinks)
    return made.astype(np.float32)


def nearest(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """Bring labels (y, x) to another size: those under the centres of the new pixels."""
    if labels.shape == shape:
        return labels
    places = [
        np.minimum(((np.arange(n) + 0.5) * (side / n)).astype(int), side - 1)
        for n, side in zip(shape, labels.shape, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*places)])
