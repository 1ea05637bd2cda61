import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codexseg.core.faint_objects import remove_faint_objects
from tests.drawing import draw


def test_an_object_stays_where_its_highest_value_reaches_the_level():
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


@given(
    arrays(np.uint32, (6, 9), elements=st.integers(0, 5)),
    arrays(np.float32, (6, 9), elements=st.floats(0, 1, width=32)),
    st.floats(0.01, 1),
)
def test_it_is_what_one_would_write_with_a_loop(labels, maxima, least):
    expected, number = np.zeros_like(labels), 0
    for label in np.unique(labels[labels > 0]):
        if maxima[labels == label].max() >= np.float32(least):
            number += 1
            expected[labels == label] = number
    assert np.array_equal(remove_faint_objects(labels, maxima, least), expected)
