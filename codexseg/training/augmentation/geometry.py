"""Augmentation of an example: markers, size, rotation, bending, illumination and noise.

All steps draw from one generator, so an augmented image is a function of its seed.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from codexseg.arrays import Float32, Int64, Labels
from codexseg.core.intensity.clahe import preprocess
from codexseg.core.kernel import kernel
from codexseg.training.augmentation.illumination import (
    add_artifacts,
    bleed_through,
    change_exposure,
    change_texture,
    smooth_field,
    stretch,
)
from codexseg.training.augmentation.presets import AUGMENTATIONS, AugmentationPreset
from codexseg.training.augmentation.stains import stain_cells, vary_nuclei
from codexseg.training.data.examples import Example, Rng

_WITHOUT_MEMBRANE = 0.1
_ROOM_TO_TURN = 1.5
_BEND_EVERY_PX = 64
_BRIGHTNESS = 0.3, 2.0
_WITHOUT_CLAHE = 0.05


def augment(
    example: Example,
    rng: Rng,
    min_px: int,
    preset: AugmentationPreset = AUGMENTATIONS["strong"],
) -> tuple[Float32, Labels | None, Labels | None]:
    """Return a randomly changed image, preprocessed for the network, and its labels.

    Parameters
    ----------
    example : Example
        Image with labels.
    rng : Generator
        Source of all random numbers.
    min_px : int
        Minimum side of the augmented image.
    preset : AugmentationPreset
        Strength of the changes.

    Returns
    -------
    pixels : (2, y, x) float32
        Nuclear and membrane channel, 0 to 1.
    cells, nuclei : (y, x) uint32 or None
        None where the example has no such labels.
    """
    merged = replace(example, markers=_merge_markers(example, rng)[None])
    example = _warp(_rotate_and_flip(merged, rng), rng, min_px, preset)
    pixels = np.stack([example.nucleus, example.markers[0]])
    has_membrane = bool(pixels[1].any())
    if preset.flicker:
        pixels[0] = vary_nuclei(pixels[0], example.nuclei, rng, preset.flicker)
    if has_membrane and example.cells is not None and rng.random() < preset.stained:
        pixels[1] = stain_cells(pixels[1], example.cells, example.nuclei, rng)
    for channel in pixels[: 1 + has_membrane]:
        channel[:] = change_exposure(channel, rng, preset)
        if rng.random() < preset.textured:
            channel[:] = change_texture(channel, rng)
    if has_membrane:
        bleed_through(pixels, rng)
    for channel in pixels[: 1 + has_membrane]:
        channel[:] = add_artifacts(channel, rng, preset)
    if rng.random() < _WITHOUT_CLAHE:
        scaled = np.stack([stretch(channel) for channel in pixels])
    else:
        scaled = preprocess(pixels)
    return scaled, example.cells, example.nuclei


def _rotate_and_flip(example: Example, rng: Rng) -> Example:
    turns, is_flipped = int(rng.integers(4)), bool(rng.integers(2))

    def turn(image: NDArray[np.generic]) -> NDArray[np.generic]:
        image = np.rot90(image, turns, axes=(-2, -1))
        return image[..., ::-1] if is_flipped else image

    return _transform(example, turn, turn)


def _warp(example: Example, rng: Rng, min_px: int, preset: AugmentationPreset) -> Example:
    """Crop, scale, stretch, rotate and bend an example in one resampling step."""
    size = np.array(example.nucleus.shape)
    scale = np.exp(rng.uniform(*np.log(preset.scales)) + rng.normal(0, 0.05, 2))
    turns = preset.turn_deg > 0 and size.min() > _ROOM_TO_TURN * min_px
    angle = np.deg2rad(rng.uniform(-preset.turn_deg, preset.turn_deg)) if turns else 0.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # side of the largest rotated window that fits into the image
    room = size.min() / np.abs(turn).sum(axis=0) if turns else size
    scale *= max(1.0, float((min_px / room / scale).max()))
    target = np.clip((room * scale).astype(int), min_px, preset.max_px)
    reach = np.abs(turn) @ (target / scale) / 2
    centre = [
        rng.uniform(low, max(low, high))
        for low, high in zip(reach, size - reach, strict=True)
    ]
    # coordinates of the target's pixel centres in the source image
    steps = [(np.arange(n) + 0.5 - n / 2) / s for n, s in zip(target, scale, strict=True)]
    coordinates = np.empty((2, *target), np.float32)
    for axis, (by_y, by_x) in enumerate(turn):
        along_y = by_y * steps[0] + centre[axis] - 0.5
        np.add.outer(along_y, by_x * steps[1], out=coordinates[axis], casting="same_kind")
    if preset.bend_px:
        bend = np.float32(preset.bend_px * rng.uniform())
        for along, moved in zip(coordinates, _displacements(target, rng), strict=True):
            along += bend * moved
    limits = (size - 1)[:, None, None]
    np.clip(coordinates, 0, limits, out=coordinates, casting="same_kind")
    nearest = tuple(np.rint(coordinates).astype(int))
    blur = np.maximum(0, (1 / scale - 1) / 2)

    def resample(image: Float32) -> Float32:
        planes = image.reshape(-1, *image.shape[-2:])
        resampled = np.empty((len(planes), *target), np.float32)
        for plane, out in zip(planes, resampled, strict=True):
            if blur.any():
                plane = ndimage.gaussian_filter(plane, blur)
            _bilinear(plane, coordinates[0], coordinates[1], out)
        return resampled.reshape(*image.shape[:-2], *target)

    return _transform(example, resample, lambda labels: labels[nearest])


@kernel
def _bilinear(plane: Float32, rows: Float32, columns: Float32, out: Float32) -> None:
    """Interpolate a plane at coordinates inside it; 10 times as fast as map_coordinates."""
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


def _displacements(shape: Int64, rng: Rng) -> list[Float32]:
    """Draw smooth displacements along y and x, of standard deviation near 1."""
    knots = np.maximum(3, shape // _BEND_EVERY_PX).tolist()
    return [smooth_field(shape.tolist(), knots, rng) for _ in shape]


def _transform(
    example: Example, pixels: Callable[[Any], Any], labels: Callable[[Any], Any]
) -> Example:
    """Apply one function to all channels and another to all labels."""
    contiguous = np.ascontiguousarray
    return replace(
        example,
        nucleus=contiguous(pixels(example.nucleus)),
        markers=contiguous(pixels(example.markers)),
        cells=None if example.cells is None else contiguous(labels(example.cells)),
        nuclei=None if example.nuclei is None else contiguous(labels(example.nuclei)),
    )


def _merge_markers(example: Example, rng: Rng) -> Float32:
    """Merge a random choice of the markers, each with a random brightness."""
    count = len(example.markers)
    if count == 0 or (rng.random() < _WITHOUT_MEMBRANE and not example.together):
        return np.zeros_like(example.nucleus)
    min_count = count if example.together else 1
    chosen = rng.choice(count, int(rng.integers(min_count, count + 1)), replace=False)
    low, high = np.log(_BRIGHTNESS).tolist()
    gains = np.exp(rng.uniform(low, high, len(chosen))).astype(np.float32)
    markers = example.markers[chosen] * gains[:, None, None]
    merged: Float32 = markers.max(axis=0) if rng.random() < 0.7 else markers.mean(axis=0)
    return merged
