"""codexseg predict: one image, no configuration."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import tifffile
import typer

from codexseg.cli.console import clear_errors
from codexseg.errors import ConfigError, InputError, RunStateError
from codexseg.predict import prepare, stem
from codexseg.run.directory import Run
from tests.helpers.runs import codexseg
from tests.images import write_ome_tiff
from tests.mesmer import TOY, blobs

NAMES = ("DAPI", "CD44", "PanCK")


@pytest.fixture
def image(tmp_path):
    pixels = blobs((300, 340))
    pixels = np.stack([pixels[0], pixels[1], pixels[1] // 2])
    return write_ome_tiff(tmp_path / "a.ome.tif", pixels, NAMES, 0.5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.ome.tif", "a"),
        ("a.b.OME.TIFF", "a.b"),
        ("slide.qptiff", "slide"),
        ("x.ome.zarr", "x"),
        ("plain.tif", "plain"),
        ("odd", "odd"),
    ],
)
def test_outputs_are_called_after_the_image(tmp_path, name, expected):
    assert stem(tmp_path / name) == expected


@pytest.mark.parametrize("backend", [[], ["--backend", "panoptic", "--model", TOY]])
def test_predict_writes_labels_and_a_table(image, backend, tmp_path):
    out = tmp_path / "out"
    words = ["--nucleus", "DAPI", "--wholecell", "CD44, PanCK", *backend, "--out", out]
    done = codexseg("predict", image, *words)
    assert done.returncode == 0, done.stderr
    used = f"panoptic, weights toy ({TOY})" if backend else "embedded, weights embedded"
    assert f"\nBackend: {used}" in f"\n{done.stdout}"
    assert sorted(p.name for p in out.iterdir()) == [
        "a_cells.csv",
        "a_cells.tif",
        "a_nuclei.tif",
    ]
    cells, nuclei = (tifffile.imread(out / f"a_{name}.tif") for name in ("cells", "nuclei"))
    table = pd.read_csv(out / "a_cells.csv")
    assert cells.shape == nuclei.shape == (300, 340)
    assert cells.max() == len(table) > 20
    assert np.array_equal(cells[nuclei > 0], nuclei[nuclei > 0])
    assert np.array_equal(np.unique(nuclei), np.unique(cells))


def test_mpp_of_the_command_counts_though_the_image_says_another(image, tmp_path):
    def median_area(*words):
        done = codexseg(
            "predict", image, "--nucleus", "DAPI", "--out", tmp_path, "--backend",
            "panoptic", "--model", TOY, "--overwrite", *words,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(tmp_path / "a_cells.csv")
        return (table["cell_area_um2"] / table["cell_area_px"]).median()

    assert median_area() == pytest.approx(0.25)
    assert median_area("--mpp", "0.25") == pytest.approx(0.0625)


def test_predict_again_replaces_what_was_there(image, tmp_path):
    options = {"nucleus": "DAPI", "wholecell": ["CD44"], "out": tmp_path / "out"}
    first = prepare(image, **options)
    first.execute()
    before = first.cells.read_bytes()
    second = prepare(image, **options)
    second.execute(overwrite=True)
    assert second.cells.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--nucleus", "DAPY"], "DAPY"),
        (["--nucleus", "DAPI", "--wholecell", "CD44,nope"], "nope"),
        (["--nucleus", "DAPI", "--backend", "mesmerize"], "mesmer"),
        (["--nucleus", "DAPI", "--mpp", "0"], "mpp"),
        (["--nucleus", "DAPI", "--mpp", "-1"], "mpp"),
        (["--nucleus", "DAPI", "--mpp", "0"], "--mpp is data.image_mpp"),
        (["--nucleus", "DAPY"], "--nucleus is channels.nuclear_channel"),
        (["--nucleus", "DAPI", "--backend", "mesmerize"], "--backend is segmentation.b"),
        (["--nucleus", "DAPI", "--backend", "panoptic"], "--model is segmentation.model_"),
        (["--nucleus", "DAPI", "--model", "none.onnx"], "--backend mesmer or --backend pa"),
    ],
)
def test_wrong_words_end_with_one_clear_error(image, words, expected, tmp_path):
    done = codexseg("predict", image, *words, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_image_and_no_pixel_size(tmp_path):
    with pytest.raises(InputError, match="no image"):
        prepare(tmp_path / "none.tif", nucleus="DAPI", out=tmp_path)
    path = tmp_path / "bare.ome.tif"
    write_ome_tiff(path, blobs((80, 80)), NAMES[:2], None)
    done = codexseg("predict", path, "--nucleus", "DAPI", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "pixel size" in done.stderr


def test_a_backend_that_is_not_there(image, tmp_path):
    with pytest.raises(ConfigError):
        prepare(image, nucleus="DAPI", out=tmp_path, backend="nope").pipeline.source()


def test_keys_without_an_option_are_said_to_be_of_a_configuration(capsys):
    options = {"segmentation.model_path": "--model"}
    with pytest.raises(typer.Exit), clear_errors(options):
        raise ConfigError("segmentation.model_path or segmentation.device is wrong.")
    assert capsys.readouterr().err.splitlines()[1:] == [
        "Options of this command: --model is segmentation.model_path; "
        "segmentation.device: only in a configuration (codexseg run)."
    ]
    with pytest.raises(typer.Exit), clear_errors(options):
        raise ConfigError("something else.")
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("backend", [None, "embedded", "watershed"])
def test_weights_for_a_backend_that_has_none_are_refused(image, backend, tmp_path):
    options = {"nucleus": "DAPI", "out": tmp_path, "backend": backend}
    with pytest.raises(ConfigError, match="--backend mesmer or --backend panoptic"):
        prepare(image, model_path=TOY, **options)


def test_the_run_of_a_configuration_beside_the_image_stays(image, tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("data: {file_name: a.ome.tif}\nreport: {overlays: 0}\n")
    assert codexseg("run", config).returncode == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a_codexseg").rglob("*")}
    prepare(image, nucleus="DAPI", out=tmp_path).execute()
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "a_codexseg").rglob("*")}
    assert after == before
    assert (tmp_path / "a_cells.tif").exists()


@pytest.mark.parametrize("content", [[], ["manifest.json"], ["run"]])
def test_a_folder_that_predict_did_not_make_is_left_as_it_is(image, content, tmp_path):
    out = tmp_path / "out"
    prediction = prepare(image, nucleus="DAPI", out=out)
    prediction.scratch.mkdir(parents=True)
    for name in content:
        (prediction.scratch / name).write_text("mine")
    with pytest.raises(RunStateError, match="was not made by predict"):
        prediction.execute()
    assert [p.name for p in prediction.scratch.iterdir()] == content
    done = codexseg("predict", image, "--nucleus", "DAPI", "--out", out)
    assert done.returncode == 2
    assert "was not made by predict" in done.stderr


def stopped(prediction, monkeypatch):
    """Predict, and stop where only the outputs are to be put in place."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("codexseg.predict._words", stop)
        with pytest.raises(KeyboardInterrupt):
            prediction.execute()


def test_stopped_it_goes_on_in_its_own_folder(image, tmp_path, monkeypatch):
    prediction = prepare(image, nucleus="DAPI", out=tmp_path / "out")
    stopped(prediction, monkeypatch)
    markers = prediction.pipeline.out / "stages"
    before = (markers / "segment.json").read_bytes()
    stopped(prediction, monkeypatch)
    assert (markers / "segment.json").read_bytes() == before
    assert not prediction.cells.exists()
    prediction.execute()
    assert prediction.cells.exists()
    assert not prediction.scratch.exists()


def test_the_second_of_two_ends_and_leaves_the_first_alone(image, tmp_path, monkeypatch):
    prediction = prepare(image, nucleus="DAPI", out=tmp_path / "out")
    stopped(prediction, monkeypatch)
    with Run(prediction.scratch).locked():
        files = sorted(prediction.scratch.rglob("*"))
        second = codexseg("predict", image, "--nucleus", "DAPI", "--out", tmp_path / "out")
        assert second.returncode == 2
        assert "is being worked on by process" in second.stderr
        assert sorted(prediction.scratch.rglob("*")) == files
    prediction.execute()


def test_two_at_once_one_of_which_ends_with_an_error(image, tmp_path):
    out = tmp_path / "out"
    words = ["predict", image, "--nucleus", "DAPI", "--out", out]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: codexseg(*words), range(2)))
    assert {d.returncode for d in done} <= {0, 2}
    assert any(d.returncode == 0 for d in done), [d.stderr for d in done]
    for failed in (d for d in done if d.returncode):
        assert "is being worked on by process" in failed.stderr
    assert sorted(p.name for p in out.iterdir()) == [
        "a_cells.csv",
        "a_cells.tif",
        "a_nuclei.tif",
    ]


def test_a_folder_that_cannot_be_written_is_wrong_input(image, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*another --out"):
        prepare(image, nucleus="DAPI", out=tmp_path / "file" / "out").execute()


def test_the_help_says_the_defaults_and_that_it_goes_on():
    text = " ".join(codexseg("predict", "--help").stdout.split())
    for words in ("Processes; default: 1", "embedded (default)", "plain TIFF", "goes on"):
        assert words in text


def test_files_of_others_stay(image, tmp_path):
    """Another image may be called a_cells.tif."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_cells.tif").write_bytes(b"somebody's")
    words = ["predict", image, "--nucleus", "DAPI", "--out", out]
    done = codexseg(*words)
    assert done.returncode == 2
    assert "a_cells.tif" in done.stderr
    assert "--overwrite" in done.stderr
    assert [p.name for p in out.iterdir()] == ["a_cells.tif"]
    assert (out / "a_cells.tif").read_bytes() == b"somebody's"
    assert codexseg(*words, "--overwrite").returncode == 0
    assert len(list(out.iterdir())) == 3


def test_an_output_that_is_a_folder_is_said_before_the_work(image, tmp_path):
    (tmp_path / "out" / "a_cells.csv").mkdir(parents=True)
    done = codexseg("predict", image, "--nucleus", "DAPI", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "is a folder" in done.stderr


def test_pixels_that_cannot_be_leave_nothing_behind(tmp_path):
    pixels = np.full((2, 100, 100), 7.0, np.float32)
    pixels[0, 50, 50] = np.nan
    image = write_ome_tiff(tmp_path / "nan.ome.tif", pixels, ("DAPI", "CD44"), 0.5)
    done = codexseg("predict", image, "--nucleus", "DAPI", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "NaN" in done.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("mpp", ["1e-9", "50", "1e9"])
def test_a_pixel_size_that_no_microscope_has_is_wrong_input(image, mpp, tmp_path):
    words = ["--nucleus", "DAPI", "--mpp", mpp, "--out", tmp_path / "out"]
    done = codexseg("predict", image, *words)
    assert done.returncode == 2
    assert "expected 0.01 to 20" in done.stderr
    assert not (tmp_path / "out").exists()
