"""Export: write each configured output format with its exporter."""

from collections.abc import Sequence
from functools import partial

from codexseg.artifacts.patches import (
    PATCHES_METADATA,
    patch_rows,
    write_patches_metadata,
)
from codexseg.config.schema import Config
from codexseg.exports.registry import EXPORTERS
from codexseg.io.slides.record import SlideRecord
from codexseg.run.records import Record
from codexseg.workflow.stage import (
    BackendRecord,
    Finished,
    Stage,
    StageContext,
    StageInputs,
)
from codexseg.workflow.worker import worker_state


def export(context: StageContext) -> Record:
    """Write every output that the configuration asks for."""
    inputs = context.inputs
    state = worker_state(inputs)
    rows = patch_rows(
        state.grid, inputs.records("flag"), inputs.records("segment"), state.cells.counts
    )
    write_patches_metadata(inputs.run.path, rows)
    enabled = [n for n, e in enumerate(EXPORTERS) if e.is_enabled(inputs.config)]
    for number in enabled:
        exporter = EXPORTERS[number]
        if pieces := exporter.pieces(state):
            context.map_patches(
                partial(encode_pieces, number), pieces, unit="piece", part=exporter.part
            )
    context.map_patches(write_files, enabled, unit="file", part="files")
    inputs.run.forget(inputs.stage)  # the files contain the pieces
    for number, exporter in enumerate(EXPORTERS):
        if number not in enabled:
            (inputs.run.path / exporter.file).unlink(missing_ok=True)
    return {"written": [PATCHES_METADATA, *(EXPORTERS[n].file for n in enabled)]}


def encode_pieces(exporter: int, inputs: StageInputs, pieces: Sequence[int]) -> Finished:
    """Encode pieces of a file. Runs in a worker."""
    state = worker_state(inputs)
    for piece in pieces:
        files = EXPORTERS[exporter].encode(state, inputs.own, piece)
        yield piece, {"files": inputs.own.describe_files(*files)}


def write_files(inputs: StageInputs, numbers: Sequence[int]) -> Finished:
    """Write files. Runs in a worker."""
    state = worker_state(inputs)
    for number in numbers:
        exporter = EXPORTERS[number]
        path = inputs.run.path / exporter.file
        exporter.write(state, inputs.part(exporter.part).own, path)
        yield number, {"files": inputs.own.describe_files(path)}


def _sample(config: Config, slide: SlideRecord, backend: BackendRecord) -> Record:
    del slide, backend
    return {"sample": config.sample_name}


STAGE = Stage(
    "export",
    ("export",),
    ("load", "patch", "flag", "segment", "stitch", "repair", "profile"),
    export,
    version=2,
    changes={2: "the sample is named in the tables"},
    extra=_sample,
)
