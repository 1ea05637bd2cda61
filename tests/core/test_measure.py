from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage as ndi
from skimage.measure import regionprops_table

from codexseg.core.measure.intensity import (
    COMPARTMENTS,
    STATISTICS,
    cell_entropy,
    label_positions,
    measure_channel,
    split_compartments,
)
from codexseg.core.measure.morphology import measure_shapes, solidity
from codexseg.errors import InputError

MAX_LABEL = 2**32 - 1
SKIMAGE = {
    "area": "area",
    "y": "centroid-0",
    "x": "centroid-1",
    "bbox_y0": "bbox-0",
    "bbox_x0": "bbox-1",
    "bbox_y1": "bbox-2",
    "bbox_x1": "bbox-3",
    "eccentricity": "eccentricity",
    "axis_major_length": "axis_major_length",
    "axis_minor_length": "axis_minor_length",
}


def draw(drawing):
    rows = drawing.split()
    signs = sorted(set("".join(rows)) - {"."})
    values = {sign: i + 1 for i, sign in enumerate(signs)} | {".": 0}
    return np.array([[values[sign] for sign in row] for row in rows], np.uint32)


def tissue(seed=0, size=96, count=40):
    """Return touching cells with nuclei, labels with gaps in any order, and the ids."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros((size, size), np.uint32)
    spots = rng.choice(size * size, count, replace=False)
    seeds.flat[spots] = rng.choice(MAX_LABEL, count, replace=False) + 1
    distance, nearest = ndi.distance_transform_edt(seeds == 0, return_indices=True)
    cells = np.where(distance < 7, seeds[tuple(nearest)], 0).astype(np.uint32)
    nuclei = np.where(distance < 4, cells, 0).astype(np.uint32)
    return cells, nuclei, np.unique(seeds)[1:]


def compartments(cells, nuclei, ids):
    return split_compartments(
        label_positions(cells, ids), label_positions(nuclei, ids), len(ids)
    )


def expected(pixels, cells, nuclei, ids, statistic):
    functions = {"total": np.sum}
    functions |= {f"p{n}": partial(np.percentile, q=n) for n in (5, 25, 75, 95)}
    masks = {
        "cell": lambda i: cells == i,
        "nucleus": lambda i: nuclei == i,
        "cytoplasm": lambda i: (cells == i) & (nuclei != i),
    }
    function = functions.get(statistic, getattr(np, statistic, None))
    wide = pixels.astype(np.float64)
    return {
        f"{name}_{statistic}": [
            function(wide[mask(i)]) if mask(i).any() else np.nan for i in ids
        ]
        for name, mask in masks.items()
    }


def test_label_positions_returns_index_in_ids():
    labels = np.array([[0, 7, MAX_LABEL], [7, 3, 5]], np.uint32)
    index = label_positions(labels, np.array([3, 7, MAX_LABEL], np.uint32))
    assert index.tolist() == [[-1, 1, 2], [1, 0, -1]]


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], [0, 1]])
def test_label_positions_rejects_unsorted_ids(ids):
    with pytest.raises(InputError, match=r"ascending order.*numpy\.unique"):
        label_positions(np.zeros((2, 2), np.uint32), np.array(ids, np.uint32))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_measure_shapes_matches_regionprops(seed):
    cells, _, _ = tissue(seed)
    ids, dense = np.unique(cells, return_inverse=True)
    dense = dense.reshape(cells.shape).astype(np.int32)
    measured = measure_shapes(label_positions(cells, ids[1:]), len(ids) - 1, (0, 0))
    reference = regionprops_table(
        dense,
        properties=(
            *("area", "centroid", "bbox", "eccentricity", "orientation"),
            *("axis_major_length", "axis_minor_length"),
        ),
    )
    for name, property_name in SKIMAGE.items():
        np.testing.assert_allclose(
            measured[name], reference[property_name], atol=1e-6, err_msg=name
        )
    round_off = measured["eccentricity"] < 1e-6  # a disc has no direction
    turned = (measured["orientation"] - reference["orientation"] + 1) % np.pi
    np.testing.assert_allclose(turned[~round_off], 1, atol=1e-6)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=60, deadline=None)
def test_shape_of_random_object_matches_regionprops(height, width, data):
    mask = data.draw(arrays(np.int32, (height, width), elements=st.integers(0, 1)))
    mask[height // 2, width // 2] = 1
    measured = measure_shapes(mask - 1, 1, (0, 0))
    names = tuple({name.split("-")[0] for name in SKIMAGE.values()})
    reference = regionprops_table(mask, properties=(*names, "solidity"))
    for name, property_name in SKIMAGE.items():
        np.testing.assert_allclose(
            measured[name], reference[property_name], atol=1e-6, err_msg=name
        )
    np.testing.assert_allclose(solidity(mask - 1, 1), reference["solidity"])


@pytest.mark.parametrize(
    ("drawing", "angle"),
    [("aaaa", np.pi / 2), ("a a a a", 0.0), ("a.. .a. ..a", np.pi / 4)],
)
def test_orientation_is_measured_from_axis_0(drawing, angle):
    measured = measure_shapes(draw(drawing).astype(np.int32) - 1, 1, (0, 0))
    assert measured["orientation"][0] == angle
    assert measured["axis_minor_length"][0] == 0
    assert measured["eccentricity"][0] == 1


def test_shapes_of_single_pixel_and_empty_objects():
    index = np.array([[-1, 1]], np.int32)
    measured = measure_shapes(index, 3, (10, 20))
    assert measured["area"].tolist() == [0, 1, 0]
    assert measured["area"].dtype == np.int64
    assert (measured["y"][1], measured["x"][1]) == (10, 21)
    assert measured["eccentricity"][1] == measured["axis_major_length"][1] == 0
    box = [measured[f"bbox_{edge}"][1] for edge in ("y0", "x0", "y1", "x1")]
    assert box == [10, 21, 11, 22]
    for name in set(measured) - {"area"}:
        assert np.isnan(measured[name][[0, 2]]).all(), name
    np.testing.assert_array_equal(solidity(index, 3), [np.nan, 1, np.nan])


def test_solidity_of_touching_objects():
    measured = solidity(draw("aab abb aab").astype(np.int32) - 1, 2)
    np.testing.assert_allclose(measured, [5 / 6, 1])


def test_measure_channel_on_small_example():
    cells = draw("aabb. aabb.")
    nuclei = draw("a.... ...b.")
    pixels = np.array([[1, 2, 30, 40, 99], [4, 5, 60, 255, 99]], np.uint8)
    parts = compartments(cells, nuclei, np.array([1, 2], np.uint32))
    measured = measure_channel(pixels, parts, ["mean", "total", "max"])
    assert parts.areas.tolist() == [[4, 4], [1, 1], [3, 3]]
    assert measured["cell_total"].tolist() == [12, 385]
    assert measured["nucleus_mean"].tolist() == [1, 255]
    np.testing.assert_allclose(measured["cytoplasm_mean"], [11 / 3, 130 / 3])
    assert measured["cytoplasm_max"].tolist() == [5, 60]
    assert measured["cell_mean"].dtype == np.float32
    assert measured["cell_total"].dtype == np.float64


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_statistics_match_numpy(dtype):
    cells, nuclei, ids = tissue()
    pixels = np.random.default_rng(1).uniform(0, 255, cells.shape).astype(dtype)
    measured = measure_channel(pixels, compartments(cells, nuclei, ids), STATISTICS)
    assert list(measured) == [f"{c}_{s}" for s in STATISTICS for c in COMPARTMENTS]
    for statistic in STATISTICS:
        values = expected(pixels, cells, nuclei, ids, statistic)
        for name, column in values.items():
            np.testing.assert_allclose(measured[name], column, rtol=1e-6, err_msg=name)


def test_bright_uint16_sums_are_exact():
    pixels = np.full((300, 300), 65535, np.uint16)
    index = np.zeros(pixels.shape, np.int32)
    measured = measure_channel(pixels, split_compartments(index, index, 1), STATISTICS)
    assert measured["cell_total"][0] == 65535 * 90000
    assert measured["cell_mean"][0] == 65535
    assert measured["cell_std"][0] == 0
    assert np.isnan(measured["cytoplasm_mean"][0])


def test_std_is_accurate_for_small_variance_at_high_intensity():
    """The squares are 1e12 and the variance is 0.01, so sums of squares would cancel."""
    pixels = np.random.default_rng(0).integers(0, 3, (60, 70)) * 0.125 + 1e6
    index = np.zeros(pixels.shape, np.int32)
    parts = split_compartments(index, index, 1)
    measured = measure_channel(pixels.astype(np.float32), parts, ["std", "mean"])
    np.testing.assert_allclose(measured["cell_std"], pixels.std(), rtol=1e-6)


def test_nucleus_of_another_cell_counts_as_cytoplasm():
    cells, nuclei = draw("aabb"), np.array([[0, 2, 2, 0]], np.uint32)
    pixels = np.array([[1, 2, 4, 8]], np.uint16)
    parts = compartments(cells, nuclei, np.array([1, 2], np.uint32))
    measured = measure_channel(pixels, parts, ["total"])
    assert measured["cytoplasm_total"].tolist() == [3, 8]
    np.testing.assert_array_equal(measured["nucleus_total"], [np.nan, 6])


def test_nan_pixel_affects_its_cell_only():
    pixels = np.array([[1, np.nan, 3, 4]], np.float32)
    index = np.array([[0, 0, 1, 1]], np.int32)
    measured = measure_channel(pixels, split_compartments(index, index, 2), STATISTICS)
    for statistic in STATISTICS:
        assert np.isnan(measured[f"cell_{statistic}"]).tolist() == [True, False], statistic


def test_empty_windows_give_empty_columns():
    for shape in ((0, 0), (3, 4)):
        index = label_positions(np.zeros(shape, np.uint32), np.zeros(0, np.uint32))
        parts = split_compartments(index, index, 0)
        measured = measure_channel(np.zeros(shape, np.uint16), parts, STATISTICS)
        measured |= measure_shapes(index, 0, (0, 0)) | {"solidity": solidity(index, 0)}
        assert {len(column) for column in measured.values()} == {0}


@pytest.mark.slow
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 30), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_results_independent_of_window(y0, x0, more, seed):
    cells, nuclei, ids = tissue()
    pixels = np.random.default_rng(seed).lognormal(5, 3, cells.shape).astype(np.float32)
    window = slice(y0, y0 + 50 + more), slice(x0, x0 + 50 + more)
    inside = np.unique(cells[window])[1:]
    outside = np.ones(cells.shape, bool)
    outside[window] = False
    inside = np.setdiff1d(inside, np.unique(cells[outside])).astype(np.uint32)[::2]

    def measure(window, ids):
        origin = (window[0].start or 0, window[1].start or 0)
        index = label_positions(cells[window], ids)
        parts = split_compartments(index, label_positions(nuclei[window], ids), len(ids))
        measured = measure_shapes(index, len(ids), origin)
        measured |= {"solidity": solidity(index, len(ids))}
        return measured | measure_channel(pixels[window], parts, STATISTICS)

    whole, part = measure((slice(None), slice(None)), ids), measure(window, inside)
    rows = np.searchsorted(ids, inside)
    for name, column in part.items():
        np.testing.assert_array_equal(column, whole[name][rows], err_msg=name)


def test_sums_independent_of_other_measured_cells():
    """A listed nucleus of another cell splits the rows of a cell into runs."""
    cells, nuclei = np.ones((50, 400), np.uint32), np.zeros((50, 400), np.uint32)
    cells[:, 390:], nuclei[:, 100:300:7] = 2, 2
    pixels = np.random.default_rng(0).lognormal(0, 10, cells.shape).astype(np.float32)
    alone, both = (
        measure_channel(pixels, compartments(cells, nuclei, ids), STATISTICS)
        for ids in (np.array([1], np.uint32), np.array([1, 2], np.uint32))
    )
    for name, column in alone.items():
        np.testing.assert_array_equal(column, both[name][:1], err_msg=name)


@pytest.mark.parametrize("origin", [(2**31, 5), (7, 2**32), (2**40, 2**40)])
def test_shapes_independent_of_origin(origin):
    cells, _, ids = tissue()
    index = label_positions(cells, ids)
    near, far = (measure_shapes(index, len(ids), o) for o in ((0, 0), origin))
    moved = {"y": 0, "x": 1} | {f"bbox_{a}{i}": "yx".index(a) for a in "yx" for i in "01"}
    for name, column in near.items():
        by = origin[moved[name]] if name in moved else 0
        np.testing.assert_allclose(far[name] - by, column, atol=1e-3 * bool(by))
        if name.startswith("bbox") or not by:
            np.testing.assert_array_equal(far[name] - by, column, err_msg=name)


@pytest.mark.parametrize(
    ("pixels", "statistics", "message"),
    [
        (np.zeros((3, 3), np.uint8), ["mean"], "window"),
        (np.zeros((2, 2), np.int16), ["mean"], "int16"),
        (np.zeros((2, 2), np.uint8), ["mean", "mode"], "'mode'. Expected any of mean"),
    ],
)
def test_measure_channel_rejects_invalid_input(pixels, statistics, message):
    index = np.zeros((2, 2), np.int32)
    with pytest.raises(InputError, match=message):
        measure_channel(pixels, split_compartments(index, index, 1), statistics)


def test_split_compartments_rejects_unequal_shapes():
    with pytest.raises(InputError, match=r"\(2, 2\) and \(2, 3\)"):
        split_compartments(np.zeros((2, 2), np.int32), np.zeros((2, 3), np.int32), 1)


def test_cell_entropy_of_rows():
    rows = [[1, 1, 1, 1], [5, 0, 0, 0], [0, 0, 0, 0], [1, 1, 2, 0], [1, -1, 0, 1]]
    rows += [[1, np.nan, 1, 1], [1, np.inf, 1, 1]]
    measured = cell_entropy(np.array(rows, np.float32))
    np.testing.assert_allclose(measured, [2, 0, np.nan, 1.5, np.nan, np.nan, np.nan])
    assert not np.signbit(measured[1])


def test_cell_entropy_of_empty_arrays():
    assert cell_entropy(np.zeros((0, 3))).shape == (0,)
    assert np.isnan(cell_entropy(np.zeros((2, 0)))).all()
