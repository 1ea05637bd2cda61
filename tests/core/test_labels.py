import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.segmentation import find_boundaries

from codexseg.core.labels.operations import (
    any_where,
    as_labels,
    inner_boundary,
    label_boundaries,
    object_table,
    relabel,
    renumber,
)
from codexseg.errors import InputError
from tests.helpers.drawing import draw

few = st.sampled_from([0, 1, 2, 7, 65_536, 2**31, 2**32 - 1])
label_images = arrays(np.uint32, array_shapes(min_dims=2, max_dims=2), elements=few)
many = st.integers(0, 2**32 - 1)
scattered = arrays(np.uint32, (40, 50), elements=many, fill=st.nothing())


def test_boundary_is_inside_the_object_and_excludes_the_image_border():
    labels = draw("""
        1111.
        1111.
        1112.
        ..222
    """)
    expected = draw("""
        ...1.
        ...1.
        1112.
        ..2.2
    """)
    assert np.array_equal(label_boundaries(labels), expected)


@given(label_images)
@settings(deadline=None)
def test_boundaries_match_scikit_image(labels):
    expected = find_boundaries(labels, mode="inner", connectivity=1) & (labels > 0)
    assert np.array_equal(inner_boundary(labels), expected)
    assert np.array_equal(label_boundaries(labels), np.where(expected, labels, 0))


def test_strided_view_gives_same_result_as_copy():
    labels = np.random.default_rng(1).integers(0, 4, (30, 40)).astype(np.uint32)
    view = labels[3:-4:2, 5:-6]
    assert np.array_equal(inner_boundary(view), inner_boundary(view.copy()))
    assert np.array_equal(object_table(view.T).area, object_table(view.T.copy()).area)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1)])
def test_empty_and_single_pixel_images_have_no_boundary(shape):
    labels = np.ones(shape, np.uint32)
    assert inner_boundary(labels).shape == shape
    assert not inner_boundary(labels).any()
    assert object_table(labels).area.sum() == labels.size


@given(label_images | scattered)
@settings(deadline=None, max_examples=50)
def test_object_table_matches_numpy_unique(labels):
    table = object_table(labels)
    label, first, area = np.unique(labels, return_index=True, return_counts=True)
    is_object = label > 0
    assert table.label.dtype == np.uint32
    assert np.array_equal(table.label, label[is_object])
    assert np.array_equal(table.area, area[is_object])
    assert np.array_equal(table.first, first[is_object])


@given(label_images | scattered, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_relabel_maps_listed_labels_and_clears_others(labels, random):
    present = object_table(labels).label.tolist()
    old = random.sample(present, len(present) // 2)
    new = random.sample(range(1, 2**32), len(old))
    mapping = dict(zip(old, new, strict=True))
    expected = [[mapping.get(label, 0) for label in row] for row in labels.tolist()]
    relabelled = relabel(labels, np.array(old, np.uint32), np.array(new, np.uint32))
    assert np.array_equal(relabelled, np.array(expected, np.uint32).reshape(labels.shape))


def test_relabel_rejects_duplicates_zero_and_unequal_lengths():
    labels = draw("12")
    with pytest.raises(InputError, match="Label 2 in row 2"):
        relabel(labels, np.array([2, 1, 2], np.uint32), np.array([1, 2, 3], np.uint32))
    with pytest.raises(InputError, match="Label 0 in row 0"):
        relabel(labels, np.array([0], np.uint32), np.array([1], np.uint32))
    with pytest.raises(InputError, match="1 old and 2 new"):
        relabel(labels, np.array([1], np.uint32), np.array([1, 2], np.uint32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_as_labels_converts_integers_to_uint32(dtype):
    labels = as_labels(draw("1.2").astype(dtype), "cells")
    assert labels.dtype == np.uint32
    assert labels.tolist() == [[1, 0, 2]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((1, 4, 4), np.uint32), r"cells has shape \(1, 4, 4\), expected \(y, x\)"),
        (np.zeros((4, 4)), "dtype float64, expected integers"),
        (np.zeros((4, 4), bool), "dtype bool, expected integers"),
        (np.full((2, 2), -3), "labels from -3 to -3"),
        (np.full((2, 2), 2**32), "expected 0 .background. to 4294967295"),
    ],
)
def test_as_labels_rejects_invalid_arrays(labels, message):
    with pytest.raises(InputError, match=message):
        as_labels(labels, "cells")


@given(
    arrays(np.uint32, array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 9)),
    arrays(np.uint32, 10, elements=many),
)
@settings(deadline=None)
def test_renumber_matches_numpy_indexing(labels, numbers):
    assert np.array_equal(renumber(labels, numbers), numbers[labels])
    assert np.array_equal(renumber(labels[::2, ::-1], numbers), numbers[labels[::2, ::-1]])


def test_renumber_accepts_memory_mapped_numbers(tmp_path):
    labels, numbers = draw("1122."), np.array([0, 7, 2**32 - 1], np.uint32)
    np.save(tmp_path / "numbers.npy", numbers)
    mapped = np.load(tmp_path / "numbers.npy", mmap_mode="r")
    assert np.array_equal(renumber(labels, mapped), numbers[labels])


def test_renumber_rejects_label_without_number():
    with pytest.raises(InputError, match="Label 2 has no new number"):
        renumber(draw("1122."), np.array([0, 7], np.uint32))


@given(label_images, st.integers(0, 2**32))
@settings(deadline=None)
def test_any_where_matches_numpy(labels, seed):
    where = np.random.default_rng(seed).random(labels.shape) < 0.1
    assert any_where(labels, where) == bool((labels[where] > 0).any())
