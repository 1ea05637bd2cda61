"""Invariants of whole runs of backends that label a cell differently in every patch.

The labels of these backends depend on the window, and their numbers are random: a
label identifies one object of one window.
"""

import shutil
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage as ndi
from skimage.filters import threshold_otsu
from skimage.measure import label as pieces
from skimage.measure import regionprops_table
from skimage.segmentation import expand_labels, find_boundaries

from codexseg.core.grid import Window
from codexseg.core.labels.matching import interior
from codexseg.core.labels.operations import relabel
from codexseg.execution.base import Serial
from codexseg.run.directory import Run as Directory
from codexseg.stages.plan import load_plan
from codexseg.stages.stitch.conflicts import patch_labels
from codexseg.stages.stitch.mosaic import Seams, compose_window
from tests.helpers.runs import execute, labels, outputs
from tests.helpers.tissue import NAMES, Local, tissue, write_config, write_slide

LEAST = 0.5
"""Default of stitch.min_remaining."""
STATISTICS = {
    "mean": ndi.mean,
    "std": ndi.standard_deviation,
    "min": ndi.minimum,
    "max": ndi.maximum,
    "total": ndi.sum_labels,
    "median": ndi.median,
}
SHAPES = {
    "area": "cell_area_px",
    "centroid-0": "y_px",
    "centroid-1": "x_px",
    "bbox-0": "bbox_y0_px",
    "bbox-1": "bbox_x0_px",
    "bbox-2": "bbox_y1_px",
    "bbox-3": "bbox_x1_px",
    "eccentricity": "eccentricity",
    "orientation": "orientation_rad",
    "axis_major_length": "axis_major_um",
    "axis_minor_length": "axis_minor_um",
}


class Otsu(Local):
    """Backend with thresholds that depend on the window; it records its labels."""

    name = "otsu"
    seen: ClassVar[list[tuple]] = []

    def one(self, pixels, window):
        rng = np.random.default_rng([window.y0, window.x0, window.y1, window.x1])
        nuclei = ndi.label(self.nuclei(pixels[0].astype(float), rng))[0]
        cells = expand_labels(nuclei, 3)
        # Nuclei reach to the edge of their cells, or into the next, on the right.
        nuclei[:, 3:], nuclei[:, :3] = nuclei[:, :-3].copy(), 0
        found = np.stack([renumber(image, rng) for image in (cells, nuclei)])
        self.seen.append((window, found))
        return found.copy()

    def nuclei(self, pixels, rng):
        del rng
        return pixels > threshold_otsu(pixels)


class NarrowOtsu(Otsu):
    """Backend with a halo too small for its objects, so that patches are repeated."""

    name = "narrow otsu"
    halo_px = 4
    context_px = 2


class Wobbly(Otsu):
    """Backend with large differences between windows: cells merge, split and vanish."""

    name = "wobbly"

    def nuclei(self, pixels, rng):
        noise = ndi.gaussian_filter(rng.normal(size=pixels.shape), 3)
        wobble = np.exp(0.8 * noise / noise.std())
        return ndi.gaussian_filter(pixels, 1) > 1500 * wobble


def renumber(image, rng):
    old = np.unique(image[image > 0]).astype(np.uint32)
    new = rng.choice(2**32 - 1, len(old), replace=False) + 1
    return relabel(image.astype(np.uint32), old, new.astype(np.uint32))


class Version(NamedTuple):
    """Object of one window, as raster indexes on the slide."""

    label: int
    pixels: np.ndarray
    is_cut: bool


def versions(seen, compartment, shape):
    found = []
    for window, both in seen:
        image = both[compartment]
        # The slide continues beyond a cut edge.
        cut = np.zeros(image.shape, bool)
        cut[0] |= window.y0 > 0
        cut[-1] |= window.y1 < shape[0]
        cut[:, 0] |= window.x0 > 0
        cut[:, -1] |= window.x1 < shape[1]
        names, dense = np.unique(image, return_inverse=True)
        dense = dense.reshape(image.shape)
        for number, box in enumerate(ndi.find_objects(dense), start=1):
            mask = dense[box] == number
            y, x = np.nonzero(mask)
            place = (y + box[0].start + window.y0) * shape[1]
            place += x + box[1].start + window.x0
            is_cut = bool(cut[box][mask].any())
            found.append(Version(int(names[number]), place, is_cut))
    return found


class Run(NamedTuple):
    backend: str
    path: Path
    config: Path
    image: np.ndarray
    seen: list
    step: tuple[int, int]

    def read(self, name):
        return labels(self.path, name)

    def table(self, name="cells"):
        return pd.read_parquet(self.path / f"{name}.parquet")


def configure(folder, backend, extra="", **patching):
    config = write_config(folder, backend, **patching)
    text = config.read_text().replace("tests.helpers.tissue:", "tests.test_seams:")
    config.write_text(text + extra)
    return config


def blurred(image, sigma=2):
    return np.stack([ndi.gaussian_filter(c, sigma) for c in image])


@pytest.fixture(scope="module", params=["Otsu", "Wobbly"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    image = blurred(tissue((280, 320), n=110, seed=2, empty=0))
    write_slide(folder, image)
    wanted = f"profile: {{statistics: [{', '.join(STATISTICS)}]}}\n"
    step = (64, 80)
    config = configure(folder, request.param, wanted, patch_height=64, patch_width=80)
    Otsu.seen.clear()
    result = execute(config, folder / "run")
    disputed = result.stages[4].summary["disputed"]
    assert min(disputed.values()) > 20
    return Run(request.param, folder / "run", config, image, list(Otsu.seen), step)


def cores(run, image):
    """Return the number of cores of every object of an image, and its owner."""
    y, x = np.indices(image.shape)
    columns = -(-image.shape[1] // run.step[1])
    core = y // run.step[0] * columns + x // run.step[1]
    pairs = np.unique(np.stack([image.ravel(), core.ravel()]), axis=1)
    ids, first = np.unique(image, return_index=True)
    return np.bincount(pairs[0])[1:], core.ravel()[first[ids > 0]]


@pytest.mark.slow
@pytest.mark.parametrize("compartment", [0, 1])
def test_every_object_equals_an_uncut_object_of_a_patch(run, compartment):
    """Its edges are those of that patch or of another object, never those of a seam.

    If other objects fragment it, its smaller fragments are background.
    """
    image = run.read(("cell_original", "nucleus_original")[compartment])
    area = np.bincount(image.ravel())
    flat, fits = image.ravel(), set()
    for version in versions(run.seen, compartment, image.shape):
        if version.is_cut:
            continue
        ids, counts = np.unique(flat[version.pixels], return_counts=True)
        kept = (ids > 0) & (counts == area[ids]) & (counts >= LEAST * len(version.pixels))
        fits |= {i for i in ids[kept].tolist() if has_what_it_touches(image, version, i)}
    assert fits == set(range(1, len(area)))


def has_what_it_touches(image, version, i):
    """Return whether an object has all adjacent pixels of a version that are background."""
    seen = np.zeros(image.shape, bool)
    seen.ravel()[version.pixels] = True
    has = image == i
    return not (ndi.binary_dilation(has) & seen & (image == 0)).any()


def test_no_cell_is_duplicated(run):
    image = run.read("cell_original").ravel()
    alone = run.table("unmatched").query("compartment == 'cell'")
    table = run.table()
    ids = [*table["cell_original_id"], *alone["original_id"]]
    names = [*table["cell_original_label"], *alone["original_label"]]
    shape = run.read("cell_original").shape
    by_label = {v.label: v for v in versions(run.seen, 0, shape)}
    seen = {i: by_label[name].pixels for i, name in zip(ids, names, strict=True)}
    for i, pixels in seen.items():
        assert np.isin(np.flatnonzero(image == i), pixels).all()
        for other in set(np.unique(image[pixels]).tolist()) - {0, i}:
            shared = np.isin(pixels, seen[other]).sum()
            assert shared / (len(pixels) + len(seen[other]) - shared) <= 0.5


def test_objects_are_numbered_in_reading_order(run):
    for name in ("cell", "cell_original", "nucleus_original"):
        ids, first = np.unique(run.read(name), return_index=True)
        assert ids.tolist() == list(range(len(ids)))
        assert np.all(np.diff(first[1:]) > 0)


def test_nucleus_is_in_the_interior_of_its_cell(run):
    cell, nucleus = run.read("cell"), run.read("nucleus")
    within = nucleus > 0
    np.testing.assert_array_equal(nucleus[within], cell[within])
    inner = find_boundaries(run.read("cell_original"), mode="inner", connectivity=1)
    assert np.argwhere(within & inner).tolist() == []


def test_each_object_is_either_matched_or_unmatched(run):
    table, alone = run.table(), run.table("unmatched")
    assert table["cell_id"].tolist() == list(range(1, run.read("cell").max() + 1))
    assert run.backend != "Wobbly" or set(alone["compartment"]) == {"cell", "nucleus"}
    for name in ("cell", "nucleus"):
        left = alone.loc[alone["compartment"] == name, "original_id"]
        both = sorted([*left, *table[f"{name}_original_id"]])
        assert both == list(range(1, run.read(f"{name}_original").max() + 1))
        matched, original = run.read(name), run.read(f"{name}_original")
        ids = np.concatenate([[0], table[f"{name}_original_id"]])
        at = matched > 0
        np.testing.assert_array_equal(original[at], ids[matched[at]])
    whole = np.isin(run.read("cell_original"), table["cell_original_id"])
    np.testing.assert_array_equal(whole, run.read("cell") > 0)


@pytest.mark.slow
def test_table_contains_cells_of_every_patch(run):
    n_cores, owner = cores(run, run.read("cell"))
    assert run.table()["patch_id"].tolist() == owner.tolist()
    assert len(np.unique(owner)) > 15  # cells in many patches
    assert (n_cores > 1).sum() > 15
    metadata = pd.read_csv(run.path / "patches_metadata.csv")
    assert metadata["n_matched"].tolist() == (
        np.bincount(owner, minlength=len(metadata)).tolist()
    )


def test_shapes_are_measured_on_whole_slide(run):
    peer = regionprops_table(
        run.read("cell"),
        properties=("label", *{name.split("-")[0] for name in SHAPES}),
    )
    table = run.table()
    assert table["cell_id"].tolist() == peer["label"].tolist()
    for theirs, ours in SHAPES.items():
        apart = table[ours] / (0.5 if ours.endswith("_um") else 1) - peer[theirs]
        if ours == "orientation_rad":
            apart = (apart + 1) % np.pi - 1  # -pi / 2 is pi / 2
        np.testing.assert_allclose(apart, 0, atol=1e-6, err_msg=ours)


def test_intensities_are_measured_on_whole_slide(run):
    cell, nucleus = run.read("cell"), run.read("nucleus")
    table = run.table()
    ids = table["cell_id"].to_numpy()
    parts = {"cell": cell, "nucleus": nucleus, "cytoplasm": np.where(nucleus, 0, cell)}
    for part, image in parts.items():
        area = np.bincount(image.ravel(), minlength=len(ids) + 1)[1:]
        assert table[f"{part}_area_px"].tolist() == area.tolist()
        assert area.min() > 0
        for channel, pixels in zip(NAMES, run.image.astype(np.float64), strict=True):
            for statistic, function in STATISTICS.items():
                expected = function(pixels, image, ids)
                found = table[f"{channel}_{part}_{statistic}"]
                exact = {"rtol": 0} if statistic in ("min", "max", "total") else {}
                np.testing.assert_allclose(found, expected, **{"rtol": 1e-6} | exact)


def test_nucleus_trimming_columns_match_labels(run):
    table, area = run.table(), np.bincount(run.read("nucleus_original").ravel())
    whole = area[table["nucleus_original_id"]]
    retained = table["nucleus_area_px"] / whole
    assert 0 < (retained < 1).sum() < len(table)
    np.testing.assert_allclose(table["nucleus_retained_fraction"], retained)
    assert table["nucleus_was_trimmed"].tolist() == (retained < 1).tolist()


def test_composed_window_equals_slice_of_whole_slide(run):
    plan = load_plan(Directory(run.path))
    inputs = plan.inputs("stitch", plan.completed_keys())
    labels, seams = patch_labels(inputs), Seams.read(inputs.own)
    grid = labels.grid
    whole = compose_window(labels, seams, Window(0, 0, *grid.shape)).ids
    for name, ids in zip(("cell", "nucleus"), whole, strict=True):
        np.testing.assert_array_equal(run.read(f"{name}_original"), ids)
    for patch in grid:
        near = patch.core.grow(1, grid.shape)
        for window in (patch.outer, near, patch.core.grow(-5, grid.shape)):
            ids = compose_window(labels, seams, window).ids
            np.testing.assert_array_equal(ids, whole[:, *window.slices])
        inside = patch.core.within(near)
        cells = whole[0][near.slices]
        np.testing.assert_array_equal(
            interior(cells)[inside], interior(whole[0])[patch.core.slices]
        )


@pytest.mark.slow
def test_result_is_independent_of_patch_order_and_workers(run, tmp_path, monkeypatch):
    first = outputs(run.path)

    def assert_same(other):
        again = outputs(other)
        assert first.keys() == again.keys()
        assert [name for name in first if first[name] != again[name]] == []

    if run.backend == "Wobbly":
        execute(run.config, tmp_path / "two", workers=2)
        assert_same(tmp_path / "two")

    def backwards(self, function, items, *, died=None):
        del self, died
        return map(function, items[::-1])

    monkeypatch.setattr(Serial, "map", backwards)
    execute(run.config, tmp_path / "backwards")
    assert_same(tmp_path / "backwards")


# -- invariants of every cell -------------------------------------------------------------


def lattice():
    """Draw 80 separate cells on a background that rises to the right."""
    rng = np.random.default_rng(1)
    image = np.zeros((3, 256, 320)) + np.linspace(200, 1500, 320)
    y, x = np.indices(image.shape[1:])
    centres = [
        (20 + 29 * row + rng.uniform(-3, 3), 20 + 29 * column + rng.uniform(-3, 3))
        for row in range(8)
        for column in range(10)
    ]
    for cy, cx in centres:
        distance = np.hypot(y - cy, x - cx)
        level = rng.uniform(6000, 9000)
        image[0] += level * (distance < rng.uniform(4, 5))
        image[1] += level / 2 * (distance < 9)
    return blurred(image).astype(np.uint16), np.rint(centres).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["Otsu", "NarrowOtsu"])
@pytest.mark.parametrize("size", [(64, 64), (70, 101)])
def test_every_tissue_cell_is_found_once_and_uncut(tmp_path, backend, size):
    image, centres = lattice()
    write_slide(tmp_path, image)
    height, width = size
    config = configure(tmp_path, backend, patch_height=height, patch_width=width)
    Otsu.seen.clear()
    result = execute(config, tmp_path / "run", until="repair")
    assert result.stages[4].summary["disputed"]["cell"] > 30
    for compartment, name in enumerate(("cell", "nucleus")):
        found = labels(tmp_path / "run", f"{name}_original")
        assert sorted(found[*centres.T]) == list(range(1, 81))
        assert found.max() == 80
        seen = {
            tuple(version.pixels)
            for version in versions(Otsu.seen, compartment, found.shape)
            if not version.is_cut
        }
        flat = found.ravel()
        shown = [tuple(np.flatnonzero(flat == i)) in seen for i in range(1, 81)]
        assert all(shown)
    matched = labels(tmp_path / "run")
    assert matched.max() == 80


# -- drawn seams --------------------------------------------------------------------------


class Drawn(Local):
    """Backend with the objects `drawn` for each patch: compartment, label, box."""

    drawn: ClassVar[list] = []

    def one(self, pixels, window):
        found = np.zeros(pixels.shape, np.uint32)
        patch = -(-window.x0 * len(self.drawn) // 192)  # one window starts left of its core
        for compartment, number, y0, y1, x0, x1 in self.drawn[patch]:
            part = np.s_[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]
            found[compartment][part] = number
        return found


def drawing(folder, *drawn, bright=192):
    """Write a slide of 64 x 192 px that is segmented as a row of patches."""
    Drawn.drawn[:] = drawn
    image = np.random.default_rng(0).normal(200, 10, (2, 64, 192)).astype(np.uint16)
    image[:, 20:40, :bright:8] = 9000  # signal in every block left of `bright`
    write_slide(folder, image)
    return configure(folder, "Drawn", patch_width=192 // len(drawn), overlap=0.6)


def stitched(folder, *drawn, until="repair", bright=192):
    """Segment the slide as two patches with cores that meet at column 96."""
    execute(drawing(folder, *drawn, bright=bright), folder / "run", until=until)
    return [labels(folder / "run", name) for name in ("cell_original", "nucleus")]


@pytest.mark.parametrize(
    ("boxes", "wins"),
    [
        # 8 px of the first in either core, 16 of 20; 12 of 20 of the other
        ([(1, 2, 12, 16, 94, 98), (1, 2, 12, 16, 112, 113)], True),
        # 10 of 20 px, which lie beside the seam: no core counts what is another's
        ([(1, 2, 14, 19, 95, 97), (1, 2, 5, 10, 95, 97)], False),
    ],
)
def test_cores_count_each_pixel_once(tmp_path, boxes, wins):
    cell = (0, 1, 10, 30, 80, 112)
    left = [(1, 3, 18, 24, 84, 86), (1, 3, 30, 34, 84, 86)]
    both = [cell, *boxes, *left]
    _, nucleus = stitched(tmp_path, both, both)
    assert nucleus[[15, 20], [95, 85]].tolist() == [int(wins), int(not wins)]


def test_cell_continues_into_patch_without_signal(tmp_path):
    cell, nucleus = stitched(
        tmp_path, [(0, 7, 10, 30, 50, 110), (1, 9, 15, 25, 60, 105)], [], bright=60
    )
    metadata = pd.read_csv(tmp_path / "run" / "patches_metadata.csv")
    assert metadata["is_informative"].tolist() == [True, False]
    assert (cell == 1).sum() == 20 * 60
    assert (nucleus == 1).sum() == 10 * 45


def test_cell_without_its_first_pixels_is_numbered_by_remaining_pixels(tmp_path):
    """The left patch has it from row 8; the pixels that remain start in row 12."""
    cell, nucleus = stitched(
        tmp_path,
        [
            *[(0, 1, 8, 12, 97, 100), (0, 1, 12, 30, 80, 100), (1, 1, 18, 26, 84, 90)],
            *[(0, 2, 9, 15, 20, 30), (1, 2, 11, 13, 23, 27)],
        ],
        [(0, 1, 8, 14, 96, 110), (1, 1, 10, 12, 100, 106)],
    )
    at = [9, 10, 22], [98, 22, 85]
    assert cell[at].tolist() == [1, 2, 3]
    assert nucleus[[11, 12, 22], [102, 24, 85]].tolist() == [1, 2, 3]
    assert labels(tmp_path / "run", "cell")[at].tolist() == [1, 2, 3]
    assert (cell == 3).sum() == 2 * 16 + 16 * 20


def test_nucleus_does_not_overlap_cell_of_next_patch_at_seam(tmp_path):
    """The cell on the left extends to column 100 in its patch, but not in the next."""
    cell, nucleus = stitched(
        tmp_path,
        [(0, 1, 10, 30, 80, 100), (1, 1, 15, 25, 84, 98)],
        [(0, 1, 10, 30, 96, 116), (1, 1, 15, 25, 102, 110)],
    )
    assert np.unique(cell[20, 80:96]).tolist() == [1]
    assert np.unique(cell[20, 96:116]).tolist() == [2]
    assert nucleus[20, 94] == 1
    assert nucleus[20, 95] == 0  # the boundary of its cell
    assert nucleus[20, 105] == 2


def test_remaining_part_of_a_cell_is_connected(tmp_path):
    """A cell of the right patch crosses a bar of the left patch near its end."""
    cell, _ = stitched(tmp_path, [(0, 1, 20, 26, 60, 106)], [(0, 1, 10, 40, 98, 102)])
    assert [cell[12, 100], cell[22, 100], cell[22, 70]] == [1, 1, 2]
    for i in (1, 2):
        assert pieces(cell == i).max() == 1


CROSSED = (0, 1, 10, 40, 98, 102)
"""A cell in the core of the right patch, across any bar in rows 20 to 26."""


def test_cell_split_by_conflict_keeps_larger_fragment(tmp_path):
    """A bar has 40 px on the left of the other cell and 20 px on its right."""
    bar = (0, 1, 20, 26, 58, 122)
    cell, _ = stitched(tmp_path, [bar], [CROSSED], until="export")
    expected = np.zeros_like(cell)
    expected[20:26, 58:98] = 2
    expected[10:40, 98:102] = 1
    np.testing.assert_array_equal(cell, expected)
    alone = pd.read_parquet(tmp_path / "run" / "unmatched.parquet")
    assert alone["area_px"].tolist() == [120, 240]
    box = alone[[f"bbox_{edge}_px" for edge in ("y0", "x0", "y1", "x1")]]
    assert box.to_numpy().tolist() == [[10, 98, 40, 102], [20, 58, 26, 98]]


@pytest.mark.parametrize(
    "third",
    [
        (0, 2, 24, 34, 90, 98),  # shares a fifth of its pixels with the bar
        (0, 2, 20, 26, 86, 98),  # all
    ],
)
@pytest.mark.parametrize(("end", "stands"), [(118, True), (119, False)])
def test_cell_without_large_fragment_releases_its_pixels(tmp_path, end, stands, third):
    """20 of 40 columns of a bar remain on the left of the other cell, or 20 of 41."""
    cell, _ = stitched(tmp_path, [(0, 1, 20, 26, 78, end)], [CROSSED, third])
    _, _, y0, y1, x0, x1 = third
    expected = np.zeros_like(cell)
    expected[y0:y1, x0:x1] = 3 if stands else 2
    if stands:
        expected[20:26, 78:98] = 2
    expected[10:40, 98:102] = 1
    np.testing.assert_array_equal(cell, expected)


def test_cell_across_three_cores_loses_both_ends(tmp_path):
    """The middle patch has it; each outer patch has a cell across one of its ends."""
    bar = (0, 1, 20, 26, 50, 142)
    drawn = [(0, 7, 10, 40, 52, 54)], [bar], [(0, 9, 15, 40, 130, 138)]
    cell, _ = stitched(tmp_path, *drawn, until="export")
    expected = np.zeros_like(cell)
    expected[20:26, 54:130] = 3
    expected[10:40, 52:54], expected[15:40, 130:138] = 1, 2
    np.testing.assert_array_equal(cell, expected)
    alone = pd.read_parquet(tmp_path / "run" / "unmatched.parquet").set_index("original_id")
    box = alone.loc[3, [f"bbox_{edge}_px" for edge in ("y0", "x0", "y1", "x1")]]
    assert box.tolist() == [20, 54, 26, 130]
    assert alone.loc[3, "area_px"] == 6 * 76


@pytest.mark.slow
def test_run_killed_in_seam_stages_resumes_with_identical_result(tmp_path, monkeypatch):
    """Kills fall into both passes over fragments, between them, and into pairing."""
    third = (0, 2, 20, 26, 86, 98)
    config = drawing(tmp_path, [(0, 1, 20, 26, 78, 119)], [CROSSED, third])
    execute(config, tmp_path / "run", until="segment")
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    execute(config, tmp_path / "whole", until="repair")
    whole, passes = outputs(tmp_path / "whole"), []

    def killed(self, function, items, *, died=None):
        del self, died
        for item in items:
            if function.args[1].stage.startswith("stitch") and len(passes) == stop:
                raise KeyboardInterrupt
            passes.append(function.args[1].stage)
            yield function(item)

    for stop in (3, 4, 5, 7):
        out = shutil.copytree(tmp_path / "run", tmp_path / f"killed {stop}")
        passes.clear()
        monkeypatch.setattr(Serial, "map", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(config, out, until="repair")
        monkeypatch.undo()
        execute(config, out, until="repair")
        assert outputs(out) == whole
    passes_run = ("overlaps", "fragments0", "fragments1")
    turns = [f"stitch.{name}" for name in passes_run for _ in "12"]
    assert passes == [*turns, "stitch"]


def test_box_of_unmatched_object_encloses_its_pixels(tmp_path):
    drawn = [(0, 1, 10, 30, 80, 100)], [(0, 1, 10, 30, 96, 116), (1, 1, 15, 25, 100, 110)]
    cell, _ = stitched(tmp_path, *drawn, until="export")
    alone = pd.read_parquet(tmp_path / "run" / "unmatched.parquet").iloc[0]
    assert alone["reason"] == "no partner"
    assert alone["area_px"] == (cell == 1).sum() == 20 * 16
    box = [int(alone[f"bbox_{edge}_px"]) for edge in ("y0", "x0", "y1", "x1")]
    assert box == [10, 80, 30, 96]


# -- faults of the reference, in whole runs-----------------------------------------------


@pytest.mark.parametrize(("channel", "cells"), [("DAPI", 0), ("CD45", 2)])
def test_nuclei_are_segmented_in_the_configured_channel(tmp_path, channel, cells):
    image = np.full((2, 80, 120), 200, np.uint16)
    image[1, 20:30, 20:30] = image[1, 50:60, 90:110] = 9000
    write_slide(tmp_path, image)
    config = write_config(tmp_path)
    text = config.read_text().replace("DAPI", channel)
    config.write_text(text.replace("wholecell_channel: [CD45]", "wholecell_channel: []"))
    result = execute(config, tmp_path / "run", until="repair")
    assert result.cells == cells


@pytest.mark.parametrize("alone", [0, 1])
def test_patch_without_matches_has_matched_fraction_zero(tmp_path, alone):
    left = [(0, 1, 10, 30, 20, 40), (1, 1, 15, 25, 25, 35)]
    right = [(0, 1, 40, 60, 120, 140), (1, 1, 45, 55, 125, 135)]
    both = [left, right]
    both[alone] = both[alone][:1]
    cell, nucleus = stitched(tmp_path, *both)
    assert cell.max() == 2
    assert nucleus.max() == 1
    metadata = pd.read_csv(tmp_path / "run" / "patches_metadata.csv")
    assert metadata["n_cells"].tolist() == [1, 1]
    assert metadata["n_matched"].tolist() == [alone, 1 - alone]
    assert metadata["matched_fraction"].tolist() == [alone, 1 - alone]
