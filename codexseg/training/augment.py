"""From an example to what a network is shown: other sizes, markers, light and noise.

Each step draws its numbers from one generator, so an image is a function of its seed.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from codexseg.core.contrast import preprocess
from codexseg.training.examples import Example, Labels, Rng

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Strength:
    """How far images are changed.

    Attributes
    ----------
    scales : (float, float)
        Their least and greatest enlargement.
    largest_px : int
        Side of an image that is shown whole to the contrast (CLAHE), then cut into tiles.
    tiles : int
        Cut from an image that has room for several.
    gammas, blurs_px : (float, float)
        Least and greatest exponent of grey levels, sigma of blur.
    uneven, blurred : float
        Share of channels under uneven light, out of focus.
    shot, noise : float
        Greatest noise that grows with the signal, that does not.
    turn_deg, bend_px : float
        Greatest turn beside quarter turns, degrees; greatest standard deviation of the
        displacements that bend tissue.
    saturated : float
        Share of channels whose bright parts are cut.
    """

    scales: tuple[float, float]
    largest_px: int
    tiles: int
    gammas: tuple[float, float]
    uneven: float
    blurred: float
    blurs_px: tuple[float, float]
    shot: float
    noise: float
    turn_deg: float = 0.0
    bend_px: float = 0.0
    saturated: float = 0.0


STRENGTHS = {
    "strong": Strength((0.5, 1.45), 384, 2, (0.65, 1.5), 0.35, 0.4, (0.3, 1.7), 0.06, 0.03),
    "mild": Strength((0.62, 1.3), 512, 2, (0.75, 1.35), 0.25, 0.3, (0.3, 1.2), 0.04, 0.02),
    "wide": Strength(
        (0.62, 1.6), 512, 2, (0.65, 1.5), 0.3, 0.3, (0.3, 1.5), 0.06, 0.03, 45, 4, 0.25
    ),
}
_WITHOUT_MEMBRANE = 0.1
_ROOM_TO_TURN = 1.5
_BEND_EVERY_PX = 64
_CUT_PERCENT = 90, 99.5
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
    example = _warped(_turned(example, rng), rng, least_px, how)
    nucleus, membrane = example.nucleus, _membrane(example, rng)
    pixels = np.stack([nucleus, membrane])
    has_membrane = bool(membrane.any())
    for channel in pixels[: 1 + has_membrane]:
        channel[:] = _exposed(channel, rng, how)
    if has_membrane:
        _bleed(pixels, rng)
    for channel in pixels[: 1 + has_membrane]:
        channel[:] = _taken(channel, rng, how)
    if rng.random() < _WITHOUT_CLAHE:
        shown = np.stack([_unit(channel) for channel in pixels])
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
    scale = np.maximum(scale, least_px / room)
    target = np.clip((room * scale).astype(int), least_px, how.largest_px)
    reach = np.abs(turn) @ (target / scale) / 2
    centre = [
        rng.uniform(low, max(low, high))
        for low, high in zip(reach, size - reach, strict=True)
    ]
    # Where the centres of the new pixels lie among the old ones.
    steps = [(np.arange(n) + 0.5 - n / 2) / s for n, s in zip(target, scale, strict=True)]
    grid = np.tensordot(turn, np.stack(np.meshgrid(*steps, indexing="ij")), 1)
    places = grid + np.reshape(centre, (2, 1, 1)) - 0.5
    if how.bend_px:
        places += how.bend_px * rng.uniform() * np.stack(_bends(target, rng))
    places = np.clip(places, 0, (size - 1)[:, None, None]).astype(np.float32)
    nearest = tuple(np.rint(places).astype(int))
    blur = np.maximum(0, (1 / scale - 1) / 2)

    def resample(image: Pixels) -> Pixels:
        planes = image.reshape(-1, *image.shape[-2:])
        found = np.empty((len(planes), *target), np.float32)
        for plane, out in zip(planes, found, strict=True):
            if blur.any():
                plane = ndimage.gaussian_filter(plane, blur)
            ndimage.map_coordinates(plane, places, out, order=1)
        return found.reshape(*image.shape[:-2], *target)

    return _each(example, resample, lambda labels: labels[nearest])


def _bends(shape: NDArray[np.int64], rng: Rng) -> list[Pixels]:
    """Draw smooth displacements along y and x, of about 1."""
    knots = np.maximum(3, shape // _BEND_EVERY_PX)
    found = []
    for _ in shape:
        coarse = rng.normal(0, 1, knots)
        found.append(ndimage.zoom(coarse, shape / knots, order=3).astype(np.float32))
    return found


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
    bright = rng.uniform(0.4, 1.6, len(chosen)).astype(np.float32)
    markers = example.markers[chosen] * bright[:, None, None]
    merged: Pixels = markers.max(axis=0) if rng.random() < 0.7 else markers.mean(axis=0)
    return merged


def _exposed(channel: Pixels, rng: Rng, how: Strength) -> Pixels:
    """Other curves, other light, out of focus."""
    channel = np.clip(channel, 0, None) ** np.float32(rng.uniform(*how.gammas))
    if rng.random() < how.saturated:
        channel = np.minimum(channel, np.percentile(channel, rng.uniform(*_CUT_PERCENT)))
    if rng.random() < how.uneven:
        channel = channel * _field(channel.shape, rng, rng.uniform(0.1, 0.5))
    if rng.random() < how.blurred:
        channel = ndimage.gaussian_filter(channel, rng.uniform(*how.blurs_px))
    return channel.astype(np.float32)


def _field(shape: tuple[int, ...], rng: Rng, strength: float) -> Pixels:
    """Draw a smooth field about 1."""
    coarse = rng.normal(0, 1, (5, 5))
    smooth = ndimage.zoom(coarse, [n / 5 for n in shape], order=3)
    field: Pixels = np.exp(strength * smooth / max(float(smooth.std()), 1e-6))
    return field.astype(np.float32)


def _bleed(pixels: Pixels, rng: Rng) -> None:
    nucleus, membrane = pixels[0].copy(), pixels[1].copy()
    if rng.random() < 0.3:
        pixels[1] += np.float32(rng.uniform(0.05, 0.5)) * nucleus
    if rng.random() < 0.25:
        pixels[0] += np.float32(rng.uniform(0.03, 0.25)) * membrane


def _taken(channel: Pixels, rng: Rng, how: Strength) -> Pixels:
    """Add what comes with glass, antibodies and camera: glow, specks, offset, noise."""
    if rng.random() < 0.25:
        glow = _field(channel.shape, rng, 0.7)
        channel = channel + np.float32(rng.uniform(0.02, 0.12)) * glow
    if rng.random() < 0.15:
        specks = np.zeros_like(channel)
        count = int(rng.integers(1, 12))
        specks[tuple(rng.integers(0, side, count) for side in channel.shape)] = 1
        specks = ndimage.gaussian_filter(specks, rng.uniform(0.7, 2.5))
        channel = channel + specks * np.float32(rng.uniform(1, 5) / specks.max())
    noise = rng.standard_normal(channel.shape, np.float32)
    shot = np.sqrt(np.clip(channel, 0, None)) * np.float32(rng.uniform(0, how.shot))
    channel = channel + noise * (shot + np.float32(rng.uniform(0, how.noise)))
    taken: Pixels = np.clip(channel + np.float32(rng.uniform(0, 0.12)), 0, None)
    return taken


def _unit(channel: Pixels) -> Pixels:
    low, high = channel.min(), np.percentile(channel, 99.9)
    if high <= low:
        return np.zeros_like(channel)
    unit: Pixels = np.clip((channel - low) / (high - low), 0, 1)
    return unit
