"""Whole-slide label store."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from codexseg.core.grid import PatchGrid, Window
from codexseg.errors import InputError, RunStateError
from codexseg.io.labels.chunks import chunk_length, core_levels
from codexseg.io.labels.store import LabelStore

VERSIONS = ("0.4", "0.5")
SHAPES = {  # shape of slide, step of grid
    "odd": ((1009, 1003), (512, 250)),
    "one core": ((1009, 1003), (2048, 2048)),
    "smaller than a chunk": ((100, 30), (512, 512)),
    "1 px wide": ((700, 1), (256, 256)),
    "1 px": ((1, 1), (1, 1)),
}


def label_image(shape: tuple[int, int]) -> np.ndarray:
    """Blocks of 7 x 9 px with numbers up to 2**32 - 1; every third block is empty."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    block = (y // 7) * 1000 + x // 9 + 1
    return np.where(block % 3 == 0, 0, 2**32 - block).astype(np.uint32)


def fill(store: LabelStore, name: str, labels: np.ndarray, grid: PatchGrid) -> None:
    for patch in grid:
        store.write(name, patch.core, labels[patch.core.slices])


def build(store: LabelStore) -> None:
    for level in range(1, store.n_levels):
        for task in reversed(store.level_tasks(level)):
            store.build_level(level, task)


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def grid(request):
    shape, step = request.param
    return PatchGrid(shape, step, (0, 0))


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def small(tmp_path) -> LabelStore:
    """300 x 200 px, chunks of 128 x 100 px."""
    path = tmp_path / "small.ome.zarr"
    return LabelStore.create(path, (300, 200), (128, 100), 0.5, names=("cell",))


# -- chunks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "chunk"),
    [
        (1, 1),
        (100, 100),
        (1024, 1024),
        (2048, 1024),
        (1000, 1000),
        (3000, 1000),
        (1030, 515),
        (1031, 1031),  # a prime
        (2062, 1031),  # twice a prime
        (20005, 4001),
    ],
)
def test_chunk_length(step, chunk):
    assert chunk_length(step) == chunk


@given(st.integers(1, 70_000))
def test_cores_consist_of_whole_chunks(step):
    chunk = chunk_length(step)
    assert step % chunk == 0
    assert chunk == step or chunk >= 128


def test_chunks_above_codec_limit_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"40009.*multiples of 512"):
        LabelStore.create(tmp_path / "s", (80_000, 80_000), (40_009, 40_009), 0.5)


# -- labels -------------------------------------------------------------------------------


def test_labels_written_by_core_are_read_in_any_window(tmp_path, grid, version):
    labels = label_image(grid.shape)
    path = tmp_path / "s.ome.zarr"
    store = LabelStore.create(path, grid.shape, grid.step, 0.5, version=version)
    fill(store, "cell", labels, grid)

    height, width = grid.shape
    for window in (
        Window(0, 0, height, width),
        Window(height // 3, width // 2, height, width),
        Window(height // 2, width // 3, height // 2 + 1, width // 3 + 1),
    ):
        read = store.read("cell", window)
        assert read.dtype == np.uint32
        assert np.array_equal(read, labels[window.slices])
    assert not store.read("nucleus", Window(0, 0, height, width)).any()


def test_each_level_has_every_second_pixel_of_finer_level(tmp_path, grid, version):
    expected = label_image(grid.shape)
    path = tmp_path / "s.ome.zarr"
    store = LabelStore.create(
        path, grid.shape, grid.step, 0.5, names=("cell", "nucleus"), version=version
    )
    fill(store, "cell", expected, grid)
    build(store)

    levels = store.levels("cell")
    for level in levels:
        assert level.shape == expected.shape
        assert np.array_equal(level.read(Window(0, 0, *level.shape)), expected)
        expected = expected[::2, ::2]
    assert max(levels[-1].shape) <= 512


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_pyramid_written_by_core_equals_pyramid_built_by_level(data):
    step = data.draw(st.sampled_from([(256, 512), (300, 256), (1024, 1024), (260, 700)]))
    shape = data.draw(st.tuples(st.integers(1, 1300), st.integers(1, 1300)))
    grid, labels = PatchGrid(shape, step, (0, 0)), label_image(shape)
    levels = core_levels(grid.shape, grid.step)
    with TemporaryDirectory() as folder:
        by_level, by_core = (
            LabelStore.create(Path(folder) / name, shape, step, 0.5, names=("cell",))
            for name in ("by_level", "by_core")
        )
        fill(by_level, "cell", labels, grid)
        build(by_level)
        for patch in reversed(list(grid)):
            by_core.write("cell", patch.core, labels[patch.core.slices], levels)
        for level in range(1 + levels, by_core.n_levels):
            for task in by_core.level_tasks(level):
                by_core.build_level(level, task)
        assert contents(by_level.path) == contents(by_core.path)


@pytest.mark.parametrize(
    ("shape", "step", "levels"),
    [
        ((8192, 8192), (2048, 2048), 4),  # 128 px at level 4, the last level
        ((40_000, 40_000), (2048, 2048), 4),
        ((4096, 4096), (1000, 1000), 2),  # 250 px; level 3 has 125 px, below 128
        ((4096, 4096), (1001, 1000), 0),
        ((5000, 4000), (5000, 4000), 4),  # one core: all levels
        ((5000, 600), (2048, 2048), 4),
    ],
)
def test_core_levels(shape, step, levels):
    assert core_levels(shape, step) == levels


@pytest.mark.parametrize(
    "window",
    [
        Window(0, 0, 100, 100),
        Window(0, 50, 128, 150),
        Window(128, 100, 300, 250),
        Window(-128, 0, 128, 100),
        Window(0, 0, 0, 0),
    ],
    ids=["cut below", "cut at both sides", "outside", "negative", "empty"],
)
def test_window_that_cuts_chunks_is_refused(small, window):
    labels = np.ones([max(0, n) for n in window.shape], np.uint32)
    with pytest.raises(InputError, match=r"whole chunks of \(128, 100\) px"):
        small.write("cell", window, labels)


@pytest.mark.parametrize(
    "labels", [np.ones((128, 99), np.uint32), np.ones((128, 100), np.int64)]
)
def test_labels_of_other_shape_or_dtype_are_refused(small, labels):
    with pytest.raises(InputError, match=r"takes uint32 labels of shape \(128, 100\)"):
        small.write("cell", Window(0, 0, 128, 100), labels)


def test_unknown_label_image_is_an_error(small):
    with pytest.raises(RunStateError, match="has no level 0 of a label image 'cells'"):
        small.read("cells", Window(0, 0, 1, 1))


def test_empty_chunks_are_not_stored_and_removed_if_stored(small):
    def stored():
        level = small.path / "labels" / "cell" / "0"
        return sorted(p.relative_to(level).as_posix() for p in level.glob("*/*"))

    labels = np.zeros((128, 200), np.uint32)
    labels[5, 150] = 7
    small.write("cell", Window(128, 0, 256, 200), labels)
    assert stored() == ["1/1"]
    small.write("cell", Window(128, 0, 256, 200), np.zeros_like(labels))
    assert stored() == []


def test_two_processes_write_different_cores(tmp_path):
    grid = PatchGrid((300, 200), (64, 50), (0, 0))
    labels = label_image(grid.shape)
    store = LabelStore.create(tmp_path / "s.ome.zarr", grid.shape, grid.step, 0.5)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        jobs = [
            pool.submit(store.write, "cell", p.core, labels[p.core.slices]) for p in grid
        ]
        for job in jobs:
            job.result()
    assert np.array_equal(store.read("cell", Window(0, 0, 300, 200)), labels)


def test_equal_labels_give_equal_bytes_in_any_write_order(tmp_path, version):
    grid = PatchGrid((700, 600), (256, 300), (0, 0))
    labels = label_image(grid.shape)
    written = []
    for order in (1, -1):
        path = tmp_path / str(order) / "s.ome.zarr"
        store = LabelStore.create(path, grid.shape, grid.step, 0.5, version=version)
        for patch in list(grid)[::order]:
            store.write("cell", patch.core, labels[patch.core.slices])
        build(store)
        store.write_image(np.arange(2 * 88 * 75, dtype=np.uint16).reshape(2, 88, 75), 8,
                          ["DAPI", "CD45"], 0.5)  # fmt: skip
        store.finish()
        written.append(contents(path))
    assert written[0] == written[1]


# -- creating and opening ------------------------------------------------------------------


def test_existing_store_keeps_labels_unless_overwritten(small):
    window = Window(0, 0, 128, 100)
    small.write("cell", window, np.full((128, 100), 3, np.uint32))
    again = (small.path, (300, 200), (128, 100), 0.5, ("cell",))

    assert (LabelStore.create(*again).read("cell", window) == 3).all()
    assert not LabelStore.create(*again, overwrite=True).read("cell", window).any()
    assert [p.name for p in small.path.parent.iterdir()] == [small.path.name]


@pytest.mark.parametrize(
    "other",
    [
        {"shape": (300, 201)},
        {"step": (64, 100)},
        {"mpp": 0.25},
        {"names": ("cell", "nucleus")},
        {"version": "0.5"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_store_of_other_slide_is_an_error_unless_overwritten(small, other):
    asked = {"shape": (300, 200), "step": (128, 100), "mpp": 0.5, "names": ("cell",)}
    small.write("cell", Window(0, 0, 128, 100), np.ones((128, 100), np.uint32))
    with pytest.raises(RunStateError, match="--force"):
        LabelStore.create(small.path, **asked | other)

    store = LabelStore.create(small.path, **asked | other, overwrite=True)
    assert store.shape() == (asked | other)["shape"]
    assert not store.read("cell", Window(0, 0, 128, 100)).any()


def test_leftovers_of_killed_writers_are_removed(small):
    small.path.rename(small.path.with_name("small.ome.zarr.new"))
    store = LabelStore.create(small.path, (300, 200), (128, 100), 0.5, names=("cell",))
    leftover = small.path / "labels" / "cell" / "0" / "0" / "0.abc.partial"
    leftover.parent.mkdir()
    leftover.touch()
    store.finish()
    assert not leftover.exists()
    assert [p.name for p in small.path.parent.iterdir()] == [small.path.name]


def test_unknown_version_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'0\.3'.*0\.4, 0\.5"):
        LabelStore.create(tmp_path / "s", (10, 10), (10, 10), 0.5, version="0.3")


# -- label images of two stages -----------------------------------------------------------


def test_clear_resets_only_the_named_label_images(tmp_path, version):
    grid = PatchGrid((1009, 1003), (512, 250), (0, 0))
    path = tmp_path / "s.ome.zarr"
    args = (grid.shape, grid.step, 0.5, ("cell", "nucleus", "cell_original"), version)
    store = LabelStore.create(path, *args)
    empty = contents(path)
    fill(store, "cell_original", label_image(grid.shape), grid)
    build(store)
    original = contents(path)
    for name in ("cell", "nucleus"):
        fill(store, name, label_image(grid.shape), grid)
    build(store)

    store.clear(["cell", "nucleus"])
    assert contents(path) == original
    store.clear(["cell_original"])
    assert contents(path) == empty
    assert not store.read("cell", Window(0, 0, *grid.shape)).any()
    with pytest.raises(RunStateError, match="label image 'cells'"):
        store.clear(["cells"])


def test_files_of_label_images_partition_the_labels(tmp_path, version):
    grid = PatchGrid((700, 600), (256, 300), (0, 0))
    path = tmp_path / "s.ome.zarr"
    names = ("cell", "nucleus", "cell_original")
    store = LabelStore.create(path, grid.shape, grid.step, 0.5, names, version)
    for name in names:
        fill(store, name, label_image(grid.shape), grid)
    build(store)

    files = store.files(["cell", "nucleus"])
    assert files == sorted(files)
    both = set(files) | set(store.files(["cell_original"]))
    group = {file for file in contents(path) if file.startswith("labels/")} - both
    assert all(file.count("/") == 1 for file in group)  # the metadata of the group
    assert all(file.startswith(("labels/cell/", "labels/nucleus/")) for file in files)
    with pytest.raises(RunStateError, match="label image 'cells'"):
        store.files(["cells"])


def test_levels_of_label_images_are_built_apart(tmp_path):
    grid = PatchGrid((700, 600), (256, 300), (0, 0))
    labels = label_image(grid.shape)
    paths = [tmp_path / f"{k}.ome.zarr" for k in range(2)]
    together, apart = (LabelStore.create(p, grid.shape, grid.step, 0.5) for p in paths)
    for store in (together, apart):
        for name in ("cell", "cell_original"):
            fill(store, name, labels, grid)
    build(together)
    for name in ("cell_original", "cell"):
        for level in range(1, apart.n_levels):
            for task in apart.level_tasks(level, [name]):
                apart.build_level(level, task)
    assert contents(paths[0]) == contents(paths[1])


def test_only_the_path_of_a_store_is_pickled(small):
    small.write("cell", Window(0, 0, 128, 100), np.ones((128, 100), np.uint32))
    payload = pickle.dumps(small)
    assert len(payload) < 1000
    copy = pickle.loads(payload)
    assert copy == small
    assert copy.read("cell", Window(0, 0, 1, 1)) == 1


# -- the picture, and third-party readers ------------------------------------------------


@pytest.fixture
def slide(tmp_path, version) -> LabelStore:
    """Two label images of 1000 x 1200 px at 0.5 um, over an overview of 125 x 150 px."""
    grid = PatchGrid((1000, 1200), (500, 600), (0, 0))
    store = LabelStore.create(
        tmp_path / "slide.ome.zarr",
        grid.shape,
        grid.step,
        0.5,
        names=("cell", "nucleus"),
        version=version,
    )
    for name in store.names:
        fill(store, name, label_image(grid.shape), grid)
    build(store)
    overview = np.random.default_rng(0).integers(0, 900, (2, 125, 150), np.uint16)
    store.write_image(overview, 8, ["DAPI", "CD45"], 0.5)
    store.finish()
    return store


def test_ome_zarr_reads_picture_and_labels(slide):
    nodes = list(Reader(parse_url(slide.path))())
    image, labels = nodes[0], {node.metadata["name"]: node for node in nodes[2:]}

    assert image.metadata["channel_names"] == ["DAPI", "CD45"]
    assert [axis["name"] for axis in image.metadata["axes"]] == ["c", "y", "x"]
    assert image.data[0].shape == (2, 125, 150)
    assert set(labels) == {"cell", "nucleus"}
    for node in labels.values():
        assert [d.shape for d in node.data] == [(1000, 1200), (500, 600), (250, 300)]
        assert node.data[0].dtype == np.uint32
        assert np.array_equal(node.data[0].compute(), label_image((1000, 1200)))
        scales = [t[0]["scale"] for t in node.metadata["coordinateTransformations"]]
        assert scales == [[0.5, 0.5], [1.0, 1.0], [2.0, 2.0]]


def test_metadata_follow_ngff_specification(slide, version):
    models = pytest.importorskip(f"ome_zarr_models.v{version.replace('.', '')}")

    def checked(path, model):
        attributes = zarr.open_group(path, mode="r").attrs.asdict()
        return model.model_validate(attributes.get("ome", attributes))

    image = checked(slide.path, models.image.ImageAttrs)
    assert [axis.name for axis in image.multiscales[0].axes] == ["c", "y", "x"]
    labels = checked(slide.path / "labels", models.labels.LabelsAttrs)
    assert labels.labels == [*slide.names]
    for name in slide.names:
        folder = slide.path / "labels" / name
        label = checked(folder, models.image_label.ImageLabelAttrs)
        assert [d.path for d in label.multiscales[0].datasets] == ["0", "1", "2"]
        assert (folder / label.image_label.source.image).resolve() == slide.path


def test_picture_is_aligned_with_labels(slide, version):
    """The centre of a mean of 8 x 8 px is 3.5 px from the centre of the first pixel."""
    attributes = zarr.open_group(slide.path, mode="r").attrs.asdict()
    datasets = attributes.get("ome", attributes)["multiscales"][0]["datasets"]
    assert datasets[0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 4.0, 4.0]},
        {"type": "translation", "translation": [0.0, 1.75, 1.75]},
    ]


def test_coarser_levels_of_picture_are_means(tmp_path, version):
    """The image crosses a chunk border and has an odd last row."""
    store = LabelStore.create(tmp_path / "s", (9, 9), (9, 9), 0.5, version=version)
    image = np.random.default_rng(1).integers(0, 9, (1, 5, 2053)).astype(np.float32)
    store.write_image(image, 2, ["DAPI"], 0.5)

    root = zarr.open_group(store.path, mode="r")
    assert [root[str(k)].shape for k in range(4)] == [
        (1, 5, 2053), (1, 3, 1027), (1, 2, 514), (1, 1, 257)
    ]  # fmt: skip
    assert np.array_equal(root["0"][:], image)
    assert np.array_equal(
        root["1"][0, :2, :1026], image[0, :4, :2052].reshape(2, 2, 1026, 2).mean((1, 3))
    )
    assert root["1"][0, 2, 1026] == image[0, 4, 2052]


def test_smaller_picture_replaces_larger_one(tmp_path):
    store = LabelStore.create(tmp_path / "s", (9, 9), (9, 9), 0.5)
    store.write_image(np.ones((1, 600, 3), np.uint8), 2, ["DAPI"], 0.5)
    store.write_image(np.ones((1, 300, 3), np.uint8), 4, ["DAPI"], 0.5)
    assert sorted(p.name for p in store.path.iterdir() if p.is_dir()) == ["0", "labels"]


def test_contrast_of_a_constant_channel_is_not_empty(tmp_path):
    store = LabelStore.create(tmp_path / "s", (9, 9), (9, 9), 0.5)
    store.write_image(np.full((1, 9, 9), 7, np.uint16), 1, ["DAPI"], 0.5)
    [channel] = zarr.open_group(store.path, mode="r").attrs["omero"]["channels"]
    assert channel["window"] == {"min": 0, "max": 65535, "start": 7, "end": 8}


def test_picture_with_missing_channel_names_is_refused(small):
    with pytest.raises(InputError, match=r"\(2, 4, 4\) and the names \['DAPI'\]"):
        small.write_image(np.ones((2, 4, 4), np.uint16), 8, ["DAPI"], 0.5)
