import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codexseg.core.intensity import (
    bin_values,
    block_mean,
    histogram,
    merge_channels,
    percentile,
)

images = arrays(np.uint16, (9, 7))


@given(images, images)
def test_histograms_of_windows_add_up_to_the_slides(one, other):
    both = histogram(np.concatenate([one, other]))
    np.testing.assert_array_equal(histogram(one) + histogram(other), both)


@given(images, st.floats(0.1, 100))
def test_percentiles_of_integers_are_exact(image, percent):
    expected = np.percentile(image, percent, method="inverted_cdf")
    assert percentile(histogram(image), percent, image.dtype) == expected


@given(arrays(np.float32, 50, elements=st.floats(2**-10, 2**20, width=32)))
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


@given(arrays(np.uint16, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_block_means_are_means_of_blocks(image):
    means = block_mean(image, 4)
    height, width = image.shape[0] // 4, image.shape[1] // 4
    whole = image[: height * 4, : width * 4].reshape(height, 4, width, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(means[:height, :width], whole, rtol=1e-6)
    assert means.shape == (-(-image.shape[0] // 4), -(-image.shape[1] // 4))
