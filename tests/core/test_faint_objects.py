import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codexseg.core.algorithms.object_filters import remove_faint_objects
from tests.helpers.drawing import draw


def test_object_is_kept_if_its_maximum_reaches_the_level():
    labels = draw("""
        11.22
        11.22
        ...33
    """)
    maxima = np.array(
        [
            [0.1, 0.5, 0.9, 0.4, 0.3],
            [0.2, 0.2, 0.9, 0.1, 0.1],
            [0.9, 0.9, 0.9, 0.1, 0.6],
        ],
        np.float32,
    )
    expected = draw("""
        11...
        11...
        ...22
    """)
    found = remove_faint_objects(labels, maxima, 0.5)
    assert np.array_equal(found, expected)
    assert found.dtype == np.uint32
    assert remove_faint_objects(labels, maxima, 0) is labels
    assert not remove_faint_objects(labels, maxima, 0.95).any()


def test_object_with_bright_centre_only_is_removed_on_average():
    labels = draw("""
        111.222
    """)
    values = np.array([[0.1, 1, 0.1, 0, 0.5, 0.5, 0.5]], np.float32)
    found = remove_faint_objects(labels, values, 0.5, on_average=True)
    assert np.array_equal(found, draw("....111"))
    assert np.array_equal(remove_faint_objects(labels, values, 0.5), labels)


@settings(deadline=None)
@given(
    arrays(np.uint32, (6, 9), elements=st.integers(0, 5)),
    arrays(np.float32, (6, 9), elements=st.floats(0, 1, width=32)),
    st.floats(0.01, 1),
    st.booleans(),
)
def test_filtered_labels_equal_loop_over_objects(labels, values, least, on_average):
    expected, number = np.zeros_like(labels), 0
    for label in np.unique(labels[labels > 0]):
        inside = values[labels == label]
        level = np.float32(np.mean(inside, dtype=float)) if on_average else inside.max()
        if level >= np.float32(least):
            number += 1
            expected[labels == label] = number
    found = remove_faint_objects(labels, values, least, on_average=on_average)
    assert np.array_equal(found, expected)
