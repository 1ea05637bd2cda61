"""Files of images and labels for tests of training."""

import numpy as np
import tifffile
from PIL import Image


def cells(seed=0, shape=(96, 128), count=14):
    """Draw (y, x) uint16 labels: discs of 5 to 9 px."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for number in range(1, count + 1):
        y, x = rng.uniform((0, 0), shape)
        labels[np.hypot(yy - y, xx - x) < rng.uniform(5, 9)] = number
    return labels


def light(labels, seed=0):
    """Draw (y, x) uint8: bright where labels are."""
    noise = np.random.default_rng(seed).normal(20, 4, labels.shape)
    return (noise + 150 * (labels > 0)).clip(0, 255).astype(np.uint8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        tifffile.imwrite(path, array, photometric="minisblack")
    return path


def write_pairs(folder, count=5, shape=(96, 128)):
    """Write images/a0.png and masks/a0_masks.png."""
    for number in range(count):
        labels = cells(number, shape)
        write(folder / "images" / f"a{number}.png", light(labels, number))
        write(folder / "masks" / f"a{number}_masks.png", labels)
