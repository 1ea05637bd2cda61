"""Synthetic tissue."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.samples.tissue import CAMERA_OFFSET, CHANNELS, KINDS, MARKERS, Tissue

TISSUE = Tissue((700, 800), seed=3)


@pytest.fixture(scope="module")
def scene():
    return TISSUE.render(TISSUE.window)


@pytest.fixture(scope="module")
def table():
    return TISSUE.table()


def windows(height, width):
    def sides(length):
        pairs = st.tuples(st.integers(0, length), st.integers(0, length))
        return pairs.map(sorted).filter(lambda pair: pair[0] < pair[1])

    return st.builds(
        lambda y, x: Window(y[0], x[0], y[1], x[1]), sides(height), sides(width)
    )


@settings(max_examples=15, deadline=None)
@given(window=windows(*TISSUE.size))
def test_window_equals_slice_of_whole_slide(scene, window):
    part = TISSUE.render(window)
    assert np.array_equal(part.pixels, scene.pixels[:, *window.slices])
    assert np.array_equal(part.cells, scene.cells[window.slices])
    assert np.array_equal(part.nuclei, scene.nuclei[window.slices])


@pytest.mark.parametrize("mpp", [0.25, 0.9])
def test_windows_agree_at_other_pixel_sizes(mpp):
    tissue = replace(TISSUE, mpp=mpp)
    whole, window = tissue.render(tissue.window), Window(290, 310, 400, 420)
    assert np.array_equal(tissue.render(window).pixels, whole.pixels[:, *window.slices])


def test_windows_of_huge_slide_agree_where_they_overlap():
    tissue = Tissue((100_000, 100_000), seed=1)
    y, x = 50_000, 56_000
    both = tissue.render(Window(y, x, y + 64, x + 128))
    right = tissue.render(Window(y, x + 64, y + 64, x + 128))
    assert both.cells.any()
    assert np.array_equal(both.pixels[..., 64:], right.pixels)
    assert np.array_equal(both.cells[:, 64:], right.cells)


def test_tables_of_windows_partition_the_cells(table):
    height, width = TISSUE.size
    parts = [
        TISSUE.table(Window(y, x, min(height, y + 301), min(width, x + 333)))
        for y in range(0, height, 301)
        for x in range(0, width, 333)
    ]
    assert np.array_equal(np.sort(np.concatenate(parts), order="id"), table)


@pytest.mark.parametrize("mpp", [0.35, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_and_table_have_the_same_objects(seed, mpp):
    tissue = Tissue((400, 500), seed, mpp)
    scene, table = tissue.render(tissue.window), tissue.table()
    second = table["id"][table["n_nuclei"] == 2] + 1
    nuclei = np.concatenate([table["id"][table["n_nuclei"] > 0], second])
    assert np.array_equal(np.unique(scene.cells)[1:], table["id"])
    assert np.array_equal(np.unique(scene.nuclei)[1:], np.sort(nuclei))


def test_point_of_each_row_is_inside_its_cell(scene, table):
    y, x = (np.rint(table[axis]).astype(int) for axis in "yx")
    assert np.array_equal(scene.cells[y, x], table["id"])


def test_nuclei_are_inside_their_own_cells(scene):
    inside = scene.nuclei > 0
    owner = scene.nuclei[inside] - 1 + scene.nuclei[inside] % 2
    assert np.array_equal(owner, scene.cells[inside])


@pytest.mark.parametrize("name", ["cells", "nuclei"])
def test_every_object_is_connected(scene, name):
    labels = getattr(scene, name)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            _, pieces = ndimage.label(labels[box] == label)
            assert pieces == 1, label


def test_tissue_has_touching_and_binucleate_cells_of_plausible_size(scene, table):
    counts = np.bincount(table["n_nuclei"], minlength=3) / len(table)
    assert 0.03 < counts[0] < 0.15
    assert 0.005 < counts[2] < 0.1
    assert set(table["kind"]) == set(range(len(KINDS)))
    left, right = scene.cells[:, :-1], scene.cells[:, 1:]
    touching = (left != right) & (left > 0) & (right > 0)
    assert len(np.unique(left[touching])) > len(table) / 4
    area = np.bincount(scene.cells.ravel())[table["id"]] * TISSUE.mpp**2
    diameter = np.sqrt(4 * area / np.pi)
    assert np.percentile(diameter, 5) > 6
    assert 8 < np.median(diameter) < 12
    assert np.percentile(diameter, 95) < 16


def test_density_varies_between_blocks(scene):
    share = [block.mean() for block in _blocks(scene.cells > 0, 64)]
    assert min(share) == 0
    assert max(share) > 0.85
    assert np.std(share) > 0.2


def test_empty_glass_has_camera_offset_and_read_noise(scene):
    empty = [block for block in _blocks(scene.pixels[0], 64) if block.mean() < 302]
    assert len(empty) > 5
    glass = np.array(empty)
    assert abs(glass.mean() - CAMERA_OFFSET) < 1.5
    assert 10 < glass.std() < 25


def test_noise_grows_with_signal(scene):
    # differences of neighbouring pixels depend little on structure
    pixels = scene.pixels[0].astype(float)
    steps = (pixels[:, 1:] - pixels[:, :-1]) / np.sqrt(2)
    deep = ndimage.binary_erosion(scene.nuclei > 0, iterations=3)[:, 1:]
    glass = ndimage.binary_dilation(scene.cells > 0, iterations=60)[:, 1:]
    assert steps[deep].std() > 5 * steps[~glass].std()


@pytest.mark.parametrize("marker", MARKERS)
def test_positive_cells_are_bright(scene, table, marker):
    pixels = scene.pixels[CHANNELS.index(marker)] - float(CAMERA_OFFSET)
    means = ndimage.mean(pixels, scene.cells, table["id"])
    positive = table[f"positive_{marker}"]
    assert positive.sum() >= 10
    assert np.median(means[positive]) > 5 * np.median(means[~positive])
    # a threshold separates them, except for signal of bright neighbours
    threshold = np.sqrt(np.median(means[positive]) * np.median(means[~positive]))
    assert np.mean((means > threshold) == positive) > 0.9


def test_cd3_is_a_subset_of_cd45_and_ki67_needs_a_nucleus(table):
    assert np.all(table["positive_CD45"][table["positive_CD3"]])
    assert np.all(table["n_nuclei"][table["positive_KI67"]] > 0)


def test_pixels_depend_on_seed():
    window = Window(300, 300, 364, 364)
    pixels = TISSUE.render(window).pixels
    assert np.array_equal(pixels, Tissue((700, 800), seed=3).render(window).pixels)
    assert not np.array_equal(pixels, replace(TISSUE, seed=4).render(window).pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (30, 7)])
def test_small_slides_are_rendered(size):
    tissue = Tissue(size)
    scene = tissue.render(tissue.window)
    assert scene.pixels.shape == (len(CHANNELS), *size)
    assert np.array_equal(np.unique(scene.cells[scene.cells > 0]), tissue.table()["id"])


@pytest.mark.parametrize(
    ("size", "seed", "mpp"),
    [((0, 5), 0, 0.5), ((5, 5), -1, 0.5), ((5, 5), 0, 0.05), ((5, 5), 0, 2.0)],
)
def test_values_out_of_range_are_refused(size, seed, mpp):
    with pytest.raises(InputError, match="sides of at least 1 px"):
        Tissue(size, seed, mpp)


def test_slide_with_more_cells_than_uint32_labels_is_refused():
    with pytest.raises(InputError, match="uint32"):
        Tissue((500_000, 500_000))


@pytest.mark.parametrize("window", [Window(0, 0, 701, 5), Window(-1, 0, 5, 5)])
def test_window_outside_slide_is_refused(window):
    with pytest.raises(InputError, match="not inside the slide"):
        TISSUE.render(window)
    with pytest.raises(InputError, match="not inside the slide"):
        TISSUE.table(window)


def _blocks(image, side):
    for y in range(0, image.shape[0] - side + 1, side):
        for x in range(0, image.shape[1] - side + 1, side):
            yield image[y : y + side, x : x + side]
