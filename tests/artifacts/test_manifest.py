"""Manifest and warnings of a run."""

import hashlib
import json
import shutil

import pytest

from codexseg.artifacts.manifest import read_manifest
from codexseg.artifacts.warnings import RunWarning, read_warnings, write_warnings
from codexseg.config.schema import Config
from codexseg.run.directory import Run
from tests.helpers.runs import codexseg, execute
from tests.helpers.tissue import tissue, write_config, write_slide


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest")
    image = tissue()
    image[1] = 300  # no contrast in the whole-cell channel
    write_slide(folder, image)
    config = write_config(folder)
    config.write_text(config.read_text() + "export: {csv: true}\n")
    execute(config, folder / "one")
    return folder


def content(run):
    return json.loads((run / "manifest.json").read_text())


@pytest.mark.slow
def test_result_has_the_same_bytes_in_another_place_with_other_resources(folder, tmp_path):
    shutil.copy(folder / "slide.ome.tif", tmp_path)
    config = tmp_path / "my.yaml"
    text = (folder / "my.yaml").read_text()
    config.write_text(text + "execution: {workers: 2}\n")
    execute(config, tmp_path / "two")
    first, second = content(folder / "one"), content(tmp_path / "two")
    assert json.dumps(first["result"]) == json.dumps(second["result"])
    assert first["execution"]["workers"] == 1
    assert second["execution"]["workers"] == 2
    for name in ("host", "created", "last_finished", "cores", "versions", "slide"):
        assert first["execution"][name]


def test_configuration_is_restored_from_both_parts(folder):
    manifest = read_manifest(Run(folder / "one"))
    config = Config.model_validate(manifest.config)
    assert config.data.file_name == folder / "slide.ome.tif"
    assert "file_name" not in manifest.result["config"]["data"]
    assert manifest.slide.path == str(folder / "slide.ome.tif")
    assert manifest.slide.shape == (3, 420, 460)


def test_files_are_listed_with_size_and_sha256(folder):
    files = content(folder / "one")["result"]["files"]
    assert {"cells.parquet", "channel_stats.csv", "exports/cell.ome.tif"} <= set(files)
    data = (folder / "one" / "cells.parquet").read_bytes()
    assert files["cells.parquet"] == {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


@pytest.mark.slow
def test_sample_is_the_stem_of_the_file_or_as_configured(folder, tmp_path):
    assert content(folder / "one")["result"]["sample"] == "slide"
    write_slide(tmp_path)
    config = write_config(tmp_path)
    text = config.read_text().replace("slide.ome.tif}", "slide.ome.tif, sample: Lung 7}")
    config.write_text(text)
    execute(config, tmp_path / "run")
    assert content(tmp_path / "run")["result"]["sample"] == "Lung 7"
    assert "<h1>Lung 7</h1>" in (tmp_path / "run" / "report.html").read_text()


def test_warnings_are_in_manifest_file_status_and_report(folder):
    run = folder / "one"
    codes = [warning.code for warning in read_warnings(run)]
    assert codes == ["configuration", "constant_channel"]
    recorded = content(run)["result"]["warnings"]
    assert [warning["code"] for warning in recorded] == codes
    assert set(recorded[0]) == {"code", "value", "setting", "message"}
    shown = codexseg("status", run)
    assert shown.returncode == 0
    report = (run / "report.html").read_text()
    for message in ("export.csv is deprecated", "CD45"):
        assert message in shown.stderr
        assert message in report


def test_equal_warnings_are_written_once(tmp_path):
    warning = RunWarning("unlikely_pixel_size", 9.0, "data.image_mpp", "Check it.")
    write_warnings(tmp_path, [warning, warning])
    assert read_warnings(tmp_path) == [warning]
    assert read_warnings(tmp_path / "none") == []
