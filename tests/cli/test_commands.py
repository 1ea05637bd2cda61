"""Commands run in a process of their own."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from tests.helpers.images import write_qptiff
from tests.helpers.runs import ROOT, codexseg
from tests.helpers.tissue import tissue, write_config, write_slide


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "status", "info", "sample", "demo", "config"])
def test_every_command_has_help(command):
    done = codexseg(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_help_imports_no_heavy_package():
    code = """
import sys, typer.main
import codexseg.cli.app
typer.main.get_command(codexseg.cli.app.app)
heavy = {"numpy", "pandas", "zarr", "numba", "pydantic", "scipy"} & set(sys.modules)
sys.exit(str(heavy) if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_config_init_output_with_a_slide_passes_config_check(tmp_path):
    write_slide(tmp_path)
    text = codexseg("config", "init").stdout
    config = tmp_path / "my.yaml"
    config.write_text(re.sub(r"file_name: null", "file_name: slide.ome.tif", text))
    done = codexseg("config", "check", config)
    assert done.returncode == 0, done.stderr
    assert "460 x 420 px, 3 channels, 0.5 um/px" in done.stdout
    assert not (tmp_path / "my_codexseg").exists()


def test_info_shows_metadata_of_qptiff(tmp_path):
    path = write_qptiff(tmp_path / "slide.qptiff", tissue(), ("DAPI", "CD45", "PANCK"), 0.5)
    done = codexseg("info", path)
    assert done.returncode == 0, done.stderr
    for text in ("qptiff, uint16", "460 x 420 px, 3 channels", "0.5 um/px", "CD45"):
        assert text in done.stdout


@pytest.mark.slow
def test_synthetic_sample_runs_and_predict_keeps_its_truth(tmp_path):
    done = codexseg("sample", "synthetic", "--size", 300, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    config = next(tmp_path.glob("*.yaml"))
    again = codexseg("run", config)
    assert again.returncode == 0, again.stderr
    cells = pd.read_csv(tmp_path / f"{config.stem}_codexseg" / "cells.csv")
    truth = pd.read_csv(next(tmp_path.glob("*_truth.csv")))
    assert 0.5 * len(truth) < len(cells) < 1.6 * len(truth)
    made = {path: path.read_bytes() for path in tmp_path.glob("*_truth*")}
    assert len(made) == 3
    slide = next(tmp_path.glob("*.ome.tif"))
    options = ["--nucleus", "DAPI", "--out", tmp_path]
    assert codexseg("predict", slide, *options).returncode == 0
    assert {path: path.read_bytes() for path in made} == made
    assert codexseg("sample", "synthetic", "--size", "12").returncode == 2
    assert "expected nsclc or synthetic" in codexseg("sample", "lung").stderr


@pytest.mark.slow
def test_demo_uses_synthetic_tissue_when_offline(tmp_path):
    done = codexseg(
        "demo",
        "--out",
        tmp_path / "demo",
        CODEXSEG_CACHE=str(tmp_path),
        CODEXSEG_OFFLINE="1",
    )
    assert done.returncode == 0, done.stderr
    assert "The real slide is unavailable: " in done.stderr
    assert "Using synthetic tissue instead." in done.stderr
    assert re.search(r"\d+ cells on 2048 x 2048 px", done.stdout)
    assert (tmp_path / "demo" / "synthetic_2048_codexseg" / "report.html").exists()


@pytest.mark.slow
def test_run_until_segment_then_complete_in_out_directory(tmp_path):
    write_slide(tmp_path)
    config = write_config(tmp_path)
    done = codexseg("run", config, "--out", tmp_path / "else where", "--until", "segment")
    assert done.returncode == 0, done.stderr
    lines = codexseg("status", tmp_path / "else where").stdout.splitlines()
    states = {line.split()[0]: line.split()[1] for line in lines}
    assert states["segment"] == "done"
    assert states["repair"] == "missing"
    assert re.search(r"segment\s+done\s+(\d+)/\1 done", "\n".join(lines))
    done = codexseg("run", config, "--out", tmp_path / "else where", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ cells", done.stdout)
    assert done.stderr == ""


@pytest.mark.slow
def test_deleted_output_is_stale_and_written_again(tmp_path):
    write_slide(tmp_path)
    config, out = write_config(tmp_path), tmp_path / "my_codexseg"
    assert codexseg("run", config).returncode == 0
    before = (out / "cells.csv").read_bytes()
    (out / "cells.csv").unlink()
    assert re.search(r"export\s+stale\s+cells.csv missing", codexseg("status", out).stdout)
    assert codexseg("run", config).returncode == 0
    assert (out / "cells.csv").read_bytes() == before


@pytest.mark.slow
def test_outputs_of_disabled_formats_are_deleted(tmp_path):
    write_slide(tmp_path)
    config, out = write_config(tmp_path), tmp_path / "my_codexseg"
    assert codexseg("run", config).returncode == 0
    text = config.read_text().replace(
        "segmentation: {", "segmentation: {save_segmentation_pickle: false, "
    )
    config.write_text(text + "export: {csv: false, ome_tiff: false}\n")
    assert codexseg("run", config).returncode == 0
    assert not list(out.glob("*.pickle"))
    assert not (out / "cells.csv").exists()
    assert not list(out.glob("exports/*"))
    assert (out / "cells.parquet").exists()


@pytest.mark.slow
def test_run_stays_up_to_date_when_slide_moves(tmp_path):
    slide = write_slide(tmp_path)
    config, out = write_config(tmp_path), tmp_path / "my_codexseg"
    assert codexseg("run", config).returncode == 0
    moved = tmp_path / "elsewhere" / slide.name
    moved.parent.mkdir()
    slide.rename(moved)
    status = codexseg("status", out)
    assert status.returncode == 0, status.stderr
    assert "stale" not in status.stdout
    config.write_text(config.read_text().replace(slide.name, f"elsewhere/{slide.name}"))
    status = codexseg("status", out)
    assert status.returncode == 0, status.stderr
    assert "stale" not in status.stdout


@pytest.mark.slow
def test_run_keeps_its_sample_name_when_slide_is_renamed(tmp_path):
    slide = write_slide(tmp_path)
    config, out = write_config(tmp_path), tmp_path / "my_codexseg"
    assert codexseg("run", config).returncode == 0
    slide.rename(tmp_path / "moved.ome.tif")
    text = config.read_text().replace("slide.ome.tif", "moved.ome.tif")
    config.write_text(text)
    status = codexseg("status", out)
    assert status.returncode == 0, status.stderr
    assert "stale" not in status.stdout
    config.write_text(text.replace("moved.ome.tif", "moved.ome.tif, sample: other"))
    lines = codexseg("status", out).stdout.splitlines()
    stale = [line for line in lines if "stale" in line]
    assert [line.split()[0] for line in stale] == ["export", "report"]
    assert all("sample 'slide' -> 'other'" in line for line in stale)
