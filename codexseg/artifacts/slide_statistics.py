"""Statistics of the whole slide: intensities, tissue signal, overview (stage load)."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codexseg.arrays import Columns, Float32, Int64, Mask
from codexseg.artifacts.columns import CHANNEL_COLUMNS, names_of
from codexseg.backends.base import ChannelStatistics
from codexseg.config.schema import Config
from codexseg.core.intensity.background import BLOCK_PX
from codexseg.core.intensity.histogram import N_BINS
from codexseg.core.intensity.scaling import IntensityScaling
from codexseg.io.csv_writer import write_csv_rows
from codexseg.io.slides.channels import SegmentationChannels
from codexseg.io.slides.record import SlideRecord
from codexseg.run.records import StageRecords

CHANNEL_STATISTICS = "channel_stats.csv"
MAX_OVERVIEW_PX = 2048
"""Longest side of the overview."""

Percentiles = tuple[float, float]
Scalings = tuple[IntensityScaling, IntensityScaling]


def overview_factor(shape: tuple[int, int]) -> int:
    """Return the downsampling factor of the overview: a power of two, at least 4."""
    factor = 4
    while max(shape) > factor * MAX_OVERVIEW_PX and factor < BLOCK_PX:
        factor *= 2
    return factor


@dataclass(frozen=True)
class SlideTables:
    """Arrays of the load stage.

    Attributes
    ----------
    nucleus, wholecell : ChannelStatistics or None
        Of the two segmentation channels; `wholecell` is None without a marker.
    signal : (y, x) bool
        Which blocks of 64 px hold signal in any segmentation channel.
    overview : (2, y, x) float32
        Means of squares of `overview_factor` px of the two channels.
    wholecell_scales : tuple of float or None
        Divisors of the markers, if they are scaled before they are merged.
    """

    NAME: ClassVar = "slide"

    nucleus: ChannelStatistics
    wholecell: ChannelStatistics | None
    signal: Mask
    overview: Float32
    wholecell_scales: tuple[float, ...] | None = None

    def write(self, records: StageRecords) -> None:
        """Write the arrays."""
        table = {
            "nucleus": np.array([*asdict(self.nucleus).values()]),
            "signal": self.signal,
            "overview": self.overview,
        }
        if self.wholecell is not None:
            table["wholecell"] = np.array([*asdict(self.wholecell).values()])
        if self.wholecell_scales is not None:
            table["wholecell_scales"] = np.array(self.wholecell_scales)
        records.write_table(self.NAME, table)

    @classmethod
    def read(cls, records: StageRecords) -> "SlideTables":
        """Open the arrays."""
        table = records.read_table(cls.NAME)
        scales = table.get("wholecell_scales")
        return cls(
            nucleus=ChannelStatistics(*table["nucleus"].tolist()),
            wholecell=ChannelStatistics(*table["wholecell"].tolist())
            if "wholecell" in table
            else None,
            signal=table["signal"],
            overview=table["overview"],
            wholecell_scales=None if scales is None else tuple(scales.tolist()),
        )


@dataclass(frozen=True)
class SlideStatistics:
    """Channels and statistics of a slide as the stages after load use them.

    Attributes
    ----------
    channels : SegmentationChannels
        The channels that are segmented.
    tables : SlideTables
        Statistics in the intensities of the slide.
    scalings : tuple of two IntensityScaling or None
        Scaling of the two channels by percentiles of the slide, if it is configured.
    """

    channels: SegmentationChannels
    tables: SlideTables
    scalings: Scalings | None = None

    @property
    def signal(self) -> Mask:
        """Which blocks of 64 px hold signal."""
        return self.tables.signal

    @property
    def as_seen_by_backend(
        self,
    ) -> tuple[ChannelStatistics | None, ChannelStatistics | None]:
        """Statistics of nucleus and whole cell after scaling; None: no such channel."""
        nucleus, wholecell = self.scalings or (None, None)
        return (
            scale_statistics(self.tables.nucleus, nucleus)
            if self.channels.has_nucleus
            else None,
            None
            if self.tables.wholecell is None
            else scale_statistics(self.tables.wholecell, wholecell),
        )

    @classmethod
    def read(
        cls, records: StageRecords, config: Config, slide: SlideRecord
    ) -> "SlideStatistics":
        """Read the results of the load stage.

        Parameters
        ----------
        records : StageRecords
            Of the stage load.
        config : Config
            Its sections channels and segmentation are used.
        slide : SlideRecord
            The slide.
        """
        strips = (records.read_columns(strip) for strip in records.read_all())
        return cls.combine(SlideTables.read(records), strips, config, slide)

    @classmethod
    def combine(
        cls,
        tables: SlideTables,
        strips: Iterable[Columns],
        config: Config,
        slide: SlideRecord,
    ) -> "SlideStatistics":
        """Combine the results of the load stage.

        Parameters
        ----------
        tables : SlideTables
            Statistics of the whole slide.
        strips : iterable of mapping of str to array
            Columns of all strips; read if percentiles are configured.
        config, slide
            See :meth:`read`.
        """
        channels = SegmentationChannels.resolve(config, slide.channel_names)
        channels = replace(channels, scales=tables.wholecell_scales)
        wanted, scalings = config.segmentation.percentiles, None
        if wanted is not None:
            counts = add_histograms(strips, channels)
            scalings = slide_scalings(counts, channels, wanted, np.dtype(slide.dtype))
        return cls(channels, tables, scalings)


def write_channel_statistics(
    path: Path, statistics: Mapping[str, Mapping[str, float]]
) -> None:
    """Write ``channel_stats.csv``: one row per channel."""
    names = names_of(CHANNEL_COLUMNS)
    rows = (
        {"channel": channel} | {name: f"{values[name]:.6g}" for name in names[1:]}
        for channel, values in statistics.items()
    )
    write_csv_rows(path, names, rows)


# -- scaling by percentiles ---------------------------------------------------------------


def add_histograms(
    strips: Iterable[Columns], channels: SegmentationChannels
) -> dict[int, Int64]:
    """Add up the histograms of the load stage's strips, by channel number."""
    counts = {number: np.zeros(N_BINS, np.int64) for number in channels.histogrammed}
    for columns in strips:
        for number, total in counts.items():
            bins, values = f"{number}_bins", f"{number}_counts"
            total[columns[bins]] += columns[values]
    return counts


def slide_scalings(
    counts: Mapping[int, Int64],
    channels: SegmentationChannels,
    percentiles: Percentiles,
    dtype: np.dtype[Any],
) -> Scalings:
    """Return the scalings of nucleus and whole cell by percentiles of the slide.

    Markers that are scaled before they are merged have no histogram of their maximum: the
    largest of their own limits are used, as for other statistics.

    Parameters
    ----------
    counts : mapping of int to (bins,) int64
        Histograms by channel number.
    channels : SegmentationChannels
        The channels that are segmented.
    percentiles : (float, float)
        Percentiles that become 0 and 1.
    dtype : dtype
        Of the pixels.
    """
    scalings = {n: IntensityScaling.of(c, percentiles, dtype) for n, c in counts.items()}
    nucleus, *markers = (scalings[number] for number in channels.histogrammed)
    divisors = channels.scales or (1.0,) * len(markers)
    limits = [
        (scaling.low / divisor, scaling.high / divisor)
        for scaling, divisor in zip(markers, divisors, strict=True)
        if divisor > 0
    ]
    low, high = np.max(limits, axis=0).tolist() if limits else (0.0, 0.0)
    flat = IntensityScaling(0, 0)
    return nucleus if channels.has_nucleus else flat, IntensityScaling(low, high)


def scale_statistics(
    statistics: ChannelStatistics, scaling: IntensityScaling | None
) -> ChannelStatistics:
    """Scale the statistics of a channel as its pixels are scaled."""
    if scaling is None:
        return statistics
    levels = {name: scaling.level(value) for name, value in asdict(statistics).items()}
    return ChannelStatistics(**(levels | {"noise": statistics.noise / scaling.step}))
