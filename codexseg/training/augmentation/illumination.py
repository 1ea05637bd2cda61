"""What microscope, glass and antibodies do to a channel: curves, light, texture, noise.

Channels are (y, x) float32 from 0; 1 is bright.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from codexseg.training.augmentation.presets import Strength
from codexseg.training.data.examples import BRIGHT_PERCENT, Rng

Pixels = NDArray[np.float32]

_CUTS = 0.4, 1.0
_KNOTS = 5, 5
_GRAINS_PX = 1.0, 6.0
_FINE_PARTS = -0.7, 1.5
_MOTTLED = 0.5


def exposed(channel: Pixels, rng: Rng, how: Strength) -> Pixels:
    """Give a channel another curve and other light, or take it out of focus."""
    channel = np.clip(channel, 0, None) ** np.float32(rng.uniform(*how.gammas))
    if rng.random() < how.saturated and channel.any():
        # a percentile of all pixels of a sparse image would be its glass
        bright = np.percentile(channel[channel > 0], BRIGHT_PERCENT)
        channel = np.minimum(channel, bright * rng.uniform(*_CUTS))
    if rng.random() < how.uneven:
        channel = channel * _uneven(channel.shape, rng, rng.uniform(0.1, 0.5))
    if rng.random() < how.blurred:
        channel = ndimage.gaussian_filter(channel, rng.uniform(*how.blurs_px))
    return channel.astype(np.float32)


def textured(channel: Pixels, rng: Rng) -> Pixels:
    """Give a channel another fine structure, and leave its coarse one.

    What is finer than some pixels is made stronger or weaker, or the channel is mottled.
    """
    sigma = float(np.exp(rng.uniform(*np.log(_GRAINS_PX))))
    if rng.random() < 0.5:
        fine = channel - ndimage.gaussian_filter(channel, sigma)
        changed = channel + np.float32(rng.uniform(*_FINE_PARTS)) * fine
    else:
        grain = ndimage.gaussian_filter(
            rng.standard_normal(channel.shape, np.float32), sigma
        )
        grain *= np.float32(rng.uniform(0, _MOTTLED) / max(float(grain.std()), 1e-6))
        changed = channel * np.exp(grain)
    return np.asarray(np.clip(changed, 0, None), np.float32)


def bleed(pixels: Pixels, rng: Rng) -> None:
    """Let the nuclear channel show in that of the membranes, and the other way round."""
    nucleus, membrane = pixels[0].copy(), pixels[1].copy()
    if rng.random() < 0.3:
        pixels[1] += np.float32(rng.uniform(0.05, 0.5)) * nucleus
    if rng.random() < 0.25:
        pixels[0] += np.float32(rng.uniform(0.03, 0.25)) * membrane


def taken(channel: Pixels, rng: Rng, how: Strength) -> Pixels:
    """Add what comes with glass, antibodies and camera: glow, specks, offset, noise."""
    channel = channel * np.float32(np.exp(rng.uniform(np.log(how.dimmest), 0)))
    if rng.random() < 0.25:
        glow = _uneven(channel.shape, rng, 0.7)
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
    return np.asarray(np.clip(channel + np.float32(rng.uniform(0, 0.12)), 0, None))


def unit(channel: Pixels) -> Pixels:
    """Stretch a channel to 0..1."""
    low, high = channel.min(), np.percentile(channel, 99.9)
    if high <= low:
        return np.zeros_like(channel)
    return np.asarray(np.clip((channel - low) / (high - low), 0, 1), np.float32)


def field(shape: Sequence[int], knots: tuple[int, int], rng: Rng) -> Pixels:
    """Draw a smooth field (y, x): a cubic spline through standard normal numbers."""
    coarse = rng.standard_normal(knots, np.float32)
    along_y, along_x = (_splines(int(n), k) for n, k in zip(shape, knots, strict=True))
    rows = np.einsum("yj,jk->yk", along_y, coarse)  # threads of BLAS would only wait
    return np.asarray(np.einsum("yk,xk->yx", rows, along_x))


@lru_cache(maxsize=64)
def _splines(size: int, knots: int) -> Pixels:
    """Return the weights (size, knots) of values at evenly spread knots."""
    at = np.linspace(0, size - 1, knots)
    through: Any = make_interp_spline(at, np.eye(knots), k=min(3, knots - 1))
    return np.asarray(through(np.arange(size)), np.float32)


def _uneven(shape: tuple[int, ...], rng: Rng, strength: float) -> Pixels:
    """Draw a smooth field about 1."""
    smooth = field(shape, _KNOTS, rng)
    return np.asarray(np.exp(strength * smooth / max(float(smooth.std()), 1e-6)))
