"""A tiled run has the result of the untiled run."""

import numpy as np
import pandas as pd
import pytest

from tests.helpers.runs import LABELS, execute, labels
from tests.helpers.tissue import segment_locally, tissue, write_config, write_slide

GRIDS = [
    {"patch_height": 64, "patch_width": 64},
    {"patch_height": 100, "patch_width": 120, "overlap": 0.3},
    {"patch_height": 333, "patch_width": -1},
    {"split_mode": "quarters"},
    {"split_mode": "halves", "split_direction": "horizontal"},
]
PLACE = ["patch_id", "original_patch_id", "cell_original_label"]


def assert_same_slide(one, other):
    for name in LABELS:
        np.testing.assert_array_equal(labels(one, name), labels(other, name), err_msg=name)
    tables = [
        pd.read_parquet(run / "cells.parquet").drop(columns=PLACE) for run in (one, other)
    ]
    pd.testing.assert_frame_equal(*tables)


@pytest.fixture(scope="module", params=["Local", "Shuffled", "Narrow", "Bare", "watershed"])
def untiled(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_slide(folder)
    config = write_config(folder, request.param, split_mode="full_image")
    if request.param == "watershed":
        config.write_text(config.read_text().replace("tests.helpers.tissue:", ""))
    result = execute(config, folder / "untiled")
    assert result.cells > 30
    return folder, request.param


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_patch_grid_does_not_change_the_result(untiled, grid, tmp_path):
    folder, backend = untiled
    config = write_config(folder, backend, name="tiled", **grid)
    text = config.read_text().replace("tests.helpers.tissue:watershed", "watershed")
    config.write_text(text)
    execute(config, tmp_path / "tiled")
    assert_same_slide(folder / "untiled", tmp_path / "tiled")


def test_untiled_original_labels_equal_backend_output(tmp_path):
    image = tissue()
    config = write_config(tmp_path, split_mode="full_image")
    write_slide(tmp_path, image)
    execute(config, tmp_path / "run", until="repair")
    for found, name in zip(segment_locally(image), LABELS[2:], strict=True):
        ours = labels(tmp_path / "run", name)
        pairs = np.unique(np.stack([found.ravel(), ours.ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(tmp_path):
    from tests.helpers.runs import outputs

    write_slide(tmp_path)
    config = write_config(tmp_path)
    execute(config, tmp_path / "one")
    execute(config, tmp_path / "two", workers=2)
    one, two = outputs(tmp_path / "one"), outputs(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


@pytest.mark.slow
def test_cells_are_numbered_in_reading_order(tmp_path):
    write_slide(tmp_path)
    execute(write_config(tmp_path), tmp_path / "run")
    for name in LABELS[:1] + LABELS[2:]:
        ids, first = np.unique(labels(tmp_path / "run", name), return_index=True)
        ids, first = ids[ids > 0], first[ids > 0]
        assert ids.tolist() == list(range(1, len(ids) + 1))
        assert np.all(np.diff(first) > 0)


def test_object_larger_than_any_halo_is_not_cut(tmp_path):
    """The halo grows until it contains the whole object."""
    image = np.full((2, 300, 400), 100, np.uint16)
    image[0, 140:150, 20:380] = 5000  # across four patches of 100 px with a halo of 4 px
    write_slide(tmp_path, image)
    config = write_config(tmp_path, "Narrow", patch_width=100)
    result = execute(config, tmp_path / "run")
    assert result.cells == 1
    assert (labels(tmp_path / "run", "nucleus_original") > 0).sum() == 3600


@pytest.mark.slow
def test_inconsistent_backend_assigns_each_pixel_once(tmp_path):
    write_slide(tmp_path)
    run = tmp_path / "run"
    result = execute(write_config(tmp_path, "Moody", patch_height=64, patch_width=64), run)
    disputed = result.stages[4].summary["disputed"]
    assert disputed["cell"] > 0
    cells = pd.read_parquet(run / "cells.parquet")
    image = labels(run)
    area = np.bincount(image.ravel(), minlength=len(cells) + 1)[1:]
    assert area.tolist() == cells["cell_area_px"].tolist()
    assert area.min() > 5
    whole = execute(write_config(tmp_path, split_mode="full_image"), tmp_path / "whole")
    assert abs(result.cells - whole.cells) <= 0.1 * whole.cells


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 100])
def test_object_extending_beyond_informative_patches_is_not_cut(tmp_path, side):
    """Objects may be dimmer than the signal that makes a patch informative."""
    image = (
        np.random.default_rng(0)
        .normal(1100, 200, (2, 400, 600))
        .clip(1001)
        .astype(np.uint16)
    )
    image[:, 150:, :] = image[:, :120, :] = 900
    image[0, 130:140, 20:580] = 1010  # above the threshold of the backend, dim
    image[0, 130:140, 20:40] = 9000
    image[0, 120:130], image[0, 140:150] = 900, 900
    write_slide(tmp_path, image)
    whole = write_config(tmp_path, split_mode="full_image")
    execute(whole, tmp_path / "whole", until="repair")
    tiled = write_config(tmp_path, name="tiled", patch_height=side, patch_width=side)
    execute(tiled, tmp_path / "tiled", until="repair")
    for name in LABELS:
        one, other = labels(tmp_path / "whole", name), labels(tmp_path / "tiled", name)
        np.testing.assert_array_equal(one, other, err_msg=name)
    assert labels(tmp_path / "whole").max() >= 1


@pytest.mark.slow
def test_conflicting_object_larger_than_halo_is_taken_from_one_patch(tmp_path):
    image = np.full((2, 300, 900), 100, np.uint16)
    image[0, 140:150, 300:660] = 5000
    write_slide(tmp_path, image)
    config = write_config(tmp_path, "Moody", patch_width=100)
    config.write_text(config.read_text() + "stitch: {min_remaining: 0.9}\n")
    result = execute(config, tmp_path / "run")
    assert result.cells == 1
    found = labels(tmp_path / "run", "nucleus_original")
    assert (found > 0).sum() == 3600
    assert found.max() == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_conflicting_objects_are_numbered_in_reading_order(tmp_path, seed):
    write_slide(tmp_path, tissue(seed=seed))
    run = tmp_path / "run"
    execute(
        write_config(tmp_path, "Moody", patch_height=64, patch_width=90),
        run,
        until="repair",
    )
    for name in LABELS[:1] + LABELS[2:]:
        ids, first = np.unique(labels(run, name), return_index=True)
        ids, first = ids[ids > 0], first[ids > 0]
        assert ids.tolist() == list(range(1, len(ids) + 1))
        assert np.all(np.diff(first) > 0)
