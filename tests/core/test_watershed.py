import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from codexseg.core.algorithms.basins import (
    climb,
    connected,
    fill_enclosed_gaps,
    merge,
    trim,
)
from codexseg.core.algorithms.nuclei_watershed import (
    ChannelLevels,
    WatershedOptions,
    gaussian,
    segment_nuclei,
)
from codexseg.core.labels.expand import grow_labels
from tests.helpers.drawing import draw

NOTHING = -np.inf


def surface(picture):
    """Return heights from text with one digit per pixel and '.' for background."""
    return np.where([[p == "." for p in row] for row in picture.split()], NOTHING,
                    draw(picture)).astype(np.float32)  # fmt: skip


def blobs(centres, radius=4.0, shape=(40, 60), height=1000.0):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, 100.0)
    for y, x in centres:
        far = np.hypot(yy - y, xx - x)
        image += height * np.clip(1.2 - (far / radius) ** 2, 0, 1)
    return image.astype(np.uint16)


def nuclei_of(image, marker=None, **options):
    levels = ChannelLevels(100.0, 5.0, 1100.0)
    scales = (levels, levels if marker is not None else None)
    return segment_nuclei(image, marker, scales, 0.8, WatershedOptions(**options))


def test_pixels_are_assigned_to_the_peak_of_steepest_ascent():
    basins, peaks = climb(surface("123.321 234.432 123.322"))
    assert basins.tolist() == draw("111.222 111.222 111.222").tolist()
    assert peaks[1:].tolist() == [[1, 2], [1, 4]]


def test_peak_of_a_plateau_is_its_last_pixel():
    basins, peaks = climb(surface("5555 5555 5555"))
    assert (basins == 1).all()
    assert peaks[1:].tolist() == [[2, 3]]


surfaces = arrays(np.float32, (9, 11), elements=st.sampled_from([NOTHING, 1, 1, 2, 3]))


@settings(max_examples=60, deadline=None)
@given(surfaces)
def test_basins_cover_foreground_and_contain_their_peaks(heights):
    basins, peaks = climb(heights)
    assert np.array_equal(basins > 0, np.isfinite(heights))
    assert np.array_equal(basins[tuple(peaks[1:].T)], np.arange(1, len(peaks)))
    for label, peak in enumerate(peaks[1:], 1):
        assert heights[tuple(peak)] == heights[basins == label].max()
        assert ndimage.label(basins == label, np.ones((3, 3)))[1] == 1


def test_trim_removes_low_and_distant_pixels():
    heights = surface("1248642222")
    basins, peaks = climb(heights)
    basins[:] = 1
    trim(basins, heights, peaks, 0.25, 4.0)
    assert basins.tolist() == draw(".1111111..").tolist()


def joined(picture, level, distance):
    heights = surface(picture)
    basins, peaks = climb(heights)
    objects = merge(basins, heights, peaks, level, distance)
    return len(np.unique(objects[objects > 0]))


def test_basins_merge_across_shallow_saddle_if_peaks_are_close():
    assert joined("39893", 0.8, 4.0) == 1
    assert joined("39593", 0.8, 4.0) == 2
    assert joined("39889888893", 0.8, 4.0) == 2
    assert joined("39889888893", 0.8, 9.0) == 1


def test_chain_of_linked_basins_is_one_object():
    assert joined("9898989", 0.8, 2.0) == 1


def test_plateau_of_irregular_shape_is_one_object():
    assert joined("9.9.9 99999 9.9.9 99999", 1.0, 9.0) == 1


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint32, (8, 9), elements=st.integers(0, 3)), st.integers(1, 5))
def test_connected_parts_of_minimum_size_equal_scipy_labels(objects, least):
    parts = connected(objects.copy(), least)
    expected = np.zeros(objects.shape, bool)
    count = 0
    for value in (1, 2, 3):
        labels, n = ndimage.label(objects == value)
        for i in range(1, n + 1):
            if (labels == i).sum() >= least:
                expected |= labels == i
                count += 1
                assert len(np.unique(parts[labels == i])) == 1
    assert np.array_equal(parts > 0, expected)
    _, first = np.unique(parts[parts > 0], return_index=True)
    assert len(first) == count
    assert (np.diff(first) > 0).all()


def test_only_gaps_enclosed_by_one_label_are_filled():
    labels = draw("""
        1111.111222
        1.11.1.1.22
        1111111122.
    """)
    assert (
        fill_enclosed_gaps(labels, 3).tolist()
        == draw("""
        1111.111222
        1111.111.22
        1111111122.
    """).tolist()
    )
    assert (
        fill_enclosed_gaps(draw("111 1.1 111"), 1).tolist() == draw("111 1.1 111").tolist()
    )


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint32, (12, 13), elements=st.sampled_from([0, 0, 0, 0, 0, 1, 2])),
    st.floats(0, 6),
)
def test_grown_pixels_have_the_nearest_label_within_radius(labels, radius):
    grown = grow_labels(labels, radius)
    near = [
        ndimage.distance_transform_edt(labels != i) if (labels == i).any() else
        np.full(labels.shape, np.inf) for i in (1, 2)
    ]  # fmt: skip
    assert np.array_equal(grown > 0, np.minimum(*near) <= radius)
    assert (near[0] <= near[1])[grown == 1].all()
    assert (near[1] <= near[0])[grown == 2].all()


def test_equidistant_pixels_take_the_left_then_the_upper_label():
    assert grow_labels(draw("1...2"), 2).tolist() == draw("11122").tolist()
    assert grow_labels(draw("1 . 2"), 1).tolist() == draw("1 1 2").tolist()


def test_gaussian_matches_scipy_and_is_bit_identical_in_windows():
    image = np.random.default_rng(0).random((70, 83)).astype(np.float32)
    whole = gaussian(image, 2.3)
    expected = ndimage.gaussian_filter(image, 2.3, radius=7, mode="nearest")
    np.testing.assert_allclose(whole, expected, rtol=1e-5)
    for y, x in ((1, 0), (13, 7), (20, 31)):
        window = gaussian(image[y : y + 40, x : x + 45].copy(), 2.3)
        assert np.array_equal(window[7:-7, 7:-7], whole[y : y + 40, x : x + 45][7:-7, 7:-7])


def test_touching_nuclei_are_split():
    assert nuclei_of(blobs([(20, 20), (20, 28)])).max() == 2


def test_single_nucleus_is_one_object_of_expected_area():
    nuclei = nuclei_of(blobs([(20, 30)]))
    assert nuclei.max() == 1
    assert np.pi * 3**2 < (nuclei > 0).sum() < np.pi * 5.5**2


def test_larger_diameter_merges_adjacent_nuclei():
    image = blobs([(20, 26), (20, 34)], radius=5.0)
    assert nuclei_of(image, nucleus_diameter_um=4.0).max() == 2
    assert nuclei_of(image, nucleus_diameter_um=12.0).max() == 1


def test_membrane_signal_splits_undivided_nuclear_signal():
    image = np.full((40, 60), 100, np.uint16)
    image[15:25, 22:38] = 1100
    membrane = np.full((40, 60), 100, np.uint16)
    membrane[:, 29:31] = 1100
    large = {"nucleus_diameter_um": 10.0}
    assert nuclei_of(image, **large).max() == 1
    assert nuclei_of(image, membrane, **large).max() == 2
    assert nuclei_of(image, membrane, membrane_weight=0.0, **large).max() == 1


def test_centre_of_wide_plateau_belongs_to_no_nucleus():
    image = np.full((120, 120), 100, np.uint16)
    image[20:100, 20:100] = 65535
    nuclei = nuclei_of(image)
    assert not nuclei[45:75, 45:75].any()  # no contrast with the surround
