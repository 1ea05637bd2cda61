"""Bad input: one clear message, exit code 2, no traceback, no partial output."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from tests.helpers.runs import codexseg
from tests.helpers.tissue import LOCAL, tissue, write_config, write_slide


def refused(done, *words):
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 12
    for word in words:
        assert word in done.stderr


@pytest.fixture
def config(tmp_path):
    write_slide(tmp_path)
    return write_config(tmp_path)


def change(config: Path, old: str, new: str) -> Path:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    return config


def run(config):
    done = codexseg("run", config)
    return done, config.parent / "my_codexseg"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("slide.ome.tif", "absent.ome.tif", ["absent.ome.tif"]),
        ("DAPI", "DAPY", ["DAPY", "DAPI"]),
        ("[CD45]", "[CD54]", ["CD54", "CD45"]),
        ("patch_height: 100", "patch_heigth: 100", ["line 3", "patching.patch_height"]),
        ("patch_height: 100", "patch_height: 7", ["line 3", "at least 64"]),
        ("tissue:Local", "tissue:Lokal", ["Lokal", "segmentation.backend"]),
        (LOCAL, "watershet", ["'watershet'", "Did you mean 'watershed'"]),
        (
            "{file_name: slide.ome.tif}",
            "{file_name: slide.ome.tif, image_mpp: 0.3}",
            ["0.3", "0.5"],
        ),
    ],
)
def test_wrong_configuration_exits_with_2(config, old, new, words):
    done, out = run(change(config, old, new))
    refused(done, *words)
    assert not out.exists()


def test_missing_configuration_exits_with_2(tmp_path):
    refused(codexseg("run", tmp_path / "absent.yaml"), "absent.yaml", "config init")


def test_truncated_tiff_exits_with_2(config):
    slide = config.parent / "slide.ome.tif"
    slide.write_bytes(slide.read_bytes()[:-2000])
    done, out = run(config)
    refused(done, "slide.ome.tif", "truncated")
    assert not out.exists()


def test_rgb_photograph_exits_with_2(config):
    path = config.parent / "slide.ome.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    done, out = run(config)
    refused(done, "RGB")
    assert not out.exists()


def test_z_stack_exits_with_2(config):
    path = config.parent / "slide.ome.tif"
    tifffile.imwrite(
        path, np.zeros((5, 64, 64), np.uint16), metadata={"axes": "ZYX"}, ome=True
    )
    done, _ = run(config)
    refused(done, "3-D stack", "5 steps", "'Z'")


def test_slide_without_pixel_size_exits_with_2(config):
    path = config.parent / "slide.ome.tif"
    tifffile.imwrite(
        path,
        tissue(),
        ome=True,
        metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "CD45", "C"]}},
    )
    done, _ = run(config)
    refused(done, "data.image_mpp")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, ["NaN", "CD45"]), (-3.0, ["negative", "CD45", "Clip"])]
)
def test_nan_and_negative_pixels_exit_with_2(config, value, words):
    image = tissue().astype(np.float32)
    image[1, 200, 300] = value
    write_slide(config.parent, image)
    done, out = run(config)
    refused(done, *words, "y 200, x 300")
    assert not (out / "cells.csv").exists()


def test_panel_of_another_length_exits_with_2(config):
    (config.parent / "panel.tsv").write_text(
        "channel_id\tantibody_name\n1\tDAPI\n2\tCD45\n"
    )
    change(
        config,
        "file_name: slide.ome.tif",
        "file_name: slide.ome.tif, antibodies_file: panel.tsv",
    )
    done, _ = run(config)
    refused(done, "panel.tsv", "2", "3")


@pytest.mark.slow
def test_run_directory_of_another_slide_exits_with_2(config):
    assert run(config)[0].returncode == 0
    write_slide(config.parent, tissue(seed=1))
    done, out = run(config)
    refused(done, str(out), "another slide", "--out")


@pytest.mark.slow
def test_non_empty_directory_is_kept_and_exits_with_2(config, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.txt").write_text("precious")
    done = codexseg("run", config, "--out", out)
    refused(done, str(out), "not empty", "--out")
    assert [p.name for p in out.iterdir()] == ["chapter1.txt"]


@pytest.mark.slow
def test_file_as_output_directory_exits_with_2(config, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    refused(codexseg("run", config, "--out", blocked / "run"), "Cannot write to", "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_read_only_directory_exits_with_2(config, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    refused(codexseg("run", config, "--out", folder / "run"), "Cannot write to", "--out")


def test_status_without_a_run_exits_with_2(tmp_path):
    refused(codexseg("status", tmp_path), "holds no run")


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, 300])
def test_constant_slide_gives_empty_tables_and_a_warning(config, value):
    write_slide(config.parent, np.full((3, 300, 300), value, np.uint16))
    done, out = run(config)
    assert done.returncode == 0, done.stderr
    assert "No patch has signal" in done.stdout
    assert "Warning: The channel 'DAPI' has one intensity everywhere." in done.stderr
    cells = pd.read_csv(out / "cells.csv")
    assert len(cells) == 0
    assert "DAPI_cell_mean" in cells.columns
    metadata = pd.read_csv(out / "patches_metadata.csv")
    assert set(metadata["status"]) == {"skipped"}
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_noise_without_tissue_has_no_informative_patch(config):
    rng = np.random.default_rng(0)
    write_slide(config.parent, rng.normal(300, 60, (3, 400, 400)).clip(0).astype(np.uint16))
    done, _ = run(config)
    assert done.returncode == 0
    assert "0 of" in done.stdout


@pytest.mark.slow
def test_constant_whole_cell_channel_gives_a_warning(config):
    image = tissue()
    image[1] = 7
    write_slide(config.parent, image)
    done, _ = run(config)
    assert done.returncode == 0
    assert "Warning: The channel 'CD45' has one intensity everywhere." in done.stderr
