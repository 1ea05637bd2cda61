"""Open every result with third-party readers: python read_results.py [RUN].

Without RUN, the script runs codexseg on a demo slide first. Reading needs no codexseg,
but anndata: pip install anndata.
"""

import pickle
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import tifffile
import zarr


def main(run: Path) -> None:
    """Read one cell from all files; it has the same id in each."""
    cells = pd.read_parquet(run / "cells.parquet").set_index("cell_id")
    cell_id = cells.index[len(cells) // 2]
    cell = cells.loc[cell_id]
    print(f"cell {cell_id}: {cell.cell_area_px} px, patch {cell.patch_id}")

    # Labels of the whole slide, (y, x) uint32; only the chunks under the slice are read.
    labels = zarr.open_group(run / "segmentation.ome.zarr", mode="r")["labels"]
    box = np.s_[cell.bbox_y0_px : cell.bbox_y1_px, cell.bbox_x0_px : cell.bbox_x1_px]
    in_cell, in_nucleus = (
        labels["cell/0"][box] == cell_id,
        labels["nucleus/0"][box] == cell_id,
    )
    print(f"OME-Zarr: {in_cell.sum()} px, {in_nucleus.sum()} of them nucleus")

    image = tifffile.imread(run / "exports" / "cell.ome.tif")  # equal labels, for QuPath
    print(f"OME-TIFF: {np.count_nonzero(image == cell_id)} px of {image.shape}")

    # X: means in whole cells; layers: nucleus, cytoplasm; obsm["spatial"]: (x, y), um.
    table = anndata.read_h5ad(run / "cells.h5ad")
    row = table[table.obs["cell_id"] == cell_id]
    print(f"AnnData: {table.shape}, at {row.obsm['spatial'][0].round(1)} um")

    # The pickles list the informative patches in the order of the metadata.
    patches = pd.read_csv(run / "patches_metadata.csv")
    valid = patches[patches["is_informative"]].reset_index(drop=True)
    with (run / "matched_seg_res_batch.pickle").open("rb") as file:
        matched = pickle.load(file)
    masks = matched[valid.index[valid["patch_id"] == cell.patch_id][0]]
    print(f"pickle: {np.count_nonzero(masks['cell_matched_mask'] == cell_id)} px")

    # Cells and nuclei without a partner are in a table of their own.
    unmatched = pd.read_parquet(run / "unmatched.parquet")
    print(f"{len(cells)} cells, {len(unmatched)} cells and nuclei without a partner")


def make_run(folder: Path) -> Path:
    """Run codexseg on synthetic tissue."""
    from codexseg import Pipeline
    from codexseg.samples.write import write_synthetic

    sample = write_synthetic(folder, size=512)
    return Pipeline.from_yaml(sample.config).execute().path


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else make_run(Path(tempfile.mkdtemp())))
