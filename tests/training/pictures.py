"""Image and label files for tests of training."""

import numpy as np
import tifffile
from PIL import Image


def disc_labels(seed=0, shape=(96, 128), count=14):
    """Draw `count` discs of radius 5 to 9 px: labels (y, x) uint16."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for number in range(1, count + 1):
        y, x = rng.uniform((0, 0), shape)
        labels[np.hypot(yy - y, xx - x) < rng.uniform(5, 9)] = number
    return labels


def fluorescence(labels, seed=0):
    """Draw an image (y, x) uint8 that is bright where labels are, with noise."""
    noise = np.random.default_rng(seed).normal(20, 4, labels.shape)
    return (noise + 150 * (labels > 0)).clip(0, 255).astype(np.uint8)


def write_image(path, array):
    """Write an array as PNG or TIFF, by the suffix of the path; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        tifffile.imwrite(path, array, photometric="minisblack")
    return path


def write_pairs(folder, count=5, shape=(96, 128)):
    """Write images/a0.png, masks/a0_masks.png and so on into a folder."""
    for number in range(count):
        labels = disc_labels(number, shape)
        write_image(folder / "images" / f"a{number}.png", fluorescence(labels, number))
        write_image(folder / "masks" / f"a{number}_masks.png", labels)
