"""Load: read the slide once, strip by strip, and keep what later stages need to know.

Histograms and block levels of the channels, so that a normalisation can be the slide's
and a block can be told from background; a coarse overview; channel_stats.csv.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.config.schema import Config
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.background import (
    BLOCK_PX,
    Blocks,
    estimate_background,
    measure_blocks,
)
from codexseg.core.intensity.histogram import (
    N_BINS,
    are_grey_levels,
    block_mean,
    histogram,
    merge_channels,
    percentile,
    sum_levels,
)
from codexseg.errors import InputError
from codexseg.run.directory import Row, Tables
from codexseg.run.files import replacing
from codexseg.stages.base import Context, Job, Source, Stage
from codexseg.stages.pixels import MERGED, SegmentationChannels, slide_of

STRIP_PX = 2048
"""Side of the squares in which the slide is read; a multiple of the blocks' side."""
OVERVIEW_PX = 2048
"""Longest side that the overview may have."""

_MAPS = ("level", "noise", "peak", "overview")
_COLUMNS = ("min", "median", "p95", "p999", "max", "mean", "std")


def load(context: Context) -> Row:
    """Stream the slide; write channel_stats.csv and what is known of the slide."""
    job = context.job
    strips = range(ceil(job.source.shape[1] / STRIP_PX))
    context.map_patches(read_strip, strips, unit="strip")

    channels = SegmentationChannels.resolve(job.config, job.source.channel_names)
    found = _add_up(job, strips, _channels_read(job, channels))
    statistics = {number: channel.statistics() for number, channel in found.items()}
    _write_statistics(job, statistics)
    tables = _slide_tables(job, channels, found, statistics)
    job.write_tables("slide", tables)
    return {
        "channels": job.source.shape[0],
        "height": job.source.shape[1],
        "width": job.source.shape[2],
        "blocks": int(tables["signal"].size),
        "blocks_with_signal": int(tables["signal"].sum()),
        "written": ["channel_stats.csv"],
        "constant_channels": [
            job.source.channel_names[c]
            for c in channels.all
            if statistics[c]["min"] == statistics[c]["max"]
        ],
    }


def overview_factor(shape: tuple[int, int]) -> int:
    """Return by how much the overview is smaller than the slide: a power of 2, from 4."""
    factor = 4
    while max(shape) > factor * OVERVIEW_PX and factor < BLOCK_PX:
        factor *= 2
    return factor


def read_strip(job: Job, strips: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Read strips of the slide, square by square. Runs in a worker."""
    for strip in strips:
        sums: dict[int, _Sums] = {}
        for square in _squares(job.source, strip):
            for channel, pixels in _pixels(job, square):
                if channel not in sums:
                    sums[channel] = _Sums(job, channel)
                sums[channel].add(pixels)
        tables: Tables = {}
        for channel, total in sums.items():
            tables |= {f"{channel}_{name}": a for name, a in total.tables().items()}
        job.write_tables(strip, tables)
        yield strip, {}


class _Sums:
    """What a strip tells of one channel, added up square by square."""

    def __init__(self, job: Job, channel: int) -> None:
        channels = SegmentationChannels.resolve(job.config, job.source.channel_names)
        self._blocks: list[Blocks] | None = None
        self._overview: list[NDArray[Any]] | None = None
        if channel in {*channels.all, MERGED}:
            self._blocks, self._overview = [], []
        self._factor = overview_factor(job.source.shape[1:])
        self._counts = np.zeros(N_BINS, np.int64)
        self._moments = np.array([np.inf, -np.inf, 0.0, 0.0])

    def add(self, pixels: NDArray[Any]) -> None:
        self._counts += histogram(pixels)
        if pixels.dtype.kind == "f":
            low, high, total, squares = sum_levels(pixels)
            self._moments[0] = min(self._moments[0], low)
            self._moments[1] = max(self._moments[1], high)
            self._moments[2:] += total, squares
        if self._blocks is not None and self._overview is not None:
            self._blocks.append(measure_blocks(pixels))
            self._overview.append(block_mean(pixels, self._factor))

    def tables(self) -> Tables:
        bins = np.flatnonzero(self._counts)
        tables: Tables = {
            "bins": bins.astype(np.uint16),
            "counts": self._counts[bins],
            "moments": self._moments,
        }
        if self._blocks and self._overview:
            for name in ("level", "noise", "peak"):
                parts = [getattr(blocks, name) for blocks in self._blocks]
                tables[name] = np.concatenate(parts, axis=1)
            tables["overview"] = np.concatenate(self._overview, axis=1)
        return tables


def _squares(source: Source, strip: int) -> Iterator[Window]:
    grid = PatchGrid(source.shape[1:], (STRIP_PX, STRIP_PX), (0, 0))
    columns = grid.counts[1]
    return (grid[strip * columns + column].core for column in range(columns))


def _channels_read(job: Job, channels: SegmentationChannels) -> list[int]:
    every = job.config.data.generate_channel_stats
    read = list(range(job.source.shape[0])) if every else list(channels.all)
    return [*read, MERGED] if _is_merged(job, channels) else read


def _is_merged(job: Job, channels: SegmentationChannels) -> bool:
    return len(channels.wholecell) > 1 and job.config.channels.wholecell_merge == "raw"


def _pixels(job: Job, square: Window) -> Iterator[tuple[int, NDArray[Any]]]:
    slide = slide_of(job)
    channels = SegmentationChannels.resolve(job.config, job.source.channel_names)
    merged: NDArray[Any] | None = None
    for channel in _channels_read(job, channels):
        if channel == MERGED:
            if merged is not None:
                yield MERGED, merged
            continue
        pixels = slide.read(channel, square)
        _check(pixels, job.source.channel_names[channel], square)
        if _is_merged(job, channels) and channel in channels.wholecell:
            merged = pixels if merged is None else merge_channels([merged, pixels])
        yield channel, pixels


def _check(pixels: NDArray[Any], name: str, window: Window) -> None:
    """Refuse grey levels that no microscope gives."""
    if pixels.dtype.kind != "f" or are_grey_levels(pixels):
        return
    for what, bad, remedy in (
        ("are NaN or infinite", ~np.isfinite(pixels), "replace them, with 0 for instance"),
        ("are negative", pixels < 0, "clip them at 0, or add an offset to the channel"),
    ):
        if bad.any():
            y, x = (int(i[0]) for i in np.nonzero(bad))
            raise InputError(
                f"channel {name!r}: {np.count_nonzero(bad)} px of the window y "
                f"{window.y0}-{window.y1}, x {window.x0}-{window.x1} {what} (the first at "
                f"y {window.y0 + y}, x {window.x0 + x}), expected grey levels of at "
                f"least 0; {remedy}."
            )


class _Channel:
    """What all strips together tell of one channel."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._counts = np.zeros(N_BINS, np.int64)
        self._moments: list[NDArray[np.float64]] = []
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _MAPS}

    def add(self, strip: Mapping[str, NDArray[Any]], channel: int) -> None:
        self._counts[strip[f"{channel}_bins"]] += strip[f"{channel}_counts"]
        self._moments.append(strip[f"{channel}_moments"])
        for name, parts in self._parts.items():
            if f"{channel}_{name}" in strip:
                parts.append(strip[f"{channel}_{name}"])

    def map(self, name: str) -> NDArray[Any]:
        """Return a map of the whole slide: of the blocks, or the overview."""
        return np.concatenate(self._parts[name])

    def statistics(self) -> dict[str, float]:
        counts, n = self._counts, int(self._counts.sum())
        if self._dtype.kind == "f":
            moments = np.array(self._moments)
            low, high = float(moments[:, 0].min()), float(moments[:, 1].max())
            total, squares = float(moments[:, 2].sum()), float(moments[:, 3].sum())
        else:
            levels = np.flatnonzero(counts)
            low, high = float(levels[0]), float(levels[-1])
            total, squares = (float(levels**power @ counts[levels]) for power in (1, 2))
        mean = total / n
        return {
            "min": low,
            "median": percentile(counts, 50, self._dtype),
            "p95": percentile(counts, 95, self._dtype),
            "p999": percentile(counts, 99.9, self._dtype),
            "max": high,
            "mean": mean,
            "std": float(np.sqrt(max(0.0, squares / n - mean**2))),
        }


def _add_up(job: Job, strips: Sequence[int], numbers: Sequence[int]) -> dict[int, _Channel]:
    channels = {number: _Channel(np.dtype(job.source.dtype)) for number in numbers}
    for strip in strips:
        tables = job.tables("load", strip)
        for number, channel in channels.items():
            channel.add(tables, number)
    return channels


def _write_statistics(job: Job, statistics: dict[int, dict[str, float]]) -> None:
    path = job.run.path / "channel_stats.csv"
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["channel", *_COLUMNS])
        for channel, values in statistics.items():
            if channel != MERGED:
                name = job.source.channel_names[channel]
                writer.writerow([name, *(f"{values[c]:.6g}" for c in _COLUMNS)])


def _slide_tables(
    job: Job,
    channels: SegmentationChannels,
    found: dict[int, _Channel],
    statistics: dict[int, dict[str, float]],
) -> Tables:
    """Put together what segmentation needs to know of the whole slide."""
    integer = np.dtype(job.source.dtype).kind != "f"
    known: dict[int, NDArray[np.float64]] = {}
    signal: NDArray[np.bool_] | None = None
    for channel in (c for c in statistics if c in {*channels.all, MERGED}):
        values = statistics[channel]
        blocks = Blocks(*(found[channel].map(name) for name in ("level", "noise", "peak")))
        background = estimate_background(blocks, values["p999"], integer=integer)
        known[channel] = np.array(
            [
                values["min"],
                values["max"],
                background.level,
                background.noise,
                values["p999"],
            ]
        )
        above = blocks.peak > background.threshold
        signal = above if signal is None else signal | above

    overviews = [found[channels.nucleus].map("overview")]
    markers = [found[c].map("overview") for c in channels.wholecell]
    overviews.append(np.maximum.reduce(markers) if markers else np.zeros_like(overviews[0]))
    tables: Tables = {
        "nucleus": known[channels.nucleus],
        "signal": np.asarray(signal),
        "overview": np.stack(overviews),
    }
    if len(channels.wholecell) == 1 or _is_merged(job, channels):
        merged = MERGED if _is_merged(job, channels) else channels.wholecell[0]
        tables["wholecell"] = known[merged]
    elif channels.wholecell:
        scales = np.array([statistics[c]["p999"] for c in channels.wholecell])
        divisor = np.where(scales > 0, scales, np.inf)[:, None]
        scaled = np.array([known[c] for c in channels.wholecell]) / divisor
        tables["wholecell"] = np.array([scaled[:, 0].min(), *scaled[:, 1:].max(axis=0)])
        tables["wholecell_scales"] = scales
    return tables


def _identity(config: Config, source: Source) -> Row:
    """Say which slide it is, wherever it lies."""
    del config
    return {
        "fingerprint": source.fingerprint,
        "channel_names": list(source.channel_names),
        "mpp": source.mpp,
    }


STAGE = Stage("load", ("data", "channels"), (), load, extra=_identity)
