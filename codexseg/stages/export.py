"""Export: the files that people and other programs read."""

import numpy as np
from tqdm import tqdm

from codexseg.config import Config
from codexseg.io.ome_tiff import write_label_ome_tiff
from codexseg.io.pickles import write_pickle
from codexseg.io.tables import write_csv, write_h5ad, write_parquet
from codexseg.run import Row, Tables
from codexseg.stages.base import Context, Job, Source, Stage
from codexseg.stages.metadata import METADATA, counts_of, write_metadata
from codexseg.stages.pixels import valid_patches
from codexseg.stages.profile import measured_channels
from codexseg.stages.repair import REASONS
from codexseg.stages.results import matched_masks, original_masks
from codexseg.stages.segment import COMPARTMENTS
from codexseg.stages.stitch import store_of

ORIGINAL_PICKLE = "original_seg_res_batch.pickle"
MATCHED_PICKLE = "matched_seg_res_batch.pickle"
IMAGES = {name: f"exports/{name}.ome.tif" for name in COMPARTMENTS}
OPTIONAL = ("cells.csv", "cells.h5ad", ORIGINAL_PICKLE, MATCHED_PICKLE, *IMAGES.values())
"""What the config may ask for; what it asks for no longer is removed."""


def export(context: Context) -> Row:
    """Write every output that the config asks for."""
    job, config = context.job, context.job.config
    write_metadata(job, lambda patch: counts_of(job, patch))
    written = [METADATA, *_write_tables(job)]
    if config.segmentation.save_segmentation_pickle:
        written += write_pickles(job)
    if config.export.ome_tiff:
        for name, file in IMAGES.items():
            write_label_ome_tiff(
                job.run.path / file,
                store_of(job).levels(name),
                name=name,
                mpp=job.source.mpp,
                uuid_seed=job.keys["stitch"],
            )
            written.append(file)
    for name in set(OPTIONAL) - set(written):
        (job.run.path / name).unlink(missing_ok=True)
    return {"written": written}


def write_pickles(job: Job) -> list[str]:
    """Write both pickles, one patch at a time, in the order of the valid patches."""
    patches = valid_patches(job)
    for name, masks in ((ORIGINAL_PICKLE, original_masks), (MATCHED_PICKLE, matched_masks)):
        bar = tqdm(patches, desc="export  ", unit="patch", postfix=name, disable=None)
        write_pickle(job.run.path / name, (masks(job, patch) for patch in bar))
    return [ORIGINAL_PICKLE, MATCHED_PICKLE]


def _write_tables(job: Job) -> list[str]:
    cells, run, source = job.tables("profile", "cells"), job.run.path, job.source
    words = {"codexseg": "cells", "mpp": repr(source.mpp), "slide": source.fingerprint}
    write_parquet(run / "cells.parquet", cells, words)
    write_parquet(run / "unmatched.parquet", _unmatched(job), words)
    written = ["cells.parquet", "unmatched.parquet"]
    if job.config.export.csv:
        write_csv(run / "cells.csv", cells)
        written.append("cells.csv")
    if job.config.export.h5ad:
        write_h5ad(
            run / "cells.h5ad",
            cells,
            list(measured_channels(job)),
            source.mpp,
            {"codexseg": words},
            position=("y_px", "x_px"),
        )
        written.append("cells.h5ad")
    return written


def _unmatched(job: Job) -> Tables:
    table = job.tables("stitch", "cells")
    box = table["unmatched_box"]
    return {
        "compartment": np.array(COMPARTMENTS, object)[table["unmatched_compartment"]],
        "original_id": table["unmatched_original_id"],
        "reason": np.array(REASONS, object)[table["unmatched_reason"]],
        "area_px": table["unmatched_area"],
        **{f"bbox_{edge}_px": box[:, i] for i, edge in enumerate(("y0", "x0", "y1", "x1"))},
        "patch_id": table["unmatched_patch_id"].astype(np.int32),
        "original_patch_id": table["unmatched_original_patch_id"].astype(np.int32),
        "original_label": table["unmatched_original_label"],
    }


def _pickles(config: Config, source: Source) -> Row:
    del source
    return {"save_segmentation_pickle": config.segmentation.save_segmentation_pickle}


STAGE = Stage(
    "export",
    ("export",),
    ("load", "patch", "flag", "segment", "repair", "stitch", "profile"),
    export,
    extra=_pickles,
)
