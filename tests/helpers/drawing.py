"""Label images from text."""

import numpy as np
from numpy.typing import NDArray


def draw(picture: str) -> NDArray[np.uint32]:
    """Return a label image: one digit (or letter, a is 10) per pixel, '.' is background."""
    rows = [[0 if p == "." else int(p, 36) for p in row] for row in picture.split()]
    return np.array(rows, np.uint32)
