"""Outputs of a run, read with independent libraries; a cell has the same id in all."""

import json
import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from skimage.measure import regionprops_table
from skimage.segmentation import find_boundaries

from tests.helpers.runs import LABELS, execute, labels
from tests.helpers.tissue import NAMES, tissue, write_config, write_slide

STATISTICS = ("mean", "std", "non_zero_perc")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    write_slide(folder)
    config = write_config(folder)
    config.write_text(
        config.read_text() + "profile: {statistics: [mean, median, max], solidity: true}\n"
    )
    execute(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def cells(run):
    return pd.read_csv(run / "cells.csv")


def test_csv_and_parquet_are_the_same_table(run, cells):
    parquet = pd.read_parquet(run / "cells.parquet")
    pd.testing.assert_frame_equal(cells, parquet, check_dtype=False, rtol=1e-6)
    assert cells["cell_id"].tolist() == list(range(1, len(cells) + 1))
    expected = {"y_px", "x_px", "y_um", "x_um", "cell_area_px", "nucleus_area_px"}
    expected |= {"cytoplasm_area_px", "eccentricity", "axis_major_um", "orientation_rad"}
    expected |= {"solidity", "bbox_y0_px", "patch_id", "touches_border", "cell_entropy"}
    expected |= {"nucleus_was_trimmed", "nucleus_retained_fraction", "cell_area_um2"}
    expected |= {f"{n}_{c}_mean" for n in NAMES for c in ("cell", "nucleus", "cytoplasm")}
    assert expected <= set(cells.columns)


def test_rows_equal_scikit_image_measurements(run, cells):
    image, cell, nucleus = tissue(), labels(run), labels(run, "nucleus")
    properties = (
        "label",
        "area",
        "centroid",
        "bbox",
        "eccentricity",
        "mean_intensity",
        "solidity",
    )
    table = pd.DataFrame(
        regionprops_table(cell, np.moveaxis(image, 0, -1), properties=properties)
    )
    assert table["label"].tolist() == cells["cell_id"].tolist()
    for theirs, ours in (
        ("area", "cell_area_px"),
        ("centroid-0", "y_px"),
        ("centroid-1", "x_px"),
        ("bbox-2", "bbox_y1_px"),
        ("eccentricity", "eccentricity"),
        ("solidity", "solidity"),
        ("mean_intensity-1", "CD45_cell_mean"),
    ):
        np.testing.assert_allclose(table[theirs], cells[ours], rtol=1e-5, atol=1e-6)
    inside = pd.DataFrame(
        regionprops_table(nucleus, image[0], properties=("label", "area", "mean_intensity"))
    )
    assert inside["area"].tolist() == cells["nucleus_area_px"].tolist()
    np.testing.assert_allclose(
        inside["mean_intensity"], cells["DAPI_nucleus_mean"], rtol=1e-5
    )
    np.testing.assert_allclose(cells["y_um"], cells["y_px"] * 0.5)


def test_cell_number_is_the_same_in_every_output(run, cells):
    cell, nucleus = labels(run), labels(run, "nucleus")
    assert np.array_equal(nucleus[nucleus > 0], cell[nucleus > 0])
    interior = ~find_boundaries(cell, mode="inner", connectivity=1)
    assert interior[nucleus > 0].all()
    for name in ("cell", "nucleus"):
        assert np.array_equal(
            tifffile.imread(run / f"exports/{name}.ome.tif"), labels(run, name)
        )
    original = labels(run, "cell_original")
    for row in cells.itertuples():
        assert np.unique(original[cell == row.cell_id]).tolist() == [row.cell_original_id]
    with (run / "matched_seg_res_batch.pickle").open("rb") as file:
        matched = pickle.load(file)
    metadata = pd.read_csv(run / "patches_metadata.csv")
    valid = metadata[metadata["is_informative"]]
    assert len(matched) == len(valid)
    seen = []
    for item, patch in zip(matched, valid.itertuples(), strict=True):
        window = np.s_[patch.outer_y0 : patch.outer_y1, patch.outer_x0 : patch.outer_x1]
        mask = item["cell_matched_mask"]
        assert mask.shape == (patch.height, patch.width)
        assert np.array_equal(mask[mask > 0], cell[window][mask > 0])
        ids = np.unique(mask[mask > 0])
        assert (cells.set_index("cell_id").loc[ids, "patch_id"] == patch.patch_id).all()
        outside = item["cell_outside_nucleus_mask"]
        assert np.array_equal(outside + item["nucleus_matched_mask"], mask)
        seen += ids.tolist()
    assert sorted(seen) == cells["cell_id"].tolist()


def test_original_pickle_contains_labels_of_the_backend(run, cells):
    with (run / "original_seg_res_batch.pickle").open("rb") as file:
        items = pickle.load(file)
    metadata = pd.read_csv(run / "patches_metadata.csv")
    numbers = metadata.loc[metadata["is_informative"], "patch_id"].tolist()
    assert set(items[0]) == {"cell", "nucleus", "cell_boundary", "nucleus_boundary"}
    for row in cells.itertuples():
        item = items[numbers.index(row.original_patch_id)]
        assert (item["cell"] == row.cell_original_label).sum() == row.cell_area_px
    boundary = find_boundaries(items[3]["cell"], mode="inner", connectivity=1)
    assert np.array_equal(
        items[3]["cell_boundary"], np.where(boundary, items[3]["cell"], 0)
    )


def test_patch_metadata_starts_with_specified_columns(run):
    columns = pd.read_csv(run / "patches_metadata.csv").columns.tolist()
    assert columns[:14] == [
        "patch_id",
        "height",
        "width",
        "nucleus_mean",
        "nucleus_std",
        "nucleus_non_zero_perc",
        "wholecell_mean",
        "wholecell_std",
        "wholecell_non_zero_perc",
        "is_empty",
        "is_noisy",
        "is_bad_patch",
        "is_informative",
        "matched_fraction",
    ]


def test_anndata_equals_cell_table(run, cells):
    table = anndata.read_h5ad(run / "cells.h5ad")
    assert table.shape == (len(cells), 3)
    assert table.var_names.tolist() == list(NAMES)
    assert table.obs_names.tolist() == cells["cell_id"].astype(str).tolist()
    np.testing.assert_allclose(table.X[:, 1], cells["CD45_cell_mean"], rtol=1e-6)
    np.testing.assert_allclose(
        table.layers["nucleus"][:, 0], cells["DAPI_nucleus_mean"], rtol=1e-6
    )
    np.testing.assert_allclose(table.obsm["spatial"], cells[["x_um", "y_um"]])


def test_ome_zarr_has_valid_labels_and_metadata(run):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    store = run / "segmentation.ome.zarr"
    nodes = list(Reader(parse_url(str(store)))())
    assert nodes[0].data[0].shape[0] == 2
    found = {node.zarr.basename() for node in nodes}
    assert set(LABELS) <= found | {"labels"} | set(
        zarr.open_group(store, mode="r")["labels"]
    )
    scale = nodes[0].metadata["coordinateTransformations"][0][0]["scale"]
    assert scale[1] == scale[2] == 2.0  # the overview is 4 times smaller than 0.5 um px


def test_ome_tiff_equals_labels(run):
    with tifffile.TiffFile(run / "exports" / "cell.ome.tif") as tiff:
        assert tiff.is_ome
        assert tiff.series[0].axes == "YX"
        assert 'PhysicalSizeX="0.5"' in tiff.ome_metadata
        assert tiff.pages[0].is_tiled


def test_matched_and_unmatched_objects_are_complete(run, cells):
    unmatched = pd.read_parquet(run / "unmatched.parquet")
    for name in ("cell", "nucleus"):
        alone = unmatched.loc[unmatched["compartment"] == name, "original_id"]
        both = sorted([*alone, *cells[f"{name}_original_id"]])
        assert both == list(range(1, int(labels(run, f"{name}_original").max()) + 1))


def test_manifest_and_statistics_describe_the_run(run, cells):
    manifest = json.loads((run / "manifest.json").read_text())["result"]
    assert manifest["cells"] == len(cells)
    assert manifest["slide"]["mpp"] == 0.5
    statistics = pd.read_csv(run / "channel_stats.csv").set_index("channel")
    image = tissue()
    assert statistics.index.tolist() == list(NAMES)
    assert statistics.loc["CD45", "max"] == image[1].max()
    assert statistics.loc["DAPI", "mean"] == pytest.approx(image[0].mean(), rel=1e-5)
    assert statistics.loc["DAPI", "std"] == pytest.approx(image[0].std(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "has_nuclei", "has_cytoplasm"),
    [
        ("compartment: nuclear", True, False),
        ("compartment: whole-cell", False, True),
        ("compartment: both", True, True),
    ],
)
@pytest.mark.parametrize("wholecell", ["[CD45]", "[]"])
def test_compartments_follow_configuration(
    tmp_path, keys, has_nuclei, has_cytoplasm, wholecell
):
    write_slide(tmp_path)
    config = tmp_path / "my.yaml"
    config.write_text(
        "data: {file_name: slide.ome.tif}\n"
        f"channels: {{nuclear_channel: DAPI, wholecell_channel: {wholecell}}}\n"
        "patching: {patch_height: 150, patch_width: 200}\n"
        f"segmentation: {{backend: watershed, {keys}}}\n"
    )
    result = execute(config, tmp_path / "run")
    cells = pd.read_csv(tmp_path / "run" / "cells.csv")
    assert result.cells == len(cells) > 20
    assert (cells["nucleus_area_px"] > 0).all() == has_nuclei
    assert (cells["cytoplasm_area_px"] > 0).any() == has_cytoplasm
    if wholecell == "[]" or "both" not in keys:
        assert len(pd.read_parquet(tmp_path / "run" / "unmatched.parquet")) == 0


def test_scaled_markers_and_channel_subset_are_exported(tmp_path):
    write_slide(tmp_path)
    config = write_config(tmp_path)
    config.write_text(
        config.read_text().replace("[CD45]", "[CD45, PANCK], wholecell_merge: scaled")
        + "profile: {channels: [PANCK, dapi]}\n"
    )
    execute(config, tmp_path / "run")
    cells = pd.read_csv(tmp_path / "run" / "cells.csv")
    assert "PANCK_cell_mean" in cells
    assert "DAPI_cell_mean" in cells
    assert "CD45_cell_mean" not in cells
    assert anndata.read_h5ad(tmp_path / "run" / "cells.h5ad").var_names.tolist() == [
        "PANCK",
        "DAPI",
    ]
    metadata = pd.read_csv(tmp_path / "run" / "patches_metadata.csv")
    assert metadata["wholecell_mean"].max() < 1


def test_sequential_matching_and_ngff_05_outputs(tmp_path):
    write_slide(tmp_path)
    config = write_config(tmp_path)
    config.write_text(
        config.read_text() + "repair: {matching: sequential}\n"
        "export: {ome_zarr_version: '0.5', csv: false, h5ad: false}\n"
    )
    result = execute(config, tmp_path / "run")
    assert result.cells == labels(tmp_path / "run").max()
    assert (tmp_path / "run" / "segmentation.ome.zarr" / "zarr.json").exists()
    assert not (tmp_path / "run" / "cells.csv").exists()
