"""Label images as OME-TIFF."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from codexseg.core.grid import PatchGrid, Window
from codexseg.exports.label_images import LabelTiff
from codexseg.io import tiff_writer
from codexseg.io.labels.store import LabelStore


@dataclass
class ArrayLevel:
    labels: np.ndarray
    windows: list[Window] = field(default_factory=list)

    @property
    def shape(self):
        return self.labels.shape

    def read(self, window):
        self.windows.append(window)
        return self.labels[window.slices]


def pyramid(shape, seed=0) -> list[ArrayLevel]:
    small = np.random.default_rng(seed).integers(0, 2**32, (-(-shape[0] // 8),
                                 -(-shape[1] // 8)), np.uint32)  # fmt: skip
    labels = np.kron(small, np.ones((8, 8), np.uint32))[: shape[0], : shape[1]]
    labels[: shape[0] // 2, : shape[1] // 3] = 0
    levels = [ArrayLevel(labels)]
    while max(levels[-1].shape) > 512:
        levels.append(ArrayLevel(levels[-1].labels[::2, ::2]))
    return levels


def write(path, levels, name="cell", mpp=0.5, uuid_seed="abc", stored=None):
    """Encode all pieces and join them, as the export stage does."""
    slide, columns = SimpleNamespace(mpp=mpp), {} if stored is None else stored
    state = SimpleNamespace(
        labels=SimpleNamespace(levels={name: levels}.__getitem__),
        inputs=SimpleNamespace(slide=slide, keys={"repair": uuid_seed}),
    )
    pieces = SimpleNamespace(
        write_columns=columns.__setitem__, read_columns=columns.__getitem__
    )
    exporter = LabelTiff(name)
    for piece in exporter.pieces(state):
        exporter.encode(state, pieces, piece)
    exporter.write(state, pieces, path)
    return path


@pytest.mark.parametrize(
    "shape", [(1009, 1003), (100, 30), (700, 1), (1, 1), (512, 512), (513, 4700)]
)
def test_tifffile_reads_the_pyramid(tmp_path, shape):
    levels = pyramid(shape)
    with tifffile.TiffFile(write(tmp_path / "cell.ome.tif", levels)) as tiff:
        [series] = tiff.series
        assert tiff.is_ome
        assert not tiff.is_bigtiff
        assert series.name == "cell"
        assert [level.shape for level in series.levels] == [x.shape for x in levels]
        for read, level in zip(series.levels, levels, strict=True):
            assert read.axes == "YX"
            assert read.dtype == np.uint32
            assert np.array_equal(read.asarray(), level.labels)


def test_pixel_size_is_in_xml_and_tags(tmp_path):
    path = write(tmp_path / "cell.ome.tif", pyramid((600, 600)), mpp=0.325)
    with tifffile.TiffFile(path) as tiff:
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"]) == (0.325, 0.325)
        assert pixels["PhysicalSizeXUnit"] == pixels["PhysicalSizeYUnit"] == "µm"
        full, half = (level.keyframe for level in tiff.series[0].levels)
        assert full.get_resolution("MICROMETER") == pytest.approx(
            (1 / 0.325,) * 2, rel=1e-5
        )
        assert half.get_resolution("MICROMETER") == pytest.approx((1 / 0.65,) * 2, rel=1e-5)


def test_equal_labels_give_equal_bytes(tmp_path):
    first = write(tmp_path / "a.ome.tif", pyramid((1009, 1003)))
    second = write(tmp_path / "b.ome.tif", pyramid((1009, 1003)))
    assert first.read_bytes() == second.read_bytes()
    with tifffile.TiffFile(first) as tiff:
        assert "DateTime" not in tiff.pages[0].tags


def test_uuid_depends_on_seed_and_name(tmp_path):
    def uuid(**changes):
        path = write(tmp_path / "cell.ome.tif", pyramid((10, 10)), **changes)
        with tifffile.TiffFile(path) as tiff:
            return tifffile.xml2dict(tiff.ome_metadata)["OME"]["UUID"]

    assert uuid() == uuid(mpp=0.25)
    assert len({uuid(), uuid(uuid_seed="abd"), uuid(name="nucleus")}) == 3


def test_bands_are_read_in_bounded_windows(tmp_path):
    levels = pyramid((1100, 5000))
    write(tmp_path / "cell.ome.tif", levels)
    for level in levels:
        seen = np.zeros(level.shape, np.uint8)
        for window in level.windows:
            assert window.shape[0] <= 1024
            assert window.shape[1] <= 4096
            seen[window.slices] += 1
        assert (seen == 1).all()


def test_file_that_may_exceed_4_gb_is_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_writer, "_MAX_CLASSIC_BYTES", 1000)
    levels = pyramid((100, 100))
    with tifffile.TiffFile(write(tmp_path / "cell.ome.tif", levels)) as tiff:
        assert tiff.is_bigtiff
        assert np.array_equal(tiff.asarray(), levels[0].labels)


class LosesSecondPiece(dict):
    def __getitem__(self, piece):
        if piece == 1:
            raise OSError("disk")
        return super().__getitem__(piece)


def test_failed_read_keeps_old_file_and_leaves_no_other(tmp_path):
    path = write(tmp_path / "cell.ome.tif", pyramid((100, 100)))
    before = path.read_bytes()
    with pytest.raises(OSError, match="disk"):
        write(path, pyramid((1009, 1003)), stored=LosesSecondPiece())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_levels_of_label_store_are_written(tmp_path):
    grid = PatchGrid((700, 600), (350, 300), (0, 0))
    labels = pyramid(grid.shape)[0].labels
    store = LabelStore.create(tmp_path / "s.ome.zarr", grid.shape, grid.step, 0.5)
    for patch in grid:
        store.write("cell", patch.core, labels[patch.core.slices])
    for task in store.level_tasks(1):
        store.build_level(1, task)

    path = write(tmp_path / "cell.ome.tif", store.levels("cell"))
    assert np.array_equal(tifffile.imread(path, level=0), labels)
    assert np.array_equal(tifffile.imread(path, level=1), labels[::2, ::2])
