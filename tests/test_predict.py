"""Prediction of one image without a configuration."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import tifffile
import typer

from codexseg.cli.console import user_errors
from codexseg.config.fields import image_stem
from codexseg.errors import ConfigError, InputError, RunStateError
from codexseg.predict import ImageOptions, prepare
from codexseg.run.directory import Run
from tests.helpers.images import write_ome_tiff
from tests.helpers.mesmer import TOY, blobs
from tests.helpers.runs import codexseg

NAMES = ("DAPI", "CD44", "PanCK")
DAPI = ImageOptions(nucleus="DAPI")


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
def test_image_stem_has_no_format_suffix(tmp_path, name, expected):
    assert image_stem(tmp_path / name) == expected


@pytest.mark.slow
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


@pytest.mark.slow
def test_mpp_option_overrides_pixel_size_of_the_image(image, tmp_path):
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


@pytest.mark.slow
def test_overwrite_replaces_outputs_with_equal_files(image, tmp_path):
    options = ImageOptions(nucleus="DAPI", wholecell=("CD44",))
    first = prepare(image, tmp_path / "out", options)
    first.execute()
    before = first.cells.read_bytes()
    second = prepare(image, tmp_path / "out", options)
    second.execute(overwrite=True)
    assert second.cells.read_bytes() == before


@pytest.mark.slow
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
def test_wrong_options_give_one_clear_error(image, words, expected, tmp_path):
    done = codexseg("predict", image, *words, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_missing_image_or_pixel_size_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"Image .* not found"):
        prepare(tmp_path / "none.tif", tmp_path, DAPI)
    path = tmp_path / "bare.ome.tif"
    write_ome_tiff(path, blobs((80, 80)), NAMES[:2], None)
    done = codexseg("predict", path, "--nucleus", "DAPI", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "pixel size" in done.stderr


def test_unknown_backend_is_an_error(image, tmp_path):
    options = ImageOptions(nucleus="DAPI", backend="nope")
    with pytest.raises(ConfigError):
        prepare(image, tmp_path, options).pipeline.check()


def test_keys_in_error_messages_are_followed_by_their_options(capsys):
    options = {"segmentation.model_path": "--model"}
    with pytest.raises(typer.Exit), user_errors(options):
        raise ConfigError("segmentation.model_path or segmentation.device is wrong.")
    assert capsys.readouterr().err.splitlines()[1:] == [
        "Options of this command: --model is segmentation.model_path; "
        "segmentation.device: only in a configuration (codexseg run)."
    ]
    with pytest.raises(typer.Exit), user_errors(options):
        raise ConfigError("something else.")
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("backend", [None, "embedded", "watershed"])
def test_weights_for_a_backend_without_weights_are_an_error(image, backend, tmp_path):
    options = ImageOptions(nucleus="DAPI", backend=backend, model=TOY)
    with pytest.raises(ConfigError, match="--backend mesmer or --backend panoptic"):
        prepare(image, tmp_path, options)


@pytest.mark.slow
def test_run_directory_beside_the_image_is_kept(image, tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("data: {file_name: a.ome.tif}\nreport: {overlays: 0}\n")
    assert codexseg("run", config).returncode == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a_codexseg").rglob("*")}
    prepare(image, tmp_path, DAPI).execute()
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "a_codexseg").rglob("*")}
    assert after == before
    assert (tmp_path / "a_cells.tif").exists()


@pytest.mark.slow
@pytest.mark.parametrize("content", [[], ["manifest.json"], ["run"]])
def test_scratch_folder_not_made_by_predict_is_kept(image, content, tmp_path):
    out = tmp_path / "out"
    prediction = prepare(image, out, DAPI)
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
    """Predict, and stop before the outputs are moved to their folder."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("codexseg.predict._format_backend", stop)
        with pytest.raises(KeyboardInterrupt):
            prediction.execute()


def test_interrupted_prediction_resumes_in_its_scratch_folder(image, tmp_path, monkeypatch):
    prediction = prepare(image, tmp_path / "out", DAPI)
    stopped(prediction, monkeypatch)
    markers = prediction.pipeline.out / "stages"
    before = (markers / "segment.json").read_bytes()
    stopped(prediction, monkeypatch)
    assert (markers / "segment.json").read_bytes() == before
    assert not prediction.cells.exists()
    prediction.execute()
    assert prediction.cells.exists()
    assert not prediction.scratch.exists()


@pytest.mark.slow
def test_second_process_exits_and_keeps_files_of_the_first(image, tmp_path, monkeypatch):
    prediction = prepare(image, tmp_path / "out", DAPI)
    stopped(prediction, monkeypatch)
    with Run(prediction.scratch).locked():
        files = sorted(prediction.scratch.rglob("*"))
        second = codexseg("predict", image, "--nucleus", "DAPI", "--out", tmp_path / "out")
        assert second.returncode == 2
        assert "is in use by process" in second.stderr
        assert sorted(prediction.scratch.rglob("*")) == files
    prediction.execute()


@pytest.mark.slow
def test_two_concurrent_predictions_give_one_result(image, tmp_path):
    out = tmp_path / "out"
    words = ["predict", image, "--nucleus", "DAPI", "--out", out]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: codexseg(*words), range(2)))
    assert {d.returncode for d in done} <= {0, 2}
    assert any(d.returncode == 0 for d in done), [d.stderr for d in done]
    for failed in (d for d in done if d.returncode):
        assert "is in use by process" in failed.stderr
    assert sorted(p.name for p in out.iterdir()) == [
        "a_cells.csv",
        "a_cells.tif",
        "a_nuclei.tif",
    ]


def test_output_folder_that_cannot_be_created_is_an_error(image, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*another --out"):
        prepare(image, tmp_path / "file" / "out", DAPI).execute()


def test_help_contains_defaults_and_resuming():
    text = " ".join(codexseg("predict", "--help").stdout.split())
    for words in (
        "Processes; default: 1",
        "embedded (default)",
        "plain TIFF",
        "again to resume",
    ):
        assert words in text


@pytest.mark.slow
def test_existing_files_are_kept_without_overwrite(image, tmp_path):
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


def test_folder_with_the_name_of_an_output_is_an_error(image, tmp_path):
    (tmp_path / "out" / "a_cells.csv").mkdir(parents=True)
    done = codexseg("predict", image, "--nucleus", "DAPI", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "is a folder" in done.stderr


def test_nan_pixels_leave_no_files(tmp_path):
    pixels = np.full((2, 100, 100), 7.0, np.float32)
    pixels[0, 50, 50] = np.nan
    image = write_ome_tiff(tmp_path / "nan.ome.tif", pixels, ("DAPI", "CD44"), 0.5)
    done = codexseg("predict", image, "--nucleus", "DAPI", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "NaN" in done.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("mpp", ["1e-9", "50", "1e9"])
def test_pixel_size_out_of_range_is_an_error(image, mpp, tmp_path):
    words = ["--nucleus", "DAPI", "--mpp", mpp, "--out", tmp_path / "out"]
    done = codexseg("predict", image, *words)
    assert done.returncode == 2
    assert "Expected 0.01 to 20" in done.stderr
    assert not (tmp_path / "out").exists()
