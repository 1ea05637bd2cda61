import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile

from codexseg.codex_patches import CodexPatches
from codexseg.config.schema import Config, SegmentationConfig
from codexseg.errors import ConfigError, RunStateError
from codexseg.segment import run_cell_segmentation
from tests.helpers.runs import execute, labels
from tests.helpers.tissue import tissue, write_config, write_slide

PICKLES = {
    "original_seg_res_batch.pickle": "seg_res_batch",
    "matched_seg_res_batch.pickle": "repaired_seg_res_batch",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run a slide with two empty columns of patches, once until export, once until flag."""
    folder = tmp_path_factory.mktemp("slide")
    write_slide(folder, tissue((220, 380), 40, empty=200))
    config = write_config(folder, overlap=0.2)
    execute(config, folder / "finished", until="export")
    execute(config, folder / "flagged", until="flag")
    return folder


@pytest.fixture
def flagged(folder, tmp_path):
    """Copy the run that ended after flag."""
    shutil.copytree(folder / "flagged", tmp_path / "run")
    return CodexPatches(tmp_path / "run")


@pytest.fixture(scope="module")
def finished(folder):
    return CodexPatches(folder / "finished")


def assert_same_masks(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_equal(one[key], other[key], err_msg=key)


def test_valid_patches_are_windows_of_the_slide(folder, flagged):
    slide = tifffile.imread(folder / "slide.ome.tif")
    metadata = flagged.patches_metadata
    informative = metadata[metadata["is_informative"]]
    assert 0 < len(informative) < len(metadata)
    assert flagged.valid_patches.patch_ids == tuple(informative["patch_id"])
    assert len(flagged.valid_patches) == len(informative)
    rows = informative.itertuples()
    for row, patch in zip(rows, flagged.valid_patches, strict=True):
        window = np.s_[row.outer_y0 : row.outer_y1, row.outer_x0 : row.outer_x1]
        np.testing.assert_array_equal(patch, np.moveaxis(slide[:2, *window], 0, -1))
        assert patch.shape == (row.height, row.width, 2)
        assert patch.dtype == np.uint16


def test_sequences_are_indexed_as_lists_and_cache_nothing(finished):
    patches = finished.seg_res_batch
    items = list(patches)
    assert_same_masks(patches[0], items[0])
    assert_same_masks(patches[np.int64(-1)], items[-1])
    assert [m["cell"].shape for m in patches[1:]] == [m["cell"].shape for m in items[1:]]
    assert patches[::-1].patch_ids == patches.patch_ids[::-1]
    assert patches[0] is not patches[0]
    with pytest.raises(IndexError):
        patches[len(patches)]
    assert repr(patches[:1]) == f"<1 items, of the patches [{patches.patch_ids[0]}]>"


@pytest.mark.parametrize(("pickled", "name"), list(PICKLES.items()))
def test_sequences_equal_the_pickles(folder, finished, pickled, name):
    with (folder / "finished" / pickled).open("rb") as file:
        expected = pickle.load(file)
    for masks, stored in zip(getattr(finished, name), expected, strict=True):
        assert_same_masks(masks, stored)


def test_repaired_masks_together_equal_slide_labels(folder, finished):
    whole = labels(folder / "finished")
    put_together = np.zeros_like(whole)
    rows = finished.patches_metadata.set_index("patch_id")
    batch = finished.repaired_seg_res_batch
    for number, masks in zip(batch.patch_ids, batch, strict=True):
        row = rows.loc[number]
        window = np.s_[row.outer_y0 : row.outer_y1, row.outer_x0 : row.outer_x1]
        put_together[window] |= masks["cell_matched_mask"]
    np.testing.assert_array_equal(put_together, whole)
    assert whole.max() > 10


def test_metadata_equal_the_csv_file(folder, flagged, finished):
    for patches in (flagged, finished):
        on_disk = pd.read_csv(patches.path / "patches_metadata.csv")
        pd.testing.assert_frame_equal(patches.patches_metadata, on_disk)
    assert set(flagged.patches_metadata["status"]) == {"waiting", "skipped"}
    assert set(finished.patches_metadata["status"]) == {"done", "skipped"}


def test_masks_before_their_stage_are_an_error(tmp_path, flagged):
    with pytest.raises(
        RunStateError, match=r"The stage segment of .* is missing.*--until segment"
    ):
        _ = flagged.seg_res_batch
    with pytest.raises(RunStateError, match=r"The stage segment .*Run until repair first"):
        _ = flagged.repaired_seg_res_batch
    with pytest.raises(RunStateError, match="Run until repair first"):
        flagged.save_seg_res()
    with pytest.raises(RunStateError, match=r"holds no run \(no manifest\.json\)"):
        CodexPatches(tmp_path)


def test_patches_of_stale_stage_are_an_error(folder, tmp_path):
    write_slide(tmp_path)
    config = write_config(tmp_path, patch_width=200)
    run = execute(config, tmp_path / "run", until="flag").path
    config.write_text(config.read_text().replace("200", "150"))
    execute(config, run, until="patch")
    with pytest.raises(RunStateError, match=r"flag .* is stale \(patch has changed\)"):
        _ = CodexPatches(run).valid_patches


# -- run_cell_segmentation ----------------------------------------------------------------


def test_stepwise_segmentation_writes_files_of_the_pipeline(folder, flagged):
    run_cell_segmentation(flagged)
    for name in (*PICKLES, "patches_metadata.csv"):
        expected = (folder / "finished" / name).read_bytes()
        assert (flagged.path / name).read_bytes() == expected, name


def test_only_valid_patches_are_segmented(flagged):
    run_cell_segmentation(flagged)
    metadata = flagged.patches_metadata
    assert ((metadata["status"] == "done") == metadata["is_informative"]).all()
    assert len(flagged.seg_res_batch) == metadata["is_informative"].sum()
    work = next((flagged.path / "work").glob("segment-*"))
    rows = sorted(int(path.stem) for path in work.glob("[0-9]*.json"))
    assert rows == list(flagged.valid_patches.patch_ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"segmentation": {"compartment": "nuclear"}},
        SegmentationConfig(backend="tests.helpers.tissue:Local", compartment="nuclear"),
        lambda config: config.model_copy(
            update={
                "data": Config().data,
                "segmentation": SegmentationConfig(
                    backend="tests.helpers.tissue:Local", compartment="nuclear"
                ),
            }
        ),
    ],
    ids=["mapping", "section", "whole"],
)
def test_changed_configuration_keeps_other_sections_and_stages(flagged, config):
    before = flagged.config
    flag = (flagged.path / "stages" / "flag.json").read_bytes()
    run_cell_segmentation(flagged, config(before) if callable(config) else config)
    assert flagged.config.segmentation.compartment == "nuclear"
    assert flagged.config.segmentation.backend == "tests.helpers.tissue:Local"
    assert (flagged.config.data, flagged.config.patching) == (before.data, before.patching)
    assert (flagged.path / "stages" / "flag.json").read_bytes() == flag
    for masks in flagged.seg_res_batch:
        np.testing.assert_array_equal(masks["cell"], masks["nucleus"])


def test_invalid_configuration_keeps_the_manifest(flagged):
    manifest = (flagged.path / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="compartment"):
        run_cell_segmentation(flagged, {"segmentation": {"compartment": "membrane"}})
    assert (flagged.path / "manifest.json").read_bytes() == manifest


@pytest.mark.slow
def test_failed_patch_is_reported_and_segmented_again(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write_slide(tmp_path, tissue((220, 380), 40))
    config = write_config(tmp_path, "Failing")
    patches = CodexPatches(execute(config, tmp_path / "run", until="flag").path)
    (tmp_path / "FAIL").touch()
    run_cell_segmentation(patches)
    failed = patches.patches_metadata.query("status == 'failed'")
    assert set(failed["note"]) == {"ValueError: the model is out of sorts"}
    for number in failed["patch_id"]:
        assert f"segment: patch {number} failed: ValueError" in caplog.text
    batch = patches.seg_res_batch
    holes = [n for n, m in zip(batch.patch_ids, batch, strict=True) if not m["cell"].any()]
    assert set(failed["patch_id"]) <= set(holes)
    assert len(holes) < len(batch)

    (tmp_path / "FAIL").unlink()
    caplog.clear()
    run_cell_segmentation(patches)
    assert not (patches.patches_metadata["status"] == "failed").any()
    assert "failed" not in caplog.text


def test_changed_slide_is_an_error(tmp_path):
    slide = write_slide(tmp_path, tissue((220, 380), 20))
    run = execute(write_config(tmp_path), tmp_path / "run", until="flag").path
    slide.unlink()
    write_slide(tmp_path, tissue((220, 380), 20, seed=1))
    patches = CodexPatches(run)
    with pytest.raises(RunStateError, match="has changed since the run"):
        _ = patches.valid_patches
    with pytest.raises(RunStateError, match="has changed since the run"):
        run_cell_segmentation(patches)
