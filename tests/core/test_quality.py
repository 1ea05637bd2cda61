import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexseg.core.grid import Window
from codexseg.core.quality import (
    BLOCK_PX,
    estimate_background,
    has_signal,
    measure_blocks,
    patch_statistics,
    signal_pixels,
)


def signal_of(image, p999):
    blocks = measure_blocks(image)
    integer = image.dtype.kind != "f"
    return blocks.peak > estimate_background(blocks, p999, integer=integer).threshold


def camera(shape, seed=0):
    return np.random.default_rng(seed).normal(300, 60, shape)


def test_an_offset_with_noise_is_not_signal():
    image = camera((1024, 1024)).astype(np.uint16)
    assert not signal_of(image, 20000).any()


def test_one_small_faint_nucleus_is_signal_in_its_block_alone():
    image = camera((512, 512))
    image[100:110, 200:210] += 400  # 6 times the noise of a pixel, 5 um across
    signal = signal_of(image.astype(np.uint16), 20000)
    assert np.argwhere(signal).tolist() == [[1, 3]]


def test_a_slide_full_of_tissue_is_all_signal():
    rng = np.random.default_rng(0)
    image = rng.gamma(2, 2000, (64, 64)).repeat(8, axis=0).repeat(8, axis=1)
    assert signal_of(image.astype(np.uint16), float(np.percentile(image, 99.9))).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_constant_slide_has_no_signal(dtype):
    assert not signal_of(np.full((200, 300), 7, dtype), 7).any()


def test_no_truly_empty_block_and_no_cell_of_a_slide_without_noise_is_misjudged():
    image = np.zeros((256, 256), np.uint8)
    image[70:76, 130:136] = 3
    assert np.argwhere(signal_of(image, 3)).tolist() == [[1, 2]]


@given(st.data())
def test_the_answer_for_a_pixel_does_not_depend_on_the_window(data):
    signal = np.random.default_rng(1).random((5, 6)) < 0.3
    height, width = 5 * BLOCK_PX - 10, 6 * BLOCK_PX - 30
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    window = Window(y0, x0, y1, x1)
    whole = signal_pixels(signal, Window(0, 0, height, width))
    np.testing.assert_array_equal(signal_pixels(signal, window), whole[window.slices])
    assert has_signal(signal, window) >= whole[window.slices].any()
    assert has_signal(signal, window) == signal_pixels(signal, window).any()


def test_statistics_are_the_specifications():
    patch = np.array([[[0, 4], [4, 8]], [[1, 1], [1, 1]]], np.uint16)
    found = patch_statistics(patch)
    assert found["nucleus_mean"] == 4
    assert found["nucleus_std"] == pytest.approx(np.std([0, 4, 4, 8]))
    assert found["nucleus_non_zero_perc"] == 0.75
    assert found["wholecell_non_zero_perc"] == 1.0
