import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codexseg.core.intensity.histogram import histogram
from codexseg.core.intensity.scaling import (
    IntensityScaling,
    choose_windows,
    equivalent_diameters,
    median_diameter,
)
from codexseg.errors import InputError

# --- diameters ----------------------------------------------------------------------------


def discs(radii, side=40):
    labels = np.zeros((side, side * len(radii)), np.uint32)
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    for i, radius in enumerate(radii):
        labels[np.hypot(y - side / 2, x - side * (i + 0.5)) < radius] = 10 * (i + 1)
    return labels


def test_diameters_of_discs():
    diameters = equivalent_diameters(discs([4, 9, 15]))
    assert diameters == pytest.approx([8, 18, 30], rel=0.06)


def test_objects_at_the_edge_are_excluded():
    labels = discs([4, 9, 15])[10:]
    assert equivalent_diameters(labels) == pytest.approx([8, 18], rel=0.06)


def test_objects_without_signal_are_excluded():
    labels = discs([4, 9, 15])
    signal = np.zeros(labels.shape, bool)
    signal[20, 60] = True
    assert equivalent_diameters(labels, signal) == pytest.approx([18], rel=0.06)
    assert equivalent_diameters(np.zeros((9, 9), np.uint32)).size == 0


def test_median_diameter_pools_windows_and_has_a_floor():
    windows = [np.array([1.0, 2.0, 30.0]), np.array([]), np.array([3.0, 4.0])]
    assert median_diameter(windows, 2.0) == 3.0
    assert median_diameter(windows, 5.0) == 5.0
    assert median_diameter([np.array([])], 5.0) is None
    assert median_diameter([], 5.0) is None


# --- windows ------------------------------------------------------------------------------

maps = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda shape: arrays(bool, shape)
)


@settings(max_examples=60, deadline=None)
@given(maps, st.integers(0, 63), st.integers(0, 63), st.integers(1, 12))
def test_windows_are_disjoint_within_the_slide_and_on_signal(signal, dy, dx, count):
    shape = (signal.shape[0] * 64 - dy, signal.shape[1] * 64 - dx)
    windows = choose_windows(signal, shape, 256, count)
    assert windows == choose_windows(signal.copy(), shape, 256, count)
    assert len(windows) == len(set(windows)) <= count
    assert bool(windows) == signal.any()
    counts = []
    for window in windows:
        assert 0 <= window.y0 < window.y1 <= shape[0]
        assert 0 <= window.x0 < window.x1 <= shape[1]
        assert max(window.shape) <= 256
        assert all(
            window.intersection(other) is None for other in windows if other != window
        )
        y, x = window.y0 // 64, window.x0 // 64
        counts.append(signal[y : y + 4, x : x + 4].sum())
    assert all(count >= 0.75 * counts[0] > 0 for count in counts)
    assert not counts or counts[0] == max(counts)


def test_windows_are_spread_over_the_slide():
    signal = np.ones((64, 64), bool)
    windows = choose_windows(signal, (4096, 4096), 512, 9)
    centres = np.array([((w.y0 + w.y1) / 2, (w.x0 + w.x1) / 2) for w in windows])
    assert len(windows) == 9
    quarters = {(y > 2048, x > 2048) for y, x in centres}
    assert len(quarters) == 4
    apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    assert apart[apart > 0].min() > 1000


def test_window_side_that_is_no_multiple_of_a_block_is_refused():
    with pytest.raises(InputError, match="100 px"):
        choose_windows(np.ones((4, 4), bool), (256, 256), 100, 2)


# --- intensities --------------------------------------------------------------------------


def test_percentiles_become_0_and_1():
    pixels = np.arange(1000, dtype=np.uint16).reshape(20, 50) + 500
    scaling = IntensityScaling.of(histogram(pixels), (1, 99), pixels.dtype)
    assert (scaling.low, scaling.high) == (509, 1489)
    scaled = scaling.apply(pixels)
    assert scaled.dtype == np.float32
    assert scaled.min() == 0
    assert scaled.ravel()[[9, 989]] == pytest.approx([0, 1])
    assert scaled.max() == pytest.approx(990 / 980)


@settings(deadline=None)
@given(
    arrays(np.uint16, (6, 7)),
    st.integers(1, 4),
    st.integers(0, 500),
    st.floats(0, 49),
    st.floats(51, 100),
)
def test_scaled_pixels_do_not_depend_on_gain_and_offset(pixels, gain, offset, low, high):
    pixels = pixels // 8
    changed = (pixels * gain + offset).astype(np.uint16)
    scaling, rescaled = (
        IntensityScaling.of(histogram(p), (low, high), p.dtype) for p in (pixels, changed)
    )
    if scaling.is_flat:
        assert rescaled.is_flat
        assert np.array_equal(scaling.apply(pixels), pixels.astype(np.float32))
    else:
        assert np.allclose(
            scaling.apply(pixels), rescaled.apply(changed), rtol=1e-4, atol=1e-4
        )
        levels = [scaling.level(float(p)) for p in pixels.ravel()]
        assert np.allclose(scaling.apply(pixels).ravel(), levels, rtol=1e-5, atol=1e-5)
