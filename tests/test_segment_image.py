"""Segmentation of one image in memory equals a run of it."""

import numpy as np
import pandas as pd
import pytest

from codexseg import segment_image
from codexseg.backends.base import BackendResult
from codexseg.errors import InputError
from tests.helpers.runs import execute, labels
from tests.helpers.tissue import LOCAL, NAMES, Local, tissue, write_config, write_slide

GRID = {"patch_id", "original_patch_id", "cell_original_label", "original_label"}
"""Columns that name patches."""
IMAGES = ("cell", "nucleus", "cell_original", "nucleus_original")


class Scored(Local):
    """Returns columns for all cells, and for nuclei with an even area."""

    name = "scored"
    object_columns = {"confidence": "float32", "kind": "int16"}  # noqa: RUF012

    def predict(self, patches, windows):
        labels = super().predict(patches, windows)
        return BackendResult(labels, [self.columns(patch) for patch in labels])

    def columns(self, patch):
        tables = {}
        for name, image in zip(("cell", "nucleus"), patch, strict=True):
            label, area = (part[1:] for part in np.unique(image, return_counts=True))
            if name == "nucleus":
                label, area = label[area % 2 == 0], area[area % 2 == 0]
            tables[name] = {
                "label": label,
                "confidence": (area / 100).astype(np.float32),
                "kind": (area % 7).astype(np.int16),
            }
        return tables


def run_config(folder, backend, extra="", **patching):
    config = write_config(folder, **patching)
    text = config.read_text().replace(LOCAL, backend)
    config.write_text(text + extra)
    return config


def same_tables(found, expected, ignore=frozenset()):
    assert list(found) == list(expected.columns)
    for name in found.keys() - ignore:
        values = found[name]
        np.testing.assert_array_equal(np.asarray(values), expected[name].to_numpy(), name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patching", "ignore"), [({}, GRID), ({"split_mode": "full_image"}, frozenset())]
)
@pytest.mark.parametrize(
    ("backend", "extra"),
    [
        (LOCAL, ""),
        ("watershed", "profile: {statistics: [mean, median], solidity: true}\n"),
        ("embedded", ""),
        (LOCAL, "repair: {min_overlap: 0.6, matching: sequential}\n"),
        ("tests.test_segment_image:Scored", ""),
    ],
)
def test_segment_image_equals_a_run(tmp_path, backend, extra, patching, ignore):
    image = tissue()
    write_slide(tmp_path, image)
    config = run_config(tmp_path, backend, extra, **patching)
    execute(config, tmp_path / "run", until="export")
    found = segment_image(image, 0.5, channel_names=NAMES, config=config)
    for name in IMAGES:
        np.testing.assert_array_equal(getattr(found, name), labels(tmp_path / "run", name))
    assert found.cell.max() > 20
    for name in ("cells", "unmatched"):
        expected = pd.read_parquet(tmp_path / "run" / f"{name}.parquet")
        same_tables(getattr(found, name), expected, ignore)


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys", ["diameter: auto", "percentiles: [1, 99]", "compartment: nuclear"]
)
def test_segment_image_equals_a_run_with_scaling(tmp_path, keys):
    image = tissue()
    write_slide(tmp_path, image)
    config = run_config(tmp_path, "watershed")
    config.write_text(config.read_text().replace('watershed"', f'watershed", {keys}'))
    execute(config, tmp_path / "run", until="repair")
    found = segment_image(image, 0.5, channel_names=NAMES, config=config)
    for name in IMAGES:
        np.testing.assert_array_equal(getattr(found, name), labels(tmp_path / "run", name))


def test_image_without_signal_has_no_cells():
    found = segment_image(np.full((1, 90, 100), 200, np.uint16), 0.5, "watershed")
    assert not found.cell_original.any()
    assert len(found.cells["cell_id"]) == 0
    assert "nucleus_cell_mean" in found.cells


def test_two_channels_are_nucleus_and_whole_cell_by_default():
    found = segment_image(tissue()[:2], 0.5, LOCAL)
    assert {"nucleus_cell_mean", "wholecell_cell_mean"} <= set(found.cells)


def test_wrong_images_are_errors():
    with pytest.raises(InputError, match=r"Expected \(c, y, x\)"):
        segment_image(np.zeros((9, 9), np.uint16), 0.5)
    with pytest.raises(InputError, match="3 channels, but 2 names"):
        segment_image(np.zeros((3, 9, 9), np.uint16), 0.5)


def test_object_columns_reach_the_table_of_cells(tmp_path):
    image = tissue()
    write_slide(tmp_path, image)
    config = run_config(tmp_path, "tests.test_segment_image:Scored")
    execute(config, tmp_path / "run", until="export")
    cells = pd.read_parquet(tmp_path / "run" / "cells.parquet")
    area = np.bincount(labels(tmp_path / "run", "cell_original").ravel())
    expected = (area[cells["cell_original_id"]] / 100).astype(np.float32)
    np.testing.assert_array_equal(cells["cell_confidence"], expected)
    np.testing.assert_array_equal(cells["cell_kind"], area[cells["cell_original_id"]] % 7)
    assert cells["nucleus_confidence"].isna().any()
    assert cells["nucleus_confidence"].notna().any()
    assert cells["cell_kind"].dtype == np.int16
