"""Demo slides."""

import csv
import hashlib
import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from codexseg.config.loader import load_config
from codexseg.errors import InputError
from codexseg.samples import write as samples
from codexseg.samples.download import RegistryUnavailable
from codexseg.samples.tissue import CHANNELS, Tissue
from codexseg.samples.write import SampleUnavailable, write_nsclc, write_synthetic

SHAPE = (6, 70, 50)
PIXELS_SHA256 = "598ea4617c5df41550f035c077d02aafb19f56bf92519b1dbc750b6982801b45"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("synthetic"), size=1100, seed=5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CODEXSEG_OFFLINE", raising=False)
    return tmp_path / "cache"


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small source distribution with the real layout, and its download."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, SHAPE, np.uint8)
    array = zarr.create_array(
        tmp_path / "level", data=pixels, chunks=SHAPE, zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )  # fmt: skip
    level = Path(str(array.store.root))
    level = level if (level / ".zarray").is_file() else tmp_path / "level"
    prefix = samples._NSCLC_LEVEL
    inner = tar(
        {
            prefix.replace("/0/", "/1/") + ".zarray": b"not this one",
            prefix + "../../../../escaped": b"never written",
            prefix + samples._NSCLC_CHUNK: (level / "0/0/0").read_bytes(),
            prefix + ".zarray": (level / ".zarray").read_bytes(),
        }
    )
    sdist = tar({"p-1/setup.py": b"raise SystemExit", "p-1" + samples._NSCLC_TAR: inner})
    calls = []

    def download(project, filename, sha256, target):
        assert (project, filename) == ("napari-prism", "napari_prism-0.1.7.tar.gz")
        calls.append(target)
        target.write_bytes(sdist)

    monkeypatch.setattr(samples, "download", download)
    monkeypatch.setattr(samples, "_NSCLC_SHAPE", SHAPE)
    return pixels, calls


def test_synthetic_image_is_an_ome_tiff_with_names_and_mpp(synthetic):
    with tifffile.TiffFile(synthetic.image) as tiff:
        series, page = tiff.series[0], tiff.pages[0]
        assert (series.axes, series.shape) == ("CYX", (len(CHANNELS), 1100, 1100))
        assert series.dtype == np.uint16
        assert page.tile == (512, 512)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        text = tiff.ome_metadata
    assert 'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm"' in text
    positions = [text.index(f'Name="{name}"') for name in CHANNELS]
    assert positions == sorted(positions)


def test_synthetic_files_equal_rendered_tissue(synthetic):
    tissue = Tissue((1100, 1100), seed=5)
    scene = tissue.render(tissue.window)
    assert np.array_equal(tifffile.imread(synthetic.image), scene.pixels)
    assert np.array_equal(tifffile.imread(synthetic.cells), scene.cells)
    assert np.array_equal(tifffile.imread(synthetic.nuclei), scene.nuclei)


def test_synthetic_truth_has_one_row_per_cell(synthetic):
    with synthetic.truth.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.array_equal(
        [int(row["id"]) for row in rows], np.unique(tifffile.imread(synthetic.cells))[1:]
    )
    assert {row["kind"] for row in rows} == {"tumour", "immune", "stroma"}
    assert {row["positive_CD45"] for row in rows} == {"True", "False"}


def test_synthetic_config_is_valid(synthetic):
    assert load_config(synthetic.config).config.data.file_name == synthetic.image


def test_synthetic_files_have_equal_bytes_and_no_leftovers(tmp_path):
    first, second = (write_synthetic(tmp_path / name, size=130) for name in "ab")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(
        f"synthetic_130{end}"
        for end in (
            ".ome.tif",
            ".yaml",
            "_truth.csv",
            "_truth_cells.tif",
            "_truth_nuclei.tif",
        )
    )
    assert first.image != second.image
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.slow
def test_memory_is_independent_of_synthetic_slide_size(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_BLOCK_PX", 512)
    write_synthetic(tmp_path, size=100)

    def peak(size):
        tracemalloc.start()
        write_synthetic(tmp_path, size=size)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # the larger image has 29 MB
    assert peak(1536) < 1.35 * peak(1024)


def test_size_zero_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1 px"):
        write_synthetic(tmp_path / "new", size=0)
    assert not (tmp_path / "new").exists()


def test_nsclc_is_downloaded_once_and_cached(tmp_path, cache, published):
    pixels, calls = published
    first, again = write_nsclc(tmp_path / "a"), write_nsclc(tmp_path / "b")
    assert len(calls) == 1
    assert np.array_equal(tifffile.imread(first.image), pixels)
    assert first.image.read_bytes() == again.image.read_bytes()
    assert sorted(path.name for path in cache.iterdir()) == [
        "nsclc-1.ome.sha256",
        "nsclc-1.ome.tif",
    ]
    with tifffile.TiffFile(first.image) as tiff:
        assert 'Name="Pan-Cytokeratin"' in tiff.ome_metadata
        assert 'PhysicalSizeY="0.5"' in tiff.ome_metadata
    assert load_config(first.config).config.data.file_name == first.image


@pytest.mark.parametrize("damage", ["cut", "unsigned"])
def test_damaged_cache_is_downloaded_again(tmp_path, cache, published, damage):
    pixels, calls = published
    write_nsclc(tmp_path)
    image = cache / "nsclc-1.ome.tif"
    if damage == "cut":
        os.truncate(image, image.stat().st_size // 2)
    else:
        image.with_suffix(".sha256").unlink()
    assert np.array_equal(tifffile.imread(write_nsclc(tmp_path).image), pixels)
    assert len(calls) == 2


def test_interrupted_download_leaves_no_files(tmp_path, cache, monkeypatch):
    def interrupted(project, filename, sha256, target):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(samples, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_nsclc(tmp_path / "out")
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_failed_download_is_reported_with_reason(tmp_path, cache, monkeypatch):
    def unreachable(*_):
        raise RegistryUnavailable("the reason")

    monkeypatch.setattr(samples, "download", unreachable)
    with pytest.raises(SampleUnavailable, match=r"nsclc.*the reason"):
        write_nsclc(tmp_path)
    assert list(cache.iterdir()) == []


def test_unreachable_index_is_reported_without_login(tmp_path, cache, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(SampleUnavailable, match=r"127\.0\.0\.1:9/simple") as caught:
        write_nsclc(tmp_path)
    assert "secret" not in str(caught.value)


def test_offline_variable_prevents_download(tmp_path, cache, published, monkeypatch):
    monkeypatch.setenv("CODEXSEG_OFFLINE", "1")
    with pytest.raises(SampleUnavailable, match="CODEXSEG_OFFLINE"):
        write_nsclc(tmp_path)
    assert published[1] == []


@pytest.mark.parametrize("missing", [".zarray", "0/0/0"])
def test_archive_without_array_is_refused(tmp_path, missing):
    names = {".zarray", "0/0/0"} - {missing}
    inner = tar({samples._NSCLC_LEVEL + name: b"x" for name in names})
    sdist = tmp_path / "s.tar.gz"
    sdist.write_bytes(tar({"p-1" + samples._NSCLC_TAR: inner}))
    with pytest.raises(InputError, match=missing):
        samples.read_nsclc_sdist(sdist)


def test_unwritable_cache_names_its_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("CODEXSEG_OFFLINE", raising=False)
    with pytest.raises(InputError, match="CODEXSEG_CACHE"):
        write_nsclc(tmp_path)


@pytest.mark.slow
@pytest.mark.network
def test_downloaded_sample_has_known_hash(tmp_path, shared_image):
    if os.environ.get("CODEXSEG_OFFLINE"):
        pytest.skip("CODEXSEG_OFFLINE is set")
    try:
        sample = write_nsclc(tmp_path)
    except SampleUnavailable as error:
        pytest.skip(str(error))
    pixels = tifffile.imread(sample.image)
    assert pixels.shape == (6, 2638, 5431)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == PIXELS_SHA256
    if shared_image.is_file():
        assert np.array_equal(pixels, tifffile.imread(shared_image))


@pytest.fixture
def shared_image():
    beside = Path(__file__).parents[3] / "shared"
    return Path(os.environ.get("CODEXSEG_SHARED", beside)) / "data/nsclc/nsclc4301.ome.tif"
