"""Random changes of one channel: exposure, texture, bleed-through, glow and noise.

Channels are (y, x) float32, at least 0; 1 is bright.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from codexseg.arrays import Float32
from codexseg.training.augmentation.presets import AugmentationPreset
from codexseg.training.data.examples import BRIGHT_PERCENT, Rng

_CUTS = 0.4, 1.0
_KNOTS = 5, 5
_GRAINS_PX = 1.0, 6.0
_FINE_PARTS = -0.7, 1.5
_MOTTLED = 0.5


def change_exposure(channel: Float32, rng: Rng, preset: AugmentationPreset) -> Float32:
    """Change gamma, saturation, illumination and focus of a channel."""
    channel = np.clip(channel, 0, None) ** np.float32(rng.uniform(*preset.gammas))
    if rng.random() < preset.saturated and channel.any():
        # background dominates a sparse image, so its percentiles are not those of tissue
        bright = np.percentile(channel[channel > 0], BRIGHT_PERCENT)
        channel = np.minimum(channel, bright * rng.uniform(*_CUTS))
    if rng.random() < preset.uneven:
        channel = channel * _gain_field(channel.shape, rng, rng.uniform(0.1, 0.5))
    if rng.random() < preset.blurred:
        channel = ndimage.gaussian_filter(channel, rng.uniform(*preset.blurs_px))
    return channel.astype(np.float32)


def change_texture(channel: Float32, rng: Rng) -> Float32:
    """Change the fine structure of a channel and keep its coarse structure.

    Either details of a few pixels are amplified or weakened, or the channel is mottled.
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


def bleed_through(pixels: Float32, rng: Rng) -> None:
    """Add part of the nuclear channel to the membrane channel, and vice versa, in place."""
    nucleus, membrane = pixels[0].copy(), pixels[1].copy()
    if rng.random() < 0.3:
        pixels[1] += np.float32(rng.uniform(0.05, 0.5)) * nucleus
    if rng.random() < 0.25:
        pixels[0] += np.float32(rng.uniform(0.03, 0.25)) * membrane


def add_artifacts(channel: Float32, rng: Rng, preset: AugmentationPreset) -> Float32:
    """Dim a channel and add glow, specks, shot noise, camera noise and an offset."""
    channel = channel * np.float32(np.exp(rng.uniform(np.log(preset.min_gain), 0)))
    if rng.random() < 0.25:
        glow = _gain_field(channel.shape, rng, 0.7)
        channel = channel + np.float32(rng.uniform(0.02, 0.12)) * glow
    if rng.random() < 0.15:
        specks = np.zeros_like(channel)
        count = int(rng.integers(1, 12))
        specks[tuple(rng.integers(0, side, count) for side in channel.shape)] = 1
        specks = ndimage.gaussian_filter(specks, rng.uniform(0.7, 2.5))
        channel = channel + specks * np.float32(rng.uniform(1, 5) / specks.max())
    noise = rng.standard_normal(channel.shape, np.float32)
    shot = np.sqrt(np.clip(channel, 0, None)) * np.float32(rng.uniform(0, preset.shot))
    channel = channel + noise * (shot + np.float32(rng.uniform(0, preset.noise)))
    return np.asarray(np.clip(channel + np.float32(rng.uniform(0, 0.12)), 0, None))


def stretch(channel: Float32) -> Float32:
    """Scale a channel to 0..1, from its minimum to its 99.9th percentile."""
    low, high = channel.min(), np.percentile(channel, 99.9)
    if high <= low:
        return np.zeros_like(channel)
    return np.asarray(np.clip((channel - low) / (high - low), 0, 1), np.float32)


def smooth_field(shape: Sequence[int], knots: Sequence[int], rng: Rng) -> Float32:
    """Draw a smooth field (y, x): a cubic spline through standard normal knots."""
    coarse = rng.standard_normal(knots, np.float32)
    along_y, along_x = (_splines(int(n), k) for n, k in zip(shape, knots, strict=True))
    # einsum: BLAS threads cost more than they gain on matrices of this size
    rows = np.einsum("yj,jk->yk", along_y, coarse)
    return np.asarray(np.einsum("yk,xk->yx", rows, along_x))


@lru_cache(maxsize=64)  # a tenth of the time of a batch; sizes repeat
def _splines(size: int, knots: int) -> Float32:
    """Return weights (size, knots) that interpolate values at evenly spaced knots."""
    at = np.linspace(0, size - 1, knots)
    spline: Any = make_interp_spline(at, np.eye(knots), k=min(3, knots - 1))
    return np.asarray(spline(np.arange(size)), np.float32)


def _gain_field(shape: tuple[int, ...], rng: Rng, strength: float) -> Float32:
    """Draw a smooth field of factors around 1."""
    smooth = smooth_field(shape, _KNOTS, rng)
    return np.asarray(np.exp(strength * smooth / max(float(smooth.std()), 1e-6)))
