import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from codexseg.core.intensity.histogram import (
    are_intensities,
    bin_values,
    block_mean,
    histogram,
    merge_channels,
    percentile,
    sum_intensities,
)
from codexseg.errors import InputError

images = arrays(np.uint16, (9, 7))
intensities = st.floats(0, 2.0**20, width=32).map(abs)  # no -0.0
any_images = st.one_of(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)),
    arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=40)),
    arrays(
        np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=intensities
    ),
)


def bins_of(image):
    if image.dtype.kind == "f":
        return np.ascontiguousarray(image).view(np.uint32).astype(np.int64) >> 16
    return image.astype(np.int64)


@settings(deadline=None)
@given(any_images)
def test_histogram_counts_every_pixel_once(image):
    for array in (image, image[::2, ::-3], image.T, image[:0], image[:, :0]):
        expected = np.bincount(bins_of(array).ravel(), minlength=65536)
        counts = histogram(array)
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, ">u2", bool])
def test_histogram_of_another_dtype_is_refused(dtype):
    with pytest.raises(InputError, match="expected uint8, uint16 or float32"):
        histogram(np.ones((2, 2), dtype))


def test_histogram_of_read_only_pixels():
    image = np.full((3, 4), 65535, np.uint16)
    image.flags.writeable = False
    assert histogram(image)[65535] == 12


@settings(deadline=None)
@given(images, images)
def test_histograms_of_windows_add_up(upper, lower):
    whole = histogram(np.concatenate([upper, lower]))
    np.testing.assert_array_equal(histogram(upper) + histogram(lower), whole)


@settings(deadline=None)
@given(images, st.floats(0.1, 100))
def test_percentiles_of_integers_are_exact(image, percent):
    expected = np.percentile(image, percent, method="inverted_cdf")
    assert percentile(histogram(image), percent, image.dtype) == expected


@settings(deadline=None)
@given(arrays(np.float32, (5, 10), elements=st.floats(2**-10, 2**20, width=32)))
def test_percentiles_of_floats_have_half_a_percent_error_at_most(values):
    median = percentile(histogram(values), 50, values.dtype)
    assert median == pytest.approx(
        np.percentile(values, 50, method="inverted_cdf"), rel=0.005
    )


def test_bin_values_of_floats_increase():
    values = bin_values(np.dtype(np.float32))[:0x7F80]
    assert np.all(np.diff(values) > 0)
    assert (
        percentile(histogram(np.zeros((3, 3), np.float32)), 50, np.dtype(np.float32)) == 0
    )


def test_percentile_of_an_empty_histogram_is_nan():
    assert np.isnan(percentile(np.zeros(65536, np.int64), 50, np.dtype(np.uint8)))


def test_markers_merge_by_maximum_raw_or_scaled():
    cd3, cd8 = np.array([[10, 0]], np.uint16), np.array([[4, 8]], np.uint16)
    assert merge_channels([cd3]) is cd3
    assert merge_channels([cd3, cd8]).tolist() == [[10, 8]]
    assert merge_channels([cd3, cd8], [100, 8]).ravel().tolist() == pytest.approx(
        [0.5, 1.0]
    )
    assert merge_channels([cd3, cd8], [100, 0]).tolist()[0] == pytest.approx([0.1, 0])


def block_mean_by_numpy(pixels, factor):
    """Reference in numpy, with the order of summation of the kernel."""
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


@pytest.mark.slow
@settings(deadline=None)
@given(any_images, st.integers(1, 9))
def test_block_means_equal_the_reference_to_the_last_digit(image, factor):
    for array in (image, image[::2, ::-3], image.T):
        means = block_mean(array, factor)
        assert means.dtype == np.float32
        np.testing.assert_array_equal(means, block_mean_by_numpy(array, factor))


@pytest.mark.parametrize("factor", [3, 4, 16, 64])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_block_means_of_large_images_equal_the_reference(dtype, factor):
    image = (np.random.default_rng(0).random((261, 199)) * 65535).astype(dtype)
    np.testing.assert_array_equal(
        block_mean(image, factor), block_mean_by_numpy(image, factor)
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
def test_sums_of_intensities(image):
    values = image.astype(np.float64)
    expected = values.min(), values.max(), values.sum(), (values**2).sum()
    np.testing.assert_allclose(sum_intensities(image), expected, rtol=1e-12)


def test_sums_of_an_empty_image_are_neutral():
    assert sum_intensities(np.zeros((0, 5), np.float32)).tolist() == [np.inf, -np.inf, 0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1, -1e-45])
def test_invalid_intensities_are_detected(value):
    image = np.zeros((5, 7), np.float32)
    image[4, 2] = value
    assert not are_intensities(image)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 3.4e38])
def test_valid_intensities_are_accepted(value):
    assert are_intensities(np.full((5, 7), value, np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    "statistic",
    [histogram, sum_intensities, are_intensities, lambda image: block_mean(image, 8)],
)
def test_statistics_need_no_array_of_the_image_size(statistic, dtype):
    image = np.ones((2048, 1024), dtype)
    statistic(image[:2])  # compiles
    tracemalloc.start()
    try:
        statistic(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < image.size / 2


def test_negative_zero_counts_as_zero():
    counts = histogram(np.array([[-0.0, 0.0, 1.0]], np.float32))
    assert counts[0] == 2
    assert counts.sum() == 3
