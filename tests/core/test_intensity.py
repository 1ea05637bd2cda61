import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from codexseg.core.intensity.histogram import (
    are_grey_levels,
    bin_values,
    block_mean,
    histogram,
    merge_channels,
    percentile,
    sum_levels,
)
from codexseg.errors import InputError

images = arrays(np.uint16, (9, 7))
greys = st.floats(0, 2.0**20, width=32).map(abs)  # no -0.0
any_images = st.one_of(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)),
    arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=40)),
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=greys),
)


def bins_of(image):
    if image.dtype.kind == "f":
        return np.ascontiguousarray(image).view(np.uint32).astype(np.int64) >> 16
    return image.astype(np.int64)


@settings(deadline=None)
@given(any_images)
def test_histograms_count_every_pixel_once(image):
    for view in (image, image[::2, ::-3], image.T, image[:0], image[:, :0]):
        expected = np.bincount(bins_of(view).ravel(), minlength=65536)
        counts = histogram(view)
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, ">u2", bool])
def test_histograms_are_of_grey_levels_that_have_a_bin(dtype):
    with pytest.raises(InputError, match="expected uint8, uint16 or float32"):
        histogram(np.ones((2, 2), dtype))


def test_a_histogram_of_pixels_that_may_not_be_written_to():
    image = np.full((3, 4), 65535, np.uint16)
    image.flags.writeable = False
    assert histogram(image)[65535] == 12


@settings(deadline=None)
@given(images, images)
def test_histograms_of_windows_add_up_to_the_slides(one, other):
    both = histogram(np.concatenate([one, other]))
    np.testing.assert_array_equal(histogram(one) + histogram(other), both)


@settings(deadline=None)
@given(images, st.floats(0.1, 100))
def test_percentiles_of_integers_are_exact(image, percent):
    expected = np.percentile(image, percent, method="inverted_cdf")
    assert percentile(histogram(image), percent, image.dtype) == expected


@settings(deadline=None)
@given(arrays(np.float32, (5, 10), elements=st.floats(2**-10, 2**20, width=32)))
def test_percentiles_of_floats_are_right_to_half_a_percent(values):
    found = percentile(histogram(values), 50, values.dtype)
    assert found == pytest.approx(
        np.percentile(values, 50, method="inverted_cdf"), rel=0.005
    )


def test_bins_of_floats_rise():
    values = bin_values(np.dtype(np.float32))[:0x7F80]
    assert np.all(np.diff(values) > 0)
    assert (
        percentile(histogram(np.zeros((3, 3), np.float32)), 50, np.dtype(np.float32)) == 0
    )


def test_an_empty_histogram_has_no_percentile():
    assert np.isnan(percentile(np.zeros(65536, np.int64), 50, np.dtype(np.uint8)))


def test_markers_merge_by_their_maximum_raw_or_scaled():
    one, other = np.array([[10, 0]], np.uint16), np.array([[4, 8]], np.uint16)
    assert merge_channels([one]) is one
    assert merge_channels([one, other]).tolist() == [[10, 8]]
    assert merge_channels([one, other], [100, 8]).ravel().tolist() == pytest.approx(
        [0.5, 1.0]
    )
    assert merge_channels([one, other], [100, 0]).tolist()[0] == pytest.approx([0.1, 0])


def block_mean_of_old(pixels, factor):
    """What runs were made with before there was a kernel: whole arrays at a time."""
    height, width = pixels.shape
    pad = (-height % factor, -width % factor)
    if any(pad):
        pixels = np.pad(pixels, ((0, pad[0]), (0, pad[1])), mode="edge")
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    lines = np.zeros((rows, pixels.shape[1]), np.float32)
    for offset in range(factor):
        lines += pixels[offset::factor]
    means = np.zeros((rows, columns), np.float32)
    for offset in range(factor):
        means += lines[:, offset::factor]
    means /= np.float32(factor * factor)
    return means


@settings(deadline=None)
@given(any_images, st.integers(1, 9))
def test_block_means_are_to_the_last_digit_what_they_were(image, factor):
    for view in (image, image[::2, ::-3], image.T):
        means = block_mean(view, factor)
        assert means.dtype == np.float32
        np.testing.assert_array_equal(means, block_mean_of_old(view, factor))


@pytest.mark.parametrize("factor", [3, 4, 16, 64])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_block_means_of_many_digits_are_what_they_were(dtype, factor):
    image = (np.random.default_rng(0).random((261, 199)) * 65535).astype(dtype)
    np.testing.assert_array_equal(
        block_mean(image, factor), block_mean_of_old(image, factor)
    )


@settings(deadline=None)
@given(any_images)
def test_block_means_are_means_of_blocks(image):
    means = block_mean(image, 4)
    height, width = image.shape[0] // 4, image.shape[1] // 4
    whole = image[: height * 4, : width * 4].reshape(height, 4, width, 4)
    expected = whole.mean(axis=(1, 3), dtype=np.float64)
    np.testing.assert_allclose(means[:height, :width], expected, rtol=1e-6)
    assert means.shape == (-(-image.shape[0] // 4), -(-image.shape[1] // 4))


@settings(deadline=None)
@given(any_images)
def test_sums_of_levels(image):
    values = image.astype(np.float64)
    expected = values.min(), values.max(), values.sum(), (values**2).sum()
    np.testing.assert_allclose(sum_levels(image), expected, rtol=1e-12)


def test_sums_of_an_image_without_pixels_change_no_others():
    assert sum_levels(np.zeros((0, 5), np.float32)).tolist() == [np.inf, -np.inf, 0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1, -1e-45])
def test_values_that_are_no_grey_levels(value):
    image = np.zeros((5, 7), np.float32)
    image[4, 2] = value
    assert not are_grey_levels(image)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 3.4e38])
def test_values_that_are_grey_levels(value):
    assert are_grey_levels(np.full((5, 7), value, np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    "statistic",
    [histogram, sum_levels, are_grey_levels, lambda image: block_mean(image, 8)],
)
def test_no_statistic_makes_an_array_of_the_size_of_the_image(statistic, dtype):
    image = np.ones((2048, 1024), dtype)
    statistic(image[:2])  # compiles
    tracemalloc.start()
    try:
        statistic(image)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < image.size / 2


def test_a_negative_zero_counts_as_zero():
    counts = histogram(np.array([[-0.0, 0.0, 1.0]], np.float32))
    assert counts[0] == 2
    assert counts.sum() == 3
