"""Resuming of runs, and reports of failures."""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from codexseg.errors import ConfigError, RunStateError
from codexseg.pipeline import Pipeline
from tests.helpers.runs import ROOT, codexseg, execute, labels, outputs
from tests.helpers.tissue import write_config, write_slide


def states(config, out):
    return {s.stage: (s.state, s.why) for s in Pipeline.from_yaml(config, out).status()}


@pytest.fixture
def config(tmp_path):
    write_slide(tmp_path)
    return write_config(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run: its configuration, number of files, and outputs."""
    folder = tmp_path_factory.mktemp("finished")
    write_slide(folder)
    path = write_config(folder)
    done = deadly(0, path, folder / "run")
    assert done.returncode == 0, done.stderr
    n_files = int(re.search(r"files (\d+)", done.stdout)[1])
    return path, n_files, outputs(folder / "run")


def deadly(n, config, out):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.helpers.killer",
            str(n),
            "run",
            str(config),
            "--out",
            str(out),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97])
def test_resume_after_sigkill_gives_identical_bytes(finished, tmp_path, fraction):
    config, n_files, expected = finished
    out = tmp_path / "run"
    killed = deadly(max(1, round(fraction * n_files)), config, out)
    assert killed.returncode == -signal.SIGKILL
    again = codexseg("run", config, "--out", out)
    assert again.returncode == 0, again.stderr
    found = outputs(out)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["segment", "stitch"])
def test_resume_within_a_stage_skips_finished_work(finished, tmp_path, stage):
    config, n_files, expected = finished
    out = tmp_path / "run"
    for n in range(10, n_files, 4):
        deadly(n, config, out)
        rows = list((out / "work").glob(f"{stage}-*/0*.json"))
        if len(rows) >= 2 and not (out / "stages" / f"{stage}.json").exists():
            break
    else:
        pytest.fail(f"no kill fell into {stage}")
    before = {row: row.stat().st_mtime_ns for row in rows}
    assert codexseg("run", config, "--out", out).returncode == 0
    assert {row: row.stat().st_mtime_ns for row in rows} == before
    assert outputs(out) == expected


def test_second_execution_does_nothing(config, tmp_path):
    execute(config, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    execute(config, tmp_path / "run")
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    changed = {p.name for p in after if after[p] != before.get(p)}
    assert changed == {"manifest.json", "run.log", "config.yaml"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "first", "why"),
    [
        ("profile: {solidity: true}", "profile", "profile.solidity False -> True"),
        ("repair: {min_overlap: 0.9}", "repair", "repair.min_overlap 0.0 -> 0.9"),
        (
            "patch_qc: {std_intensity_threshold: 9}",
            "flag",
            "std_intensity_threshold None -> 9",
        ),
        ("execution: {workers: 2}", None, ""),
        ("report: {overlays: 1}", "report", "report.overlays 6 -> 1"),
    ],
)
def test_only_stages_that_read_a_changed_key_are_repeated(
    config, tmp_path, line, first, why
):
    out = tmp_path / "run"
    execute(config, out)
    config.write_text(config.read_text() + line)
    found = states(config, out)
    order = list(found)
    if first is None:
        assert {state for state, _ in found.values()} == {"done"}
        return
    assert found[first][0] == "stale"
    assert why in found[first][1]
    assert all(found[stage][0] == "done" for stage in order[: order.index(first)])
    segmented = (out / "stages" / "segment.json").stat().st_mtime_ns
    execute(config, out)
    assert {state for state, _ in states(config, out).values()} == {"done"}
    if order.index(first) > order.index("segment"):
        assert (out / "stages" / "segment.json").stat().st_mtime_ns == segmented


@pytest.mark.slow
def test_restored_config_gives_its_original_bytes(finished, tmp_path):
    earlier, _, expected = finished
    shutil.copy(earlier.parent / "slide.ome.tif", tmp_path)
    config, out = write_config(tmp_path), tmp_path / "run"
    text = config.read_text()
    config.write_text(text.replace("patch_height: 100", "patch_height: 150"))
    execute(config, out)
    config.write_text(text)
    execute(config, out)
    found = outputs(out)
    names = [n for n in expected if n != "config.yaml" and not n.startswith("patches.zarr")]
    assert [name for name in names if found.get(name) != expected[name]] == []


@pytest.mark.slow
def test_from_until_and_force_select_stages(config, tmp_path):
    out = tmp_path / "run"
    execute(config, out, until="flag")
    assert states(config, out)["flag"][0] == "done"
    assert states(config, out)["segment"][0] == "missing"
    with pytest.raises(RunStateError, match="earlier stage segment is missing"):
        execute(config, out, from_stage="repair")
    with pytest.raises(ConfigError, match=r"unknown stage\. Use one of load, patch"):
        execute(config, out, force="repare")
    execute(config, out)
    markers = out / "stages"
    before = {p.stem: p.stat().st_mtime_ns for p in markers.iterdir()}
    execute(config, out, from_stage="profile")
    again = {
        n for n, t in before.items() if (markers / f"{n}.json").stat().st_mtime_ns != t
    }
    assert again == {"profile", "export", "report"}
    before = {p.stem: p.stat().st_mtime_ns for p in markers.iterdir()}
    execute(config, out, force="repair")
    again = {
        n for n, t in before.items() if (markers / f"{n}.json").stat().st_mtime_ns != t
    }
    assert again == {"repair"}


@pytest.mark.slow
def test_backend_error_on_one_patch_is_reported_as_failed_patch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_slide(tmp_path)
    config, out = write_config(tmp_path, "Failing"), tmp_path / "my_codexseg"
    whole = execute(config, tmp_path / "whole").cells
    Path("FAIL").touch()
    done = codexseg("run", config, cwd=tmp_path)
    assert done.returncode == 1
    assert "the model is out of sorts" in done.stderr
    assert "patches failed: " in done.stderr
    assert "Traceback" not in done.stderr
    metadata = pd.read_csv(out / "patches_metadata.csv").set_index("patch_id")
    holes = metadata[metadata["status"] == "failed"]
    assert len(holes) >= 1
    assert holes["note"].str.contains("ValueError: the model is out of sorts").all()
    assert set(metadata["status"]) == {"failed", "done", "skipped"}
    cells = pd.read_csv(out / "cells.csv")
    for _, hole in holes.iterrows():
        inside = (cells.bbox_y0_px >= hole.core_y0) & (cells.bbox_y1_px <= hole.core_y1)
        inside &= (cells.bbox_x0_px >= hole.core_x0) & (cells.bbox_x1_px <= hole.core_x1)
        assert not inside.any()
    with (out / "original_seg_res_batch.pickle").open("rb") as file:
        items = pickle.load(file)
    assert len(items) == metadata["is_informative"].sum()
    assert 0 < len(cells) < whole
    status = codexseg("status", out, cwd=tmp_path)
    assert re.search(r"segment\s+stale.*patches failed", status.stdout)

    Path("FAIL").unlink()
    again = codexseg("run", config, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert outputs(out) == outputs(tmp_path / "whole") | {
        "config.yaml": (out / "config.yaml").read_bytes()
    }


@pytest.mark.slow
def test_backend_that_violates_its_contract_is_an_error(tmp_path):
    write_slide(tmp_path)
    result = execute(write_config(tmp_path, "Wrong"), tmp_path / "run")
    assert result.cells == 0
    assert len(result.failed_patches) > 0
    note = pd.read_csv(tmp_path / "run" / "patches_metadata.csv")["note"].dropna().iloc[0]
    assert "expected labels of shape" in note


@pytest.mark.slow
def test_full_disk_stops_the_run_and_keeps_finished_work(config, tmp_path):
    """A limit on file sizes makes writes fail like a full disk."""
    run = f"{sys.executable} -m codexseg run {config} --out {tmp_path}/run"
    limited = f"ulimit -f 200; exec {run}"
    done = subprocess.run(
        ["bash", "-c", limited],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert "Kept in" in done.stderr
    assert "load     done" in done.stderr
    again = codexseg("run", config, "--out", tmp_path / "run")
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("how", "workers"), [("exit", 1), ("exit", 2), ("kill", 2)])
def test_patch_that_kills_its_worker_is_reported_and_others_finish(
    tmp_path, monkeypatch, how, workers
):
    monkeypatch.chdir(tmp_path)
    write_slide(tmp_path)
    config = write_config(tmp_path, "Deadly")
    Path("DIE").write_text(how)
    done = codexseg("run", config, "--workers", workers, cwd=tmp_path)
    assert done.returncode == 1, (done.stdout, done.stderr)
    metadata = pd.read_csv(tmp_path / "my_codexseg" / "patches_metadata.csv")
    failed = metadata[metadata["status"] == "failed"]
    assert 1 <= len(failed) <= 4
    assert (
        failed["note"].str.contains("SystemExit" if how == "exit" else "WorkerDied").all()
    )
    assert (metadata["status"] == "done").sum() > 5
    Path("DIE").unlink()
    again = codexseg("run", config, "--workers", workers, cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_second_run_in_a_locked_directory_is_refused(tmp_path):
    write_slide(tmp_path)
    config = write_config(tmp_path, "Slow")
    command = [sys.executable, "-m", "codexseg", "run", str(config)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=env) as first:
        wait_for(tmp_path / "my_codexseg" / "stages" / "flag.json")
        second = codexseg("run", config)
        assert second.returncode == 2
        assert f"is in use by process {first.pid}" in second.stderr
        assert first.wait(timeout=120) == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_time_limit_stops_run_with_message_and_without_orphans(tmp_path, workers):
    write_slide(tmp_path)
    config = write_config(tmp_path, "Slow")
    command = [
        sys.executable,
        "-m",
        "codexseg",
        "run",
        str(config),
        "--workers",
        str(workers),
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_for(tmp_path / "my_codexseg" / "stages" / "flag.json")
        time.sleep(1)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 143
    assert "run the same command to resume" in said
    assert codexseg("run", config).returncode == 0


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    pytest.fail(f"{path} did not come")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("cells.parquet", "export"),
        ("channel_stats.csv", "load"),
        ("report.html", "report"),
        ("work/load-*", "load"),
        ("work/segment-*", "segment"),
        ("work/stitch*", "stitch"),
        ("segmentation.ome.zarr/labels/nucleus/0", "repair"),
        ("segmentation.ome.zarr/labels/nucleus_original/0", "stitch"),
        ("work/repair*", "repair"),
        ("patches.zarr/original/c/6", "segment"),
        ("exports/cell.ome.tif", "export"),
    ],
)
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_lost_or_damaged_files_are_detected_and_rewritten(
    finished, tmp_path, name, stage, how
):
    config, _, expected = finished
    out = tmp_path / "run"
    shutil.copytree(config.parent / "run", out)
    found = [p for top in out.glob(name) for p in (top, *sorted(top.rglob("*")))]
    lost = [path for path in found if path.is_file()]
    assert lost
    for path in lost if how == "gone" else lost[:1]:
        path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-7])
    shown = codexseg("status", out).stdout
    assert re.search(rf"^{stage}\s+stale .* missing or changed", shown, re.MULTILINE), shown
    again = codexseg("run", config, "--out", out)
    assert again.returncode == 0, again.stderr
    assert outputs(out) == expected


@pytest.mark.slow
def test_truncated_line_of_timings_is_ignored(config, tmp_path):
    out = tmp_path / "run"
    execute(config, out, until="segment")
    with (out / "timings.csv").open("a") as file:
        file.write("segment,3,0.1,")
    execute(config, out)
    (out / "timings.csv").unlink()
    execute(config, out, force="report")


@pytest.mark.slow
def test_tables_of_outdated_labels_are_removed(config, tmp_path):
    out = tmp_path / "run"
    execute(config, out)
    config.write_text(config.read_text() + "repair: {min_overlap: 0.99}\n")
    execute(config, out, until="repair")
    assert not (out / "cells.csv").exists()
    assert not (out / "matched_seg_res_batch.pickle").exists()


@pytest.mark.slow
def test_backend_module_beside_the_configuration_is_imported(tmp_path):
    write_slide(tmp_path)
    shutil.copy(ROOT / "examples" / "own_backend.py", tmp_path / "own_backend_here.py")
    config = write_config(tmp_path)
    own = 'own_backend_here:Threshold", options: {growth_um: 2'
    config.write_text(config.read_text().replace('tests.helpers.tissue:Local"', own + "}"))
    done = codexseg("run", config, "--workers", 2)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_labels_lost_during_stitch_are_rewritten(finished, tmp_path):
    config, _, expected = finished
    out = tmp_path / "run"
    shutil.copytree(config.parent / "run", out)
    (out / "stages" / "stitch.json").unlink()  # as if killed before the marker was written
    shutil.rmtree(out / "segmentation.ome.zarr")
    assert codexseg("run", config, "--out", out).returncode == 0
    assert outputs(out) == expected


def test_failed_patch_is_reported_once_segment_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_slide(tmp_path)
    config = write_config(tmp_path, "Failing")
    Path("FAIL").touch()
    result = execute(config, tmp_path / "run", until="segment")
    metadata = pd.read_csv(tmp_path / "run" / "patches_metadata.csv").set_index("patch_id")
    assert metadata.loc[result.failed_patches, "note"].str.contains("out of sorts").all()
    assert set(metadata["status"]) == {"failed", "done", "skipped"}


@pytest.mark.slow
def test_result_omits_stale_stages(config, tmp_path):
    out = tmp_path / "run"
    assert execute(config, out).cells > 0
    config.write_text(config.read_text() + "repair: {min_overlap: 0.99}\n")
    assert execute(config, out, until="stitch").cells is None
    execute(config, out, until="repair")
    metadata = pd.read_csv(out / "patches_metadata.csv")
    assert metadata["n_matched"].sum() == labels(out).max()
    with pytest.raises(ConfigError, match="comes after"):
        execute(config, out, force="stitch", until="segment")


@pytest.mark.slow
def test_foreign_files_in_a_run_directory_are_kept(config, tmp_path):
    out = tmp_path / "run"
    execute(config, out, until="flag")
    (out / "batch-mine").mkdir()
    (out / "batch-mine" / "notes.txt").write_text("mine")
    (out / "exports").mkdir()
    (out / "exports" / f".cell.ome.tif.{'0' * 32}").write_text("half")
    execute(config, out)
    assert (out / "batch-mine" / "notes.txt").exists()
    assert [p.name for p in (out / "exports").glob(".*")] == []


@pytest.mark.slow
def test_saved_copy_of_the_configuration_can_be_run(config, tmp_path):
    config.write_text(
        config.read_text().replace("slide.ome.tif", str(tmp_path / "slide.ome.tif"))
    )
    out = tmp_path / "run"
    execute(config, out)
    assert execute(out / "config.yaml", out).cells > 0
    assert (out / "config.yaml").read_bytes() == config.read_bytes()


@pytest.mark.slow
def test_status_with_custom_backend_needs_no_slide(tmp_path):
    write_slide(tmp_path)
    shutil.copy(ROOT / "examples" / "own_backend.py", tmp_path / "own_backend_there.py")
    config = write_config(tmp_path)
    own = 'own_backend_there:Threshold", options: {growth_um: 2'
    config.write_text(config.read_text().replace('tests.helpers.tissue:Local"', own + "}"))
    assert codexseg("run", config).returncode == 0
    (tmp_path / "slide.ome.tif").unlink()
    status = codexseg("status", tmp_path / "my_codexseg")
    assert status.returncode == 0, status.stderr
    config.unlink()
    status = codexseg("status", tmp_path / "my_codexseg")
    assert status.returncode == 0, status.stderr
    assert "stale" not in status.stdout
