"""The report page: ``report.html``, one file without scripts.

This module collects the values; the text is in templates/report.html.j2.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from codexseg.arrays import Float64
from codexseg.artifacts.columns import COMPARTMENTS
from codexseg.artifacts.manifest import read_manifest
from codexseg.artifacts.warnings import read_warnings
from codexseg.config.fields import image_stem
from codexseg.core.drawing.overlay import round_length
from codexseg.errors import RunStateError
from codexseg.report.figures import COLOURS, draw_cells, draw_overview
from codexseg.report.quality import METRICS
from codexseg.run.files import write_atomic
from codexseg.run.records import Record
from codexseg.workflow.measurements import measured_channels
from codexseg.workflow.timings import stage_times
from codexseg.workflow.worker import WorkerState

REPORT = "report.html"

MAX_ROWS = 500
"""Number of patches in the table."""
MAX_NAMED = 50
"""Number of failed patches that are listed."""
MIN_CELLS = 50
"""Minimum number of cells of a patch that counts for the range over patches."""
MIN_PATCHES = 5
"""Minimum number of such patches for a range."""
BARS = 30
"""Bars of a histogram, about."""

OTHER_FILES = (
    "segmentation.ome.zarr",
    "quality.csv",
    "channel_stats.csv",
    "timings.csv",
    "config.yaml",
    "manifest.json",
    "run.log",
)
"""Files of other stages that are listed."""


def write_page(state: WorkerState, qualities: Sequence[Record]) -> int:
    """Write report.html; return the number of pictures.

    Parameters
    ----------
    state : WorkerState
        The run.
    qualities : sequence of dict
        Rows of quality.csv, the slide's last.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["n"] = lambda value: f"{value:,}"
    *patches, whole = qualities
    pictures = list(draw_cells(state))
    page = environment.get_template("report.html.j2").render(
        **_facts(state),
        patches=_patch_rows(state, patches),
        quality=whole,
        ranges=_ranges(patches),
        most_rows=MAX_ROWS,
        overview=draw_overview(state),
        pictures=pictures,
        sizes=_size_histograms(state),
        times=_times(state),
        files=_files(state),
        colours=COLOURS,
    )
    write_atomic(state.inputs.run.path / REPORT, page)
    return len(pictures)


def _facts(state: WorkerState) -> Record:
    """Return the values of the page's text."""
    import yaml

    inputs, grid, slide = state.inputs, state.grid, state.inputs.slide
    manifest = read_manifest(inputs.run)
    channels, backend = state.statistics.channels, manifest.result.get("backend", {})
    execution = manifest.execution
    segmented = inputs.records("segment").read_all()
    failed = [p for p, record in segmented.items() if record["status"] == "failed"]
    named = [(p, grid[p].core, segmented[p]["note"]) for p in failed[:MAX_NAMED]]
    segment = _summary(state, "segment")
    sample, file_name = inputs.config.sample_name, Path(slide.path).name
    return {
        "name": file_name if sample == image_stem(Path(file_name)) else sample,
        "source": slide,
        "paired": inputs.backend.paired,
        "config": inputs.config,
        "settings": yaml.safe_dump(
            inputs.config.dump(), sort_keys=False, allow_unicode=True
        ),
        "grid": grid,
        "nucleus_name": slide.channel_names[channels.nucleus],
        "wholecell_names": [slide.channel_names[c] for c in channels.wholecell],
        "backend": inputs.backend.fingerprint,
        "weights": backend.get("weights"),
        "licence": backend.get("licence"),
        "versions": execution.get("versions", {}),
        "python": execution.get("python", ""),
        "started": execution.get("last_started", ""),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": _summary(state, "load"),
        "scale": segment.get("scale"),
        "stitch": _summary(state, "stitch"),
        "repair": _summary(state, "repair"),
        "warnings": read_warnings(inputs.run.path),
        "unmatched": {name: state.cells.unmatched.count(name) for name in COMPARTMENTS},
        "n_cells": len(state.cells),
        "n_measured": len(measured_channels(inputs.config.profile, slide.channel_names)),
        "informative": _summary(state, "flag")["informative"],
        "failed": failed,
        "named": named,
        "cut": {
            patch: record["n_not_proven"]
            for patch, record in segmented.items()
            if record.get("n_not_proven")
        },
    }


def _summary(state: WorkerState, stage: str) -> Record:
    """Return the summary of an earlier stage."""
    marker = state.inputs.run.marker(stage)
    if marker is None:
        raise RunStateError(
            f"The marker of stage {stage!r} is missing. Recompute the stage with "
            f"codexseg run CONFIG --from {stage}."
        )
    summary: Record = marker["summary"]
    return summary


def _patch_rows(state: WorkerState, qualities: Sequence[Record]) -> list[Record]:
    """Return the rows of the table of patches."""
    segmented = state.inputs.records("segment").read_all()
    rows = []
    for number in range(min(len(state.grid), MAX_ROWS)):
        pairs, cells, nuclei = state.cells.counts(number)
        record, total = segmented.get(number, {}), cells + nuclei - pairs
        rows.append(
            {
                "number": number,
                "core": state.grid[number].core,
                "cells": cells,
                "nuclei": nuclei,
                "fraction": pairs / total if total else None,
                "status": record.get("status", "skipped"),
                "note": record.get("note", ""),
                "quality": qualities[number],
            }
        )
    return rows


def _ranges(qualities: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """Return the range of eight in ten patches, of those with enough cells."""
    counted = [row for row in qualities if row["cells"] >= MIN_CELLS]
    ranges = {}
    for name in METRICS:
        values = [row[name] for row in counted if not np.isnan(row[name])]
        if len(values) >= MIN_PATCHES:
            low, high = np.percentile(values, (10, 90)).tolist()
            ranges[name] = low, high
    return ranges


def _times(state: WorkerState) -> list[tuple[str, float, float]]:
    """Return wall and CPU seconds of the stages before the report."""
    times = stage_times(state.inputs.run.timings_path)
    stages = (name for name in state.inputs.keys if name in times and name != "report")
    return [(name, *times[name]) for name in stages]


def _size_histograms(state: WorkerState) -> list[Record]:
    """Return histograms of the areas of cells and of their nuclei, um2."""
    cells = state.cells
    has_nucleus = np.asarray(cells.nucleus_original_id) > 0
    areas = {"cell": cells.cell_area, "nucleus": cells.nucleus_area[has_nucleus]}
    px_um2 = state.inputs.slide.mpp**2
    return [
        {"name": name, **_histogram(np.asarray(area * px_um2, np.float64))}
        for name, area in areas.items()
        if len(area)
    ]


def _histogram(values: Float64) -> Record:
    """Count values in bars of a round width; the last bar contains all larger ones."""
    low, median, high, top = np.percentile(values, (5, 50, 95, 99)).tolist()
    width = round_length(max(top, 1e-6) * 2 / BARS)
    n = int(top / width) + 2
    bars = np.minimum(values / width, n - 1).astype(np.int64)
    counts = np.bincount(bars, minlength=n).tolist()
    return {"counts": counts, "width": width, "low": low, "median": median, "high": high}


def _files(state: WorkerState) -> list[tuple[str, int | None]]:
    """Return the existing files of the run with their sizes (None: a folder)."""
    run = state.inputs.run.path
    names = (*_summary(state, "export")["written"], *OTHER_FILES)
    paths = {name: run / name for name in names}
    return [
        (name, path.stat().st_size if path.is_file() else None)
        for name, path in paths.items()
        if path.exists()
    ]
