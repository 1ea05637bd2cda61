"""Export: the files that people and other programs read.

Workers pickle the patches and encode the tiles of the label images, each a piece of work;
then each file is put together of what belongs to it, by one worker, piece by piece.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from codexseg.config.schema import Config
from codexseg.exports.anndata import write_h5ad
from codexseg.exports.ome_tiff import encode_band, n_bands, write_label_ome_tiff
from codexseg.exports.pickles import join_pickle, write_pickle, write_pickle_item
from codexseg.exports.tables import write_csv, write_parquet
from codexseg.run.directory import Row, Tables
from codexseg.stages.base import Context, Job, Source, Stage
from codexseg.stages.metadata import METADATA, cells_of, counts_of, write_metadata
from codexseg.stages.pixels import valid_patches
from codexseg.stages.profile import measured_cells, measured_channels
from codexseg.stages.repair import REASONS
from codexseg.stages.results import matched_masks, original_masks
from codexseg.stages.segment import COMPARTMENTS
from codexseg.stages.stitch import store_of

CSV, H5AD = "cells.csv", "cells.h5ad"
PARQUET, UNMATCHED = "cells.parquet", "unmatched.parquet"
ORIGINAL_PICKLE = "original_seg_res_batch.pickle"
MATCHED_PICKLE = "matched_seg_res_batch.pickle"
PICKLES = {ORIGINAL_PICKLE: original_masks, MATCHED_PICKLE: matched_masks}
IMAGES = {f"exports/{name}.ome.tif": name for name in COMPARTMENTS}
OPTIONAL = (CSV, H5AD, *PICKLES, *IMAGES)
"""What the config may ask for; what it asks for no longer is removed."""


def export(context: Context) -> Row:
    """Write every output that the config asks for."""
    job = context.job
    files = wanted(job.config)
    write_metadata(job, lambda patch: counts_of(job, patch))
    if ORIGINAL_PICKLE in files:
        context.map_patches(pickle_patches, valid_patches(job), part="pickles")
    if set(IMAGES) & set(files):
        bands = range(len(_bands(job)))
        context.map_patches(encode_bands, bands, unit="band", part="tiles")
    context.map_patches(write_files, range(len(files)), unit="file", part="files")
    job.run.forget(job.stage)  # the pieces; the files hold what they held
    for name in set(OPTIONAL) - set(files):
        (job.run.path / name).unlink(missing_ok=True)
    return {"written": [METADATA, *files]}


def wanted(config: Config) -> list[str]:
    """Name the files that the config asks for, those first that take longest."""
    chosen = config.export
    return [
        *(IMAGES if chosen.ome_tiff else ()),
        *(PICKLES if chosen.pickle else ()),
        *([CSV] if chosen.csv else ()),
        *([H5AD] if chosen.h5ad else ()),
        PARQUET,
        UNMATCHED,
    ]


# -- pieces --------------------------------------------------------------------------------


def pickle_patches(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Pickle what was found in patches. Runs in a worker."""
    for number in patches:
        for name, masks in PICKLES.items():
            write_pickle_item(_item(job, name, number), masks(job, number))
        items = (_item(job, name, number) for name in PICKLES)
        yield number, {"files": job.run.sizes(*items)}


def _item(job: Job, name: str, number: int) -> Path:
    work = job.run.work_path(job.at("pickles").stage, job.key)
    return work / f"{number:06d}.{name}"


def _bands(job: Job) -> list[tuple[str, int, int]]:
    """List the bands of all images: name, level, band."""
    levels = store_of(job).levels(COMPARTMENTS[0])
    return [
        (name, k, band)
        for name in COMPARTMENTS
        for k, level in enumerate(levels)
        for band in range(n_bands(level.shape))
    ]


def encode_bands(job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Encode the tiles of bands of the label images. Runs in a worker."""
    bands, store = _bands(job), store_of(job)
    for number in numbers:
        name, level, band = bands[number]
        tiles = encode_band(store.levels(name)[level], band)
        sizes = np.array([len(tile) for tile in tiles], np.int64)
        data = np.frombuffer(b"".join(tiles), np.uint8)
        job.write_tables(number, {"sizes": sizes, "tiles": data})
        yield number, {}


def _tiles(job: Job, name: str) -> Iterator[bytes]:
    for number, (image, _, _) in enumerate(_bands(job)):
        if image == name:
            band = job.tables("export.tiles", number)
            yield from (
                part.tobytes()
                for part in np.split(band["tiles"], np.cumsum(band["sizes"])[:-1])
            )


# -- files ---------------------------------------------------------------------------------


def write_files(job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Put files together of their pieces. Runs in a worker."""
    files = wanted(job.config)
    for number in numbers:
        name = files[number]
        if name in PICKLES:
            items = (_item(job, name, patch) for patch in valid_patches(job))
            join_pickle(job.run.path / name, items)
        elif name in IMAGES:
            _write_image(job, name)
        else:
            _write_table(job, name)
        yield number, {"files": job.run.sizes(job.run.path / name)}


def write_pickles(job: Job) -> list[str]:
    """Write both pickles here and now, one patch at a time."""
    patches = valid_patches(job)
    for name, masks in PICKLES.items():
        bar = tqdm(patches, desc="export  ", unit="patch", postfix=name, disable=None)
        write_pickle(job.run.path / name, (masks(job, patch) for patch in bar))
    return list(PICKLES)


def _write_image(job: Job, file: str) -> None:
    name = IMAGES[file]
    write_label_ome_tiff(
        job.run.path / file,
        [level.shape for level in store_of(job).levels(name)],
        _tiles(job, name),
        name=name,
        mpp=job.source.mpp,
        uuid_seed=job.keys["stitch"],
    )


def _write_table(job: Job, name: str) -> None:
    path, source = job.run.path / name, job.source
    words = {"codexseg": "cells", "mpp": repr(source.mpp), "slide": source.fingerprint}
    if name == UNMATCHED:
        write_parquet(path, [_unmatched(job)], words)
    elif name == PARQUET:
        write_parquet(path, measured_cells(job), words)
    elif name == CSV:
        write_csv(path, measured_cells(job))
    else:
        write_h5ad(
            path,
            measured_cells(job),
            len(cells_of(job)["cell_id"]),
            list(measured_channels(job)),
            source.mpp,
            {"codexseg": words},
            position=("y_px", "x_px"),
        )


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
    return {"save_segmentation_pickle": config.export.pickle}


STAGE = Stage(
    "export",
    ("export",),
    ("load", "patch", "flag", "segment", "repair", "stitch", "profile"),
    export,
    extra=_pickles,
)
