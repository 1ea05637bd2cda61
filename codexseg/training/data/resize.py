"""Resizing of training images and labels."""

from typing import Any

import numpy as np

from codexseg.arrays import Float32, Labels


def resize_image(image: Float32, shape: tuple[int, ...]) -> Float32:
    """Resize an image (y, x) with linear interpolation, smoothed where it shrinks."""
    if image.shape == shape:
        return image
    from skimage import transform

    shrinks = image.shape[0] > shape[0] or image.shape[1] > shape[1]
    resize: Any = transform.resize
    resized: Float32 = resize(image, shape, order=1, mode="reflect", anti_aliasing=shrinks)
    return resized.astype(np.float32)


def resize_labels(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """Resize labels (y, x): each new pixel takes the label under its centre."""
    if labels.shape == shape:
        return labels
    nearest = [
        np.minimum(((np.arange(n) + 0.5) * (side / n)).astype(int), side - 1)
        for n, side in zip(shape, labels.shape, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*nearest)])
