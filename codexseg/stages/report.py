"""Report: one page for a person, with counts, pictures, times and what lies where.

This module gathers numbers; the words stand in templates/report.html.j2.
"""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codexseg.core.drawing.overlay import round_length
from codexseg.core.metrics.reference_free import FRACTIONS, OTHERS
from codexseg.errors import RunStateError
from codexseg.run.directory import Row
from codexseg.run.files import write_atomic
from codexseg.stages.base import Context, Job, Stage
from codexseg.stages.metadata import cells_of, counts_of
from codexseg.stages.pictures import COLOURS, overview, pictures
from codexseg.stages.pixels import grid_of, loaded
from codexseg.stages.profile import measured_channels
from codexseg.stages.quality import QUALITY, write_quality
from codexseg.stages.repair import REASONS
from codexseg.stages.segment import COMPARTMENTS
from codexseg.stages.surveys import SLIDE_PASS

REPORT = "report.html"

MOST_ROWS = 500
"""Patches that the table lists."""
MOST_NAMED = 50
"""Failed patches that are named one by one."""
LEAST_CELLS = 50
"""Of a patch, for its figures to say something of the range over patches."""
LEAST_PATCHES = 5
"""Of such patches, for a range to be given."""
BARS = 30
"""Bars of a histogram, about."""

ALWAYS = (
    "segmentation.ome.zarr",
    "quality.csv",
    "channel_stats.csv",
    "timings.csv",
    "config.yaml",
    "manifest.json",
    "run.log",
)
"""Files of other stages that a user may want."""


def report(context: Context) -> Row:
    """Write quality.csv and report.html: one file, without scripts, complete in itself."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    job = context.job
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["n"] = lambda value: f"{value:,}"
    *qualities, whole = write_quality(context)
    shown = list(pictures(job))
    page = environment.get_template("report.html.j2").render(
        **_facts(job),
        patches=_patches(job, qualities),
        quality=whole,
        ranges=_ranges(qualities),
        most_rows=MOST_ROWS,
        overview=overview(job),
        pictures=shown,
        sizes=_sizes(job),
        times=_times(job),
        files=_files(job),
        colours=COLOURS,
    )
    write_atomic(job.run.path / REPORT, page)
    return {"pictures": len(shown), "written": [REPORT, QUALITY]}


# -- facts ---------------------------------------------------------------------------------


def _facts(job: Job) -> Row:
    """Gather what the page says in words."""
    source, grid, manifest = job.source, grid_of(job), job.run.read_manifest()
    channels = loaded(job).channels
    segmented = job.rows("segment")
    failed = [p for p, row in segmented.items() if row["status"] == "failed"]
    cut = {
        p: row["n_not_proven"] for p, row in segmented.items() if row.get("n_not_proven")
    }
    return {
        "name": Path(source.path).name,
        "source": source,
        "config": job.config,
        "settings": _settings(job),
        "grid": grid,
        "nucleus_name": source.channel_names[channels.nucleus],
        "wholecell_names": [source.channel_names[c] for c in channels.wholecell],
        "backend": _marker(job, "segment")["depends_on"]["extra"]["backend"],
        "weights": manifest.get("backend", {}).get("weights"),
        "licence": manifest.get("backend", {}).get("licence"),
        "versions": manifest.get("versions", {}),
        "python": manifest.get("python", ""),
        "started": manifest.get("last_started", ""),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": _summary(job, "load"),
        "scale": _summary(job, "segment").get("scale"),
        "repair": _summary(job, "repair"),
        "unmatched": _unmatched(job),
        "n_cells": len(cells_of(job)["cell_id"]),
        "n_measured": len(measured_channels(job)),
        "informative": _summary(job, "flag")["informative"],
        "failed": failed,
        "named": [(p, grid[p].core, segmented[p]["note"]) for p in failed[:MOST_NAMED]],
        "cut": cut,
    }


def _marker(job: Job, stage: str) -> Row:
    """Return what an earlier stage recorded when it was complete."""
    marker = job.run.marker(stage)
    if marker is None:
        raise RunStateError(
            f"the marker of stage {stage!r} is missing, expected it to be done; "
            f"do it again: codexseg run --from {stage}."
        )
    return marker


def _summary(job: Job, stage: str) -> Row:
    summary: Row = _marker(job, stage)["summary"]
    return summary


def _settings(job: Job) -> str:
    """Return all settings of the run as YAML."""
    import yaml

    text: str = yaml.safe_dump(job.config.dump(), sort_keys=False, allow_unicode=True)
    return text


def _unmatched(job: Job) -> dict[str, dict[str, int]]:
    """Count the objects without a partner by compartment and reason."""
    cells = cells_of(job)
    found = {}
    for number, name in enumerate(COMPARTMENTS):
        reasons = cells["unmatched_reason"][cells["unmatched_compartment"] == number]
        counts = np.bincount(reasons, minlength=len(REASONS)).tolist()
        found[name] = dict(zip(REASONS[1:], counts[1:], strict=True))
    return found


def _patches(job: Job, qualities: list[Row]) -> list[Row]:
    """Return a row for each of the first patches."""
    grid, segmented = grid_of(job), job.rows("segment")
    rows = []
    for number in range(min(len(grid), MOST_ROWS)):
        pairs, cells, nuclei = counts_of(job, number)
        found, total = segmented.get(number, {}), cells + nuclei - pairs
        rows.append(
            {
                "number": number,
                "core": grid[number].core,
                "cells": cells,
                "nuclei": nuclei,
                "fraction": pairs / total if total else None,
                "status": found.get("status", "skipped"),
                "note": found.get("note", ""),
                "quality": qualities[number],
            }
        )
    return rows


def _ranges(qualities: list[Row]) -> dict[str, tuple[float, float]]:
    """Return what eight in ten patches lie between, of those with cells enough to judge."""
    held = [row for row in qualities if row["cells"] >= LEAST_CELLS]
    found = {}
    for name in (*FRACTIONS, *OTHERS):
        values = [row[name] for row in held if not np.isnan(row[name])]
        if len(values) >= LEAST_PATCHES:
            low, high = np.percentile(values, (10, 90)).tolist()
            found[name] = low, high
    return found


def _times(job: Job) -> list[tuple[str, float, float]]:
    """Return wall and CPU seconds of the stages before this one."""
    times = stage_times(job.run.timings_path)
    return [(name, *times[name]) for name in job.keys if name in times and name != "report"]


def stage_times(path: Path) -> dict[str, tuple[float, float]]:
    """Read wall and CPU seconds of the stages, as they were last done, from timings.csv.

    The driver's line ends a stage. Where it did the patches itself, its CPU time holds
    theirs; where workers did them, theirs comes on top.
    """
    times: dict[str, tuple[float, float]] = {}
    patches: dict[str, float] = {}
    for part, patch, wall, cpu in _time_lines(path):
        name = part.partition(".")[0]
        stage = "segment" if name == SLIDE_PASS else name
        if patch == "driver":
            others = patches.pop(stage, 0.0)
            times[stage] = wall, cpu if cpu >= others else cpu + others
        else:
            patches[stage] = patches.get(stage, 0.0) + cpu
    return times


def _time_lines(path: Path) -> Iterator[tuple[str, str, float, float]]:
    """Read timings.csv; a line that a killed run left unfinished is passed over."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.reader(file):
            try:
                stage, patch, wall, cpu = line
                yield stage, patch, float(wall), float(cpu)
            except ValueError:
                continue


def _sizes(job: Job) -> list[Row]:
    """Return histograms of the areas of cells and of their nuclei, um2."""
    objects = job.tables("repair", "objects")
    matched = objects["cell_reason"] == 0
    nucleus = matched & (objects["cell_nucleus"] >= 0)
    areas = {
        "cell": objects["cell_area"][matched],
        "nucleus": objects["cell_shared"][nucleus],
    }
    return [
        {"name": name, **_histogram(area * job.source.mpp**2)}
        for name, area in areas.items()
        if len(area)
    ]


def _histogram(values: NDArray[np.float64]) -> Row:
    """Count values in bars of a round width; the last bar holds all that is larger."""
    width = round_length(max(float(np.percentile(values, 99)), 1e-6) * 2 / BARS)
    n = int(np.percentile(values, 99) / width) + 2
    counts = np.bincount(np.minimum(values / width, n - 1).astype(np.int64), minlength=n)
    low, median, high = np.percentile(values, (5, 50, 95)).tolist()
    return {
        "counts": counts.tolist(),
        "width": width,
        "low": low,
        "median": median,
        "high": high,
    }


def _files(job: Job) -> list[tuple[str, int | None]]:
    """Return the files of the run that are there, with bytes (None: a folder)."""
    names = [*_summary(job, "export")["written"], *ALWAYS]
    paths = [(name, job.run.path / name) for name in names]
    return [
        (name, path.stat().st_size if path.is_file() else None)
        for name, path in paths
        if path.exists()
    ]


STAGE = Stage(
    "report",
    ("report",),
    ("load", "patch", "flag", "segment", "repair", "stitch", "profile", "export"),
    report,
)
