"""Load: read the slide once, strip by strip, and store its statistics.

Histograms and block statistics of each channel make it possible to normalize by the slide
and to separate signal from background. The stage also writes a coarse overview and
channel_stats.csv.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np

from codexseg.arrays import Columns, Int64, Pixels
from codexseg.artifacts.columns import CHANNEL_COLUMNS, names_of
from codexseg.artifacts.slide_statistics import (
    CHANNEL_STATISTICS,
    SlideTables,
    overview_factor,
    write_channel_statistics,
)
from codexseg.artifacts.warnings import RunWarning, as_json
from codexseg.backends.base import ChannelStatistics
from codexseg.config.schema import Config
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.background import Blocks, estimate_background, measure_blocks
from codexseg.core.intensity.histogram import (
    N_BINS,
    are_intensities,
    block_mean,
    histogram,
    merge_channels,
    percentile,
    sum_intensities,
)
from codexseg.errors import InputError
from codexseg.io.slides.base import SlideImage
from codexseg.io.slides.channels import MERGED, SegmentationChannels
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

STRIP_PX = 2048
"""Side of the squares in which the slide is read; a multiple of the block size."""

_MAPS = ("level", "noise", "peak", "overview")
_BLOCK_MAPS = ("level", "noise", "peak")


def load(context: StageContext) -> Record:
    """Read the slide; write its statistics and channel_stats.csv."""
    inputs = context.inputs
    slide = inputs.slide
    strips = range(n_strips(slide))
    context.map_patches(read_strips, strips, unit="strip")
    columns = (inputs.own.read_columns(strip) for strip in strips)
    tables, statistics = summarize_slide(slide, inputs.config, columns)
    write_channel_statistics(
        inputs.run.path / CHANNEL_STATISTICS,
        {slide.channel_names[n]: s for n, s in statistics.items() if n != MERGED},
    )
    tables.write(inputs.own)
    constant = [
        slide.channel_names[c]
        for c in SegmentationChannels.resolve(inputs.config, slide.channel_names).all
        if statistics[c]["min"] == statistics[c]["max"]
    ]
    return {
        "channels": slide.shape[0],
        "height": slide.shape[1],
        "width": slide.shape[2],
        "blocks": int(tables.signal.size),
        "blocks_with_signal": int(tables.signal.sum()),
        "written": [CHANNEL_STATISTICS],
        "constant_channels": constant,
        "warnings": as_json(map(_constant_channel, constant)),
    }


def _constant_channel(name: str) -> RunWarning:
    return RunWarning(
        "constant_channel",
        name,
        "channels",
        f"The channel {name!r} has one intensity everywhere. Check that it is the channel "
        f"to segment.",
    )


def n_strips(slide: SlideRecord) -> int:
    """Return the number of strips of a slide."""
    return ceil(slide.shape[1] / STRIP_PX)


def read_strips(inputs: StageInputs, strips: Sequence[int]) -> Finished:
    """Read strips of the slide. Runs in a worker."""
    image = worker_state(inputs).slide
    for strip in strips:
        columns = tally_strip(image, inputs.slide, inputs.config, strip)
        inputs.own.write_columns(strip, columns)
        yield strip, {}


def tally_strip(
    image: SlideImage, slide: SlideRecord, config: Config, strip: int
) -> Columns:
    """Read a strip, square by square; return histograms, moments and block maps.

    Parameters
    ----------
    image : SlideImage
        The open slide.
    slide : SlideRecord
        Its description.
    config : Config
        The configuration.
    strip : int
        Number of the strip.

    Returns
    -------
    mapping of str to array
        Columns ``{channel number}_{name}``.
    """
    channels = SegmentationChannels.resolve(config, slide.channel_names)
    factor = overview_factor(slide.shape[1:])
    tallies: dict[int, _StripTally] = {}
    for square in _squares(slide, strip):
        for channel, pixels in _read_channels(image, slide, config, channels, square):
            if channel not in tallies:
                is_segmented = channel in {*channels.all, MERGED}
                tallies[channel] = _StripTally(factor if is_segmented else None)
            tallies[channel].add(pixels)
    return {
        f"{channel}_{name}": array
        for channel, tally in tallies.items()
        for name, array in tally.columns().items()
    }


def summarize_slide(
    slide: SlideRecord, config: Config, strips: Iterable[Columns]
) -> tuple[SlideTables, dict[int, dict[str, float]]]:
    """Combine the columns of all strips.

    Returns
    -------
    tables : SlideTables
        Statistics of the segmentation channels.
    statistics : dict of int to dict
        Statistics of ``channel_stats.csv`` by channel number.
    """
    channels = SegmentationChannels.resolve(config, slide.channel_names)
    numbers, dtype = _channels_read(slide, config, channels), np.dtype(slide.dtype)
    totals = {number: ChannelTotal(dtype) for number in numbers}
    for columns in strips:
        for number, total in totals.items():
            total.add(columns, number)
    statistics = {number: total.statistics() for number, total in totals.items()}
    return _slide_tables(slide, config, channels, totals, statistics), statistics


class _StripTally:
    """Histogram, moments, blocks and overview of one channel of a strip.

    Parameters
    ----------
    factor : int or None
        Downsampling factor of the overview; None: neither blocks nor overview.
    """

    def __init__(self, factor: int | None) -> None:
        self._factor = factor
        self._blocks: list[Blocks] = []
        self._overview: list[Pixels] = []
        self._counts = np.zeros(N_BINS, np.int64)
        self._moments = np.array([np.inf, -np.inf, 0.0, 0.0])

    def add(self, pixels: Pixels) -> None:
        """Add a square."""
        self._counts += histogram(pixels)
        if pixels.dtype.kind == "f":
            low, high, total, squares = sum_intensities(pixels)
            self._moments[0] = min(self._moments[0], low)
            self._moments[1] = max(self._moments[1], high)
            self._moments[2:] += total, squares
        if self._factor is not None:
            self._blocks.append(measure_blocks(pixels))
            self._overview.append(block_mean(pixels, self._factor))

    def columns(self) -> Columns:
        """Return the tally as columns."""
        bins = np.flatnonzero(self._counts)
        columns: dict[str, Any] = {
            "bins": bins.astype(np.uint16),
            "counts": self._counts[bins],
            "moments": self._moments,
        }
        if self._factor is not None:
            for name in _BLOCK_MAPS:
                parts = [getattr(blocks, name) for blocks in self._blocks]
                columns[name] = np.concatenate(parts, axis=1)
            columns["overview"] = np.concatenate(self._overview, axis=1)
        return columns


class ChannelTotal:
    """Statistics of one channel over all strips.

    Parameters
    ----------
    dtype : dtype
        Of the pixels.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._counts: Int64 = np.zeros(N_BINS, np.int64)
        self._moments: list[Pixels] = []
        self._parts: dict[str, list[Pixels]] = {name: [] for name in _MAPS}

    def add(self, strip: Columns, channel: int) -> None:
        """Add the columns of a strip."""
        prefix = f"{channel}_"
        own = {n.removeprefix(prefix): n for n in strip if n.startswith(prefix)}
        self._counts[strip[own["bins"]]] += strip[own["counts"]]
        self._moments.append(strip[own["moments"]])
        for name, parts in self._parts.items():
            if name in own:
                parts.append(strip[own[name]])

    def map(self, name: str) -> Pixels:
        """Return a block map, or the overview, of the whole slide."""
        return np.concatenate(self._parts[name])

    def statistics(self) -> dict[str, float]:
        """Return the statistics of ``channel_stats.csv``."""
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
        values = (
            low,
            percentile(counts, 50, self._dtype),
            percentile(counts, 95, self._dtype),
            percentile(counts, 99.9, self._dtype),
            high,
            mean,
            float(np.sqrt(max(0.0, squares / n - mean**2))),
        )
        return dict(zip(names_of(CHANNEL_COLUMNS)[1:], values, strict=True))


def _squares(slide: SlideRecord, strip: int) -> Iterator[Window]:
    grid = PatchGrid(slide.shape[1:], (STRIP_PX, STRIP_PX), (0, 0))
    columns = grid.counts[1]
    return (grid[strip * columns + column].core for column in range(columns))


def _channels_read(
    slide: SlideRecord, config: Config, channels: SegmentationChannels
) -> list[int]:
    every = config.data.generate_channel_stats
    numbers = list(range(slide.shape[0])) if every else list(channels.all)
    return [*numbers, MERGED] if _is_merged(config, channels) else numbers


def _is_merged(config: Config, channels: SegmentationChannels) -> bool:
    return len(channels.wholecell) > 1 and config.channels.wholecell_merge == "raw"


def _read_channels(
    image: SlideImage,
    slide: SlideRecord,
    config: Config,
    channels: SegmentationChannels,
    square: Window,
) -> Iterator[tuple[int, Pixels]]:
    """Yield number and pixels of each channel in a square; the merged markers last."""
    merged: Pixels | None = None
    for channel in _channels_read(slide, config, channels):
        if channel == MERGED:
            if merged is not None:
                yield MERGED, merged
            continue
        pixels = image.read(channel, square)
        check_intensities(pixels, slide.channel_names[channel], square)
        if _is_merged(config, channels) and channel in channels.wholecell:
            merged = pixels if merged is None else merge_channels([merged, pixels])
        yield channel, pixels


def check_intensities(pixels: Pixels, name: str, window: Window) -> None:
    """Refuse intensities that are not finite, or below 0.

    Raises
    ------
    InputError
        With the channel, the window and the first such pixel.
    """
    if pixels.dtype.kind != "f" or are_intensities(pixels):
        return
    for fault, bad, remedy in (
        ("are NaN or infinite", ~np.isfinite(pixels), "Replace them, for example by 0"),
        ("are negative", pixels < 0, "Clip them at 0, or add an offset to the channel"),
    ):
        if bad.any():
            y, x = (int(i[0]) for i in np.nonzero(bad))
            raise InputError(
                f"Channel {name!r}: {np.count_nonzero(bad)} px of the window y "
                f"{window.y0}-{window.y1}, x {window.x0}-{window.x1} {fault} (the first at "
                f"y {window.y0 + y}, x {window.x0 + x}). {remedy}."
            )


def _slide_tables(
    slide: SlideRecord,
    config: Config,
    channels: SegmentationChannels,
    totals: Mapping[int, ChannelTotal],
    statistics: Mapping[int, Mapping[str, float]],
) -> SlideTables:
    """Combine the statistics of the segmentation channels."""
    integer = np.dtype(slide.dtype).kind != "f"
    known: dict[int, ChannelStatistics] = {}
    signal = None
    for channel in (c for c in statistics if c in {*channels.all, MERGED}):
        values = statistics[channel]
        blocks = Blocks(*(totals[channel].map(name) for name in _BLOCK_MAPS))
        background = estimate_background(blocks, values["p999"], integer=integer)
        known[channel] = ChannelStatistics(
            values["min"], values["max"], background.level, background.noise, values["p999"]
        )
        above = blocks.peak > background.threshold
        signal = above if signal is None else signal | above

    nucleus = totals[channels.nucleus].map("overview")
    markers = [totals[c].map("overview") for c in channels.wholecell]
    wholecell = np.maximum.reduce(markers) if markers else np.zeros_like(nucleus)
    merged, scales = None, None
    if len(channels.wholecell) == 1 or _is_merged(config, channels):
        merged = known[channels.wholecell[0] if len(channels.wholecell) == 1 else MERGED]
    elif channels.wholecell:
        scales = tuple(statistics[c]["p999"] for c in channels.wholecell)
        merged = _scaled_maximum([known[c] for c in channels.wholecell], scales)
    return SlideTables(
        known[channels.nucleus],
        merged,
        np.asarray(signal),
        np.stack([nucleus, wholecell]),
        scales,
    )


def _scaled_maximum(
    markers: Sequence[ChannelStatistics], scales: Sequence[float]
) -> ChannelStatistics:
    """Return the statistics of the maximum of markers that are divided by their scales."""
    divisor = np.where(np.array(scales) > 0, scales, np.inf)[:, None]
    scaled = np.array([[*vars(marker).values()] for marker in markers]) / divisor
    return ChannelStatistics(
        *np.array([scaled[:, 0].min(), *scaled[:, 1:].max(axis=0)]).tolist()
    )


def _identity(config: Config, slide: SlideRecord, backend: BackendRecord) -> Record:
    """Return the identity of the slide, wherever its files are."""
    del config, backend
    return {
        "fingerprint": slide.fingerprint.digest,
        "channel_names": list(slide.channel_names),
        "mpp": slide.mpp,
    }


STAGE = Stage("load", ("data", "channels"), (), load, extra=_identity)
