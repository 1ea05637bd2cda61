import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from codexseg.core.grid import Window
from codexseg.core.intensity.background import (
    BLOCK_PX,
    estimate_background,
    has_signal,
    measure_blocks,
    patch_statistics,
    signal_pixels,
)
from codexseg.core.intensity.histogram import block_mean


def signal_of(image, p999):
    blocks = measure_blocks(image)
    integer = image.dtype.kind != "f"
    return blocks.peak > estimate_background(blocks, p999, integer=integer).threshold


def camera(shape, seed=0):
    return np.random.default_rng(seed).normal(300, 60, shape)


def test_camera_offset_with_noise_is_not_signal():
    image = camera((1024, 1024)).astype(np.uint16)
    assert not signal_of(image, 20000).any()


def test_small_faint_nucleus_is_signal_in_its_block_only():
    image = camera((512, 512))
    image[100:110, 200:210] += 400  # 6 times the noise of a pixel, 5 um across
    signal = signal_of(image.astype(np.uint16), 20000)
    assert np.argwhere(signal).tolist() == [[1, 3]]


def test_slide_full_of_tissue_is_all_signal():
    rng = np.random.default_rng(0)
    image = rng.gamma(2, 2000, (64, 64)).repeat(8, axis=0).repeat(8, axis=1)
    assert signal_of(image.astype(np.uint16), float(np.percentile(image, 99.9))).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_constant_slide_has_no_signal(dtype):
    assert not signal_of(np.full((200, 300), 7, dtype), 7).any()


def test_slide_without_noise_has_signal_in_the_block_of_its_cell_only():
    image = np.zeros((256, 256), np.uint8)
    image[70:76, 130:136] = 3
    assert np.argwhere(signal_of(image, 3)).tolist() == [[1, 2]]


@given(st.data())
def test_signal_of_a_pixel_does_not_depend_on_the_window(data):
    signal = np.random.default_rng(1).random((5, 6)) < 0.3
    height, width = 5 * BLOCK_PX - 10, 6 * BLOCK_PX - 30
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    window = Window(y0, x0, y1, x1)
    whole = signal_pixels(signal, Window(0, 0, height, width))
    np.testing.assert_array_equal(signal_pixels(signal, window), whole[window.slices])
    assert has_signal(signal, window) >= whole[window.slices].any()
    assert has_signal(signal, window) == signal_pixels(signal, window).any()


def test_patch_statistics_by_hand():
    patch = np.array([[[0, 4], [4, 8]], [[1, 1], [1, 1]]], np.uint16)
    statistics = patch_statistics(patch)
    assert statistics["nucleus_mean"] == 4
    assert statistics["nucleus_std"] == pytest.approx(np.std([0, 4, 4, 8]))
    assert statistics["nucleus_non_zero_perc"] == 0.75
    assert statistics["wholecell_non_zero_perc"] == 1.0


def patches(dtype, **elements):
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=30)
    return shapes.flatmap(lambda shape: arrays(dtype, (2, *shape), **elements))


@settings(deadline=None)
@given(
    st.one_of(
        patches(np.uint8),
        patches(np.uint16),
        patches(np.float32, elements=st.floats(0, 2.0**30, width=32)),
    )
)
def test_patch_statistics_equal_numpy(patch):
    statistics = patch_statistics(patch)
    for name, pixels in zip(
        ("nucleus", "wholecell"), patch.astype(np.float64), strict=True
    ):
        assert statistics[f"{name}_mean"] == pytest.approx(pixels.mean(), rel=1e-12)
        # a standard deviation of mere rounding errors has no correct digit
        rounding = 1e-15 * pixels.max()
        assert statistics[f"{name}_std"] == pytest.approx(
            pixels.std(), rel=1e-12, abs=rounding
        )
        assert statistics[f"{name}_non_zero_perc"] == np.count_nonzero(pixels) / pixels.size


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_patch_statistics_of_a_small_spread_on_a_high_offset(dtype):
    patch = np.full((2, 500, 600), 60000, dtype)
    patch[:, ::2, ::3] += 1
    statistics = patch_statistics(patch)
    assert statistics["nucleus_mean"] == pytest.approx(60000 + 1 / 6, rel=1e-14)
    assert statistics["nucleus_std"] == pytest.approx(np.sqrt(5) / 6, rel=1e-12)


def measure_blocks_by_numpy(image):
    """Return level, noise and peak, computed with whole arrays in numpy."""
    means = block_mean(image, 4)
    pad = (-means.shape[0] % 16, -means.shape[1] % 16)
    means = np.pad(means, ((0, pad[0]), (0, pad[1])), mode="symmetric")
    rows, columns = means.shape[0] // 16, means.shape[1] // 16
    split = means.reshape(rows, 16, columns, 16).swapaxes(1, 2)
    steps = np.abs(np.diff(split, axis=3)).reshape(rows, columns, -1)
    noise = np.sort(steps)[..., 60] / np.float32(0.4506)
    blocks = split.reshape(rows, columns, 256)
    level = np.sort(blocks)[..., 25] - np.float32(-1.2816) * noise
    return level, noise, blocks.max(axis=2)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_blocks_equal_the_reference_to_the_last_digit(data):
    shape = data.draw(st.tuples(st.integers(1, 200), st.integers(1, 200)))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    levels = data.draw(st.sampled_from([1, 3, 200]))  # many ties, and few
    scale = data.draw(st.sampled_from([1, 0.1, 1e20])) if dtype == np.float32 else 1
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    image = (random.integers(0, levels, shape) * scale).astype(dtype)
    blocks = measure_blocks(image)
    measured = blocks.level, blocks.noise, blocks.peak
    for values, expected in zip(measured, measure_blocks_by_numpy(image), strict=True):
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    "statistic",
    [
        measure_blocks,
        lambda image: patch_statistics(np.broadcast_to(image, (2, *image.shape))),
    ],
)
def test_statistics_need_no_array_of_the_image_size(statistic, dtype):
    image = np.ones((1024, 1024), dtype)
    statistic(image[:64])  # compiles
    tracemalloc.start()
    try:
        statistic(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < image.size / 2
