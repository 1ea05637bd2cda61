"""From an example to what a network is shown: other markers, sizes, light and noise.

Each step draws its numbers from one generator, so an image is a function of its seed.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from codexseg.core.intensity.clahe import preprocess
from codexseg.core.kernel import kernel
from codexseg.training.augmentation.illumination import (
    bleed,
    exposed,
    field,
    taken,
    textured,
    unit,
)
from codexseg.training.augmentation.presets import STRENGTHS, Strength
from codexseg.training.augmentation.stains import flickered, painted
from codexseg.training.data.examples import Example, Labels, Rng

Pixels = NDArray[np.float32]

_WITHOUT_MEMBRANE = 0.1
_ROOM_TO_TURN = 1.5
_BEND_EVERY_PX = 64
_BRIGHTS = 0.3, 2.0
_WITHOUT_CLAHE = 0.05


def augmented(
    example: Example, rng: Rng, least_px: int, how: Strength = STRENGTHS["strong"]
) -> tuple[Pixels, Labels | None, Labels | None]:
    """Return an image as the network sees it, (2, y, x) from 0 to 1, cells and nuclei.

    Labels that nobody has drawn are None.

    Parameters
    ----------
    example : Example
        An image.
    rng : Generator
        All that is random.
    least_px : int
        The image has sides of at least this.
    how : Strength
        How far it is changed.
    """
    merged = replace(example, markers=_membrane(example, rng)[None])
    example = _warped(_turned(merged, rng), rng, least_px, how)
    pixels = np.stack([example.nucleus, example.markers[0]])
    has_membrane = bool(pixels[1].any())
    if how.flicker:
        pixels[0] = flickered(pixels[0], example.nuclei, rng, how.flicker)
    if has_membrane and example.cells is not None and rng.random() < how.painted:
        pixels[1] = painted(pixels[1], example.cells, example.nuclei, rng)
    for channel in pixels[: 1 + has_membrane]:
        channel[:] = exposed(channel, rng, how)
        if rng.random() < how.textured:
            channel[:] = textured(channel, rng)
    if has_membrane:
        bleed(pixels, rng)
    for channel in pixels[: 1 + has_membrane]:
        channel[:] = taken(channel, rng, how)
    if rng.random() < _WITHOUT_CLAHE:
        shown = np.stack([unit(channel) for channel in pixels])
    else:
        shown = preprocess(pixels)
    return shown, example.cells, example.nuclei


def _turned(example: Example, rng: Rng) -> Example:
    turns, flips = int(rng.integers(4)), bool(rng.integers(2))

    def turn(image: NDArray[np.generic]) -> NDArray[np.generic]:
        image = np.rot90(image, turns, axes=(-2, -1))
        return image[..., ::-1] if flips else image

    return _each(example, turn, turn)


def _warped(example: Example, rng: Rng, least_px: int, how: Strength) -> Example:
    """Cut out a part, bring it to another size, a little squeezed, turned and bent."""
    size = np.array(example.nucleus.shape)
    scale = np.exp(rng.uniform(*np.log(how.scales)) + rng.normal(0, 0.05, 2))
    turns = how.turn_deg > 0 and size.min() > _ROOM_TO_TURN * least_px
    angle = np.deg2rad(rng.uniform(-how.turn_deg, how.turn_deg)) if turns else 0.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # The largest part that fits, once turned.
    room = size.min() / np.abs(turn).sum(axis=0) if turns else size
    scale *= max(1.0, float((least_px / room / scale).max()))
    target = np.clip((room * scale).astype(int), least_px, how.largest_px)
    reach = np.abs(turn) @ (target / scale) / 2
    centre = [
        rng.uniform(low, max(low, high))
        for low, high in zip(reach, size - reach, strict=True)
    ]
    # Where the centres of the new pixels lie among the old ones.
    steps = [(np.arange(n) + 0.5 - n / 2) / s for n, s in zip(target, scale, strict=True)]
    places = np.empty((2, *target), np.float32)
    for axis, (by_y, by_x) in enumerate(turn):
        along_y = by_y * steps[0] + centre[axis] - 0.5
        np.add.outer(along_y, by_x * steps[1], out=places[axis], casting="same_kind")
    if how.bend_px:
        bend = np.float32(how.bend_px * rng.uniform())
        for along, moved in zip(places, _bends(target, rng), strict=True):
            along += bend * moved
    np.clip(places, 0, (size - 1)[:, None, None], out=places, casting="same_kind")
    nearest = tuple(np.rint(places).astype(int))
    blur = np.maximum(0, (1 / scale - 1) / 2)

    def resample(image: Pixels) -> Pixels:
        planes = image.reshape(-1, *image.shape[-2:])
        found = np.empty((len(planes), *target), np.float32)
        for plane, out in zip(planes, found, strict=True):
            if blur.any():
                plane = ndimage.gaussian_filter(plane, blur)
            _bilinear(plane, places[0], places[1], out)
        return found.reshape(*image.shape[:-2], *target)

    return _each(example, resample, lambda labels: labels[nearest])


@kernel
def _bilinear(plane: Pixels, rows: Pixels, columns: Pixels, out: Pixels) -> None:
    """Take a plane at places within it; ten times as fast as scipy's map_coordinates."""
    height, width = plane.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            row, column = rows[y, x], columns[y, x]
            y0, x0 = int(row), int(column)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            down, right = row - np.float32(y0), column - np.float32(x0)
            above = plane[y0, x0] + right * (plane[y0, x1] - plane[y0, x0])
            below = plane[y1, x0] + right * (plane[y1, x1] - plane[y1, x0])
            out[y, x] = above + down * (below - above)


def _bends(shape: NDArray[np.int64], rng: Rng) -> list[Pixels]:
    """Draw smooth displacements along y and x, of about 1."""
    knots = np.maximum(3, shape // _BEND_EVERY_PX)
    return [field(shape.tolist(), (int(knots[0]), int(knots[1])), rng) for _ in shape]


def _each(example: Example, pixels: Any, labels: Any) -> Example:
    contiguous = np.ascontiguousarray
    return replace(
        example,
        nucleus=contiguous(pixels(example.nucleus)),
        markers=contiguous(pixels(example.markers)),
        cells=None if example.cells is None else contiguous(labels(example.cells)),
        nuclei=None if example.nuclei is None else contiguous(labels(example.nuclei)),
    )


def _membrane(example: Example, rng: Rng) -> Pixels:
    """Merge a choice of the markers, each as bright as chance will have it."""
    count = len(example.markers)
    if count == 0 or (rng.random() < _WITHOUT_MEMBRANE and not example.together):
        return np.zeros_like(example.nucleus)
    least = count if example.together else 1
    chosen = rng.choice(count, int(rng.integers(least, count + 1)), replace=False)
    low, high = np.log(_BRIGHTS).tolist()
    bright = np.exp(rng.uniform(low, high, len(chosen))).astype(np.float32)
    markers = example.markers[chosen] * bright[:, None, None]
    merged: Pixels = markers.max(axis=0) if rng.random() < 0.7 else markers.mean(axis=0)
    return merged
