from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage.exposure import equalize_adapthist, rescale_intensity

from codexseg.core.grid import Window
from codexseg.core.intensity.clahe import (
    BLOCK_PX,
    ChannelRange,
    blocks_needed,
    cap_bins,
    cap_level,
    clahe_bins,
    contrast_maps,
    count_fine,
    count_levels,
    equalize,
    preprocess,
    reflected,
    to_unit,
)
from codexseg.core.intensity.histogram import histogram
from codexseg.errors import InputError

GOLDEN = Path(__file__).parents[1] / "data" / "mesmer" / "golden.npz"
DTYPES = ["uint8", "uint16", "float32"]
KINDS = ["noise", "steps", "sparse", "saturated", "wide", "few levels", "constant", "zero"]


def draw(kind, dtype, shape, seed=0):
    random = np.random.default_rng(seed)
    pixels = {
        "noise": lambda: random.random(shape) * 200 + 20,
        "steps": lambda: np.add.outer(*map(np.arange, shape)) // 9 % 250,
        "sparse": lambda: (random.random(shape) < 0.03) * random.random(shape) * 250,
        "saturated": lambda: np.minimum(random.exponential(150, shape), 255),
        "wide": lambda: np.minimum(np.exp(random.normal(0, 4, shape)), 255),
        "few levels": lambda: random.integers(0, 3, shape),
        "constant": lambda: np.full(shape, 9),
        "zero": lambda: np.zeros(shape),
    }[kind]()
    return (pixels * {"uint8": 1, "uint16": 250, "float32": 1e-3}[dtype]).astype(dtype)


def percentile(pixels):
    """Return the 99.9th percentile of the non-zero pixels as numpy 1.26 computes it."""
    ordered = np.sort(pixels[pixels != 0])
    position = (len(ordered) - 1) * (99.9 / 100)
    below = int(position)
    above, weight = min(below + 1, len(ordered) - 1), position - below
    lower, upper = ordered[below], ordered[above]
    if weight < 0.5:
        return float(lower) + float(upper - lower) * weight
    return float(upper) - float(upper - lower) * (1 - weight)


def by_scikit_image(pixels):
    """Prepare one channel with the functions that deepcell calls."""
    if not pixels.any():
        return np.zeros(pixels.shape, np.float32)
    cap = np.array(percentile(pixels)).astype(pixels.dtype)
    capped = np.minimum(pixels, cap).astype(np.float32)
    if (capped == capped[0, 0]).all():
        return np.zeros(pixels.shape, np.float32)
    unit = rescale_intensity(capped, out_range=(0.0, 1.0))
    return equalize_adapthist(unit, kernel_size=BLOCK_PX)


def cut(shape, step):
    """Return windows y0, y1, x0, x1 that partition an image."""
    spans = (
        [(a, min(a + n, size)) for a in range(0, size, n)]
        for size, n in zip(shape, step, strict=True)
    )
    return [(*y, *x) for y, x in product(*spans)]


def by_windows(pixels, step):
    """Prepare a channel window by window."""
    windows = [(slice(w[0], w[1]), slice(w[2], w[3])) for w in cut(pixels.shape, step)]
    counts = sum(count_levels(pixels[w]) for w in windows)
    fine = None
    if pixels.dtype.kind == "f":
        fine = sum(count_fine(pixels[w], cap_bins(counts)) for w in windows)
    levels = ChannelRange.of(
        cap_level(counts, pixels.dtype, fine),
        min(pixels[w].min() for w in windows),
        max(pixels[w].max() for w in windows),
    )
    out = np.zeros(pixels.shape, np.float32)
    if levels.is_flat:
        return out
    n_blocks = tuple(-(-size // BLOCK_PX) for size in pixels.shape)
    maps = np.zeros((*n_blocks, 256), np.uint16)
    for by, bx in np.ndindex(n_blocks):
        rows, columns = (
            reflected(b * BLOCK_PX, (b + 1) * BLOCK_PX, size)
            for b, size in zip((by, bx), pixels.shape, strict=True)
        )
        maps[by, bx] = contrast_maps(clahe_bins(pixels[np.ix_(rows, columns)], levels))
    equalized = []
    for window, (y0, y1, x0, x1) in zip(windows, cut(pixels.shape, step), strict=True):
        need = blocks_needed(Window(y0, x0, y1, x1), n_blocks)
        by0, by1, bx0, bx1 = need.y0, need.y1, need.x0, need.x1
        bins = clahe_bins(pixels[window], levels)
        near = maps[by0:by1, bx0:bx1]
        equalized.append(equalize(bins, near, (y0, x0), (by0, bx0), n_blocks))
    low, high = min(p.min() for p in equalized), max(p.max() for p in equalized)
    for window, values in zip(windows, equalized, strict=True):
        out[window] = to_unit(values, int(low), int(high))
    return out


sides = st.one_of(st.integers(1, 20), st.integers(21, 330), st.just(128))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    shape=st.tuples(sides, sides),
    step=st.tuples(st.integers(30, 330), st.integers(30, 330)),
    seed=st.integers(0, 99),
)
@example("noise", "float32", (200, 1), (50, 50), 0)
@example("noise", "uint16", (1, 1), (50, 50), 0)
@example("sparse", "uint16", (257, 300), (64, 65), 0)
@example("wide", "float32", (256, 128), (128, 128), 0)
def test_windows_equal_the_whole_image_and_scikit_image(kind, dtype, shape, step, seed):
    image = np.stack([draw(kind, dtype, shape, seed), draw("noise", dtype, shape, seed)])
    whole = preprocess(image)
    assert whole.dtype == np.float32
    for pixels, channel in zip(image, whole, strict=True):
        assert by_windows(pixels, step).tobytes() == channel.tobytes()
        np.testing.assert_array_equal(channel, by_scikit_image(pixels))


@pytest.mark.parametrize("suffix", ["", "_u16"])
def test_preprocessing_equals_deepcell_bit_for_bit(suffix):
    golden = np.load(GOLDEN)
    prepared = preprocess(golden["image" + suffix])
    assert (
        prepared.tobytes()
        == np.ascontiguousarray(golden["preprocessed" + suffix]).tobytes()
    )


def test_cap_equals_deepcell():
    golden = np.load(GOLDEN)
    for pixels, capped in zip(golden["image"], golden["capped"], strict=True):
        assert cap_of(pixels) == capped.max()


def cap_of(pixels):
    counts = count_levels(pixels)
    is_float = pixels.dtype.kind == "f"
    fine = count_fine(pixels, cap_bins(counts)) if is_float else None
    return cap_level(counts, pixels.dtype, fine)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("size", [1, 2, 3, 999, 1001, 1002, 250_000])
def test_cap_is_the_exact_percentile(kind, dtype, size):
    pixels = draw(kind, dtype, (1, size), seed=size)
    if not pixels.any():
        assert cap_of(pixels) is None
        return
    expected = percentile(pixels)
    assert cap_of(pixels) == float(np.array(expected).astype(pixels.dtype))
    approximate = np.percentile(pixels[pixels != 0].astype(np.float64), 99.9)
    assert expected == pytest.approx(approximate, rel=1e-6)


def test_cap_of_more_pixels_than_32_bits_hold():
    counts = np.zeros(65536, np.int64)
    counts[100], counts[200], counts[300] = 5 * 10**9, 10**7, 4 * 10**6
    assert cap_level(counts, np.uint16) == 200  # 0.08 % of the pixels are above it
    counts[300] += 2 * 10**6
    assert cap_level(counts, np.uint16) == 300

    pixels = np.array([[1.0, 1.0 + 2**-20, 1.5]], np.float32)
    coarse, fine = count_levels(pixels), count_fine(pixels, (0x3F80, 0x3F80))
    assert fine[:, 0].tolist() == fine[:, 8].tolist() == [1, 1]
    coarse, fine = coarse * 0, fine * 0
    coarse[0x3F80], coarse[0x3FC0] = 6 * 10**9, 10**6
    fine[:, 0], fine[:, 8] = 5 * 10**9, 10**9
    assert cap_bins(coarse) == (0x3F80, 0x3F80)
    assert cap_level(coarse, np.float32, fine) == 1.0 + 2**-20


def test_zeros_are_distinct_from_the_smallest_floats():
    pixels = np.zeros((10, 10), np.float32)
    pixels[0, :3] = 1e-42, 2e-42, 1e-41  # the same upper 16 bits as 0.0
    assert cap_of(pixels) == float(np.float32(percentile(pixels)))


def test_cap_is_interpolated_and_truncated_for_integers():
    pixels = np.full((1, 2), 10, np.uint8)
    pixels[0, 1] = 20
    assert cap_of(pixels) == 19
    assert cap_of(pixels.astype(np.float32)) == float(np.float32(20 - 10 * (1 - 0.999)))


def test_counts_equal_the_histogram_without_zeros():
    pixels = draw("sparse", "float32", (40, 50))
    pixels[0, :2] = -0.0, 1e-41  # 1e-41 is in the bin of 0.0
    counts = count_levels(pixels)
    assert counts[0] == 1
    assert counts.sum() == np.count_nonzero(pixels)
    np.testing.assert_array_equal(counts[1:0x8000], histogram(pixels)[1:0x8000])
    integers = draw("sparse", "uint16", (40, 50))
    np.testing.assert_array_equal(count_levels(integers)[1:], histogram(integers)[1:])
    assert count_levels(integers)[0] == 0


def test_flat_channels_become_zeros():
    bright = np.full((200, 100), 7, np.uint16)
    bright[0, 0] = 900  # one pixel of 20,000: capped
    for pixels in (np.zeros((5, 5), np.uint8), np.full((5, 5), 3, np.float32), bright):
        assert not preprocess(pixels[np.newaxis]).any()
    assert ChannelRange.of(None, 0, 0).is_flat
    assert ChannelRange.of(7.0, 7, 900) == ChannelRange(7.0, 7.0, 7.0)
    assert not clahe_bins(bright, ChannelRange(7.0, 7.0, 7.0)).any()


def test_constant_equalised_levels_are_clipped_to_the_unit_range():
    assert to_unit(np.array([[0, 0]], np.uint16), 0, 0).tolist() == [[0, 0]]
    assert to_unit(np.array([[90, 90]], np.uint16), 90, 90).tolist() == [[1, 1]]


@given(st.integers(1, 300), st.integers(0, 700), st.integers(0, 700))
def test_reflected_equals_padding_of_numpy(size, before, after):
    padded = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(reflected(-before, size + after, size), padded)


def test_incomplete_blocks_and_missing_maps_are_refused():
    bins = np.zeros((256, 384), np.uint8)
    with pytest.raises(InputError, match="multiples of 128"):
        contrast_maps(bins[:100])
    maps = contrast_maps(bins)
    assert maps.shape == (2, 3, 256)
    assert blocks_needed(Window(0, 0, 64, 65), (2, 3)) == Window(0, 0, 1, 2)
    assert blocks_needed(Window(191, 192, 192, 384), (2, 3)) == Window(0, 1, 2, 3)
    window = bins[100:200, 200:300]
    for first, passed in [((1, 0), maps), ((0, 2), maps), ((0, 0), maps[:, :2])]:
        with pytest.raises(InputError, match=r"blocks 0\.\.2, 1\.\.3"):
            equalize(window, passed, (100, 200), first, (2, 3))


def test_other_dtypes_are_refused():
    with pytest.raises(InputError, match="float64"):
        preprocess(np.ones((1, 3, 3)))
    with pytest.raises(InputError, match="fine"):
        cap_level(count_levels(np.ones((2, 2), np.float32)), np.float32)
