"""What workers read: the slide, its two segmentation channels, the grid, the backend.

Each worker opens the slide and makes the backend once and keeps them.
"""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import (
    Backend,
    ChannelStatistics,
    SlideContext,
    diameter_um,
    is_paired,
    needs_nucleus,
)
from codexseg.backends.registry import create
from codexseg.config.schema import Config
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.histogram import N_BINS, histogram, merge_channels
from codexseg.core.intensity.scaling import IntensityScaling
from codexseg.errors import ConfigError
from codexseg.io.slides.base import SlideImage
from codexseg.io.slides.open import open_image
from codexseg.io.slides.panel import resolve_channel
from codexseg.run.directory import digest
from codexseg.stages.base import Job
from codexseg.stages.channels import by_name, has_nuclei
from codexseg.stages.keys import section_in_key

MERGED = -1
"""Number of the channel that is the maximum of several whole-cell markers."""
RESERVE = 2.0
"""Until `auto` has found a diameter, halos are for cells so much larger than typical."""
SCALE = "scale"
"""What the work folders begin with in which the size of cells is found, for `auto`."""
FOUND = "found"
"""The table there that holds it."""

Percentiles = tuple[float, float]
Pixels = NDArray[Any]


@lru_cache(maxsize=2)
def open_slide(path: str, panel: str | None, fingerprint: str) -> SlideImage:
    """Open a slide, once per worker and content."""
    del fingerprint
    return open_image(path, panel)


def slide_of(job: Job) -> SlideImage:
    """Return the slide of a job."""
    return open_slide(job.source.path, job.source.panel, job.source.fingerprint)


@dataclass(frozen=True)
class SegmentationChannels:
    """Which channels of the slide make the two that a backend reads.

    Where no nuclei are shown (`has_nucleus`), `nucleus` is the channel that is looked at
    in their place where there must be one, and a backend reads zeros.
    """

    nucleus: int
    wholecell: tuple[int, ...]
    scales: tuple[float, ...] | None = None
    has_nucleus: bool = True

    @classmethod
    def resolve(cls, config: Config, names: tuple[str, ...]) -> "SegmentationChannels":
        """Find the configured channels among the slide's."""
        channels = by_name(config.channels, names)
        nucleus = resolve_channel(channels.nuclear_channel, names)
        markers = tuple(resolve_channel(n, names) for n in channels.wholecell_channel)
        return cls(nucleus, markers, has_nucleus=has_nuclei(channels))

    @property
    def all(self) -> tuple[int, ...]:
        """All channels that are read, each once."""
        return tuple(dict.fromkeys((self.nucleus, *self.wholecell)))

    def read(self, slide: SlideImage, window: Window) -> Pixels:
        """Read (2, y, x): nucleus, and whole cell (zeros where no marker is named)."""
        nucleus = slide.read(self.nucleus, window)
        if not self.has_nucleus:
            nucleus = np.zeros_like(nucleus)
        if not self.wholecell:
            return np.stack([nucleus, np.zeros_like(nucleus)])
        markers = [slide.read(channel, window) for channel in self.wholecell]
        wholecell = merge_channels(markers, self.scales)
        dtype = np.result_type(nucleus, wholecell)
        both = np.empty((2, *window.shape), dtype)
        both[0], both[1] = nucleus, wholecell
        return both


@dataclass(frozen=True)
class Loaded:
    """What the load stage found, as later stages use it.

    `nucleus` and `wholecell` (None: no marker is named) are in the slide's grey levels;
    `greys` say how percentiles of the slide scale these, where they do.
    """

    channels: SegmentationChannels
    nucleus: ChannelStatistics
    wholecell: ChannelStatistics | None
    signal: NDArray[np.bool_]
    greys: tuple[IntensityScaling, IntensityScaling] | None = None

    @property
    def shown(self) -> tuple[ChannelStatistics | None, ChannelStatistics | None]:
        """Statistics of both channels as a backend sees them; None: there is no such."""
        nucleus, wholecell = self.greys or (None, None)
        return (
            scaled(self.nucleus, nucleus) if self.channels.has_nucleus else None,
            scaled(self.wholecell, wholecell) if self.wholecell else None,
        )


@lru_cache(maxsize=2)
def loaded(job: Job) -> Loaded:
    """Return what the load stage found, read once per worker."""
    tables = job.tables("load", "slide")
    channels = SegmentationChannels.resolve(job.config, job.source.channel_names)
    if "wholecell_scales" in tables:
        scales = tuple(tables["wholecell_scales"].tolist())
        channels = replace(channels, scales=scales)
    wanted = job.config.segmentation.percentiles
    greys = None if wanted is None else _greys(job, channels, wanted)
    wholecell = tables.get("wholecell")
    return Loaded(
        channels=channels,
        nucleus=ChannelStatistics(*tables["nucleus"].tolist()),
        wholecell=None if wholecell is None else ChannelStatistics(*wholecell.tolist()),
        signal=tables["signal"],
        greys=greys,
    )


def _greys(
    job: Job, channels: SegmentationChannels, percentiles: Percentiles
) -> tuple[IntensityScaling, IntensityScaling]:
    """Return what the slide's percentiles make 0 and 1 in both segmentation channels.

    From the histograms that the load stage keeps. Markers that are merged scaled have
    none of their maximum: the largest of theirs stands for it, as for other statistics.
    """
    merged = len(channels.wholecell) > 1 and channels.scales is None
    numbers = [channels.nucleus, *((MERGED,) if merged else channels.wholecell)]
    counts = {number: np.zeros(N_BINS, np.int64) for number in numbers}
    for strip in job.rows("load"):
        tables = job.tables("load", strip)
        for number, total in counts.items():
            total[tables[f"{number}_bins"]] += tables[f"{number}_counts"]
    dtype = np.dtype(job.source.dtype)
    found = {
        n: IntensityScaling.of(total, percentiles, dtype) for n, total in counts.items()
    }
    nucleus, markers = found[channels.nucleus], [found[n] for n in numbers[1:]]
    scales = channels.scales or (1.0,) * len(markers)
    pairs = [(g.low / s, g.high / s) for g, s in zip(markers, scales, strict=True) if s > 0]
    low, high = np.max(pairs, axis=0).tolist() if pairs else (0.0, 0.0)
    return nucleus if channels.has_nucleus else IntensityScaling(0, 0), IntensityScaling(
        low, high
    )


def scaled(
    statistics: ChannelStatistics, grey: IntensityScaling | None
) -> ChannelStatistics:
    """Scale the statistics of a channel as its pixels are."""
    if grey is None:
        return statistics
    levels = {name: grey.level(value) for name, value in asdict(statistics).items()}
    return ChannelStatistics(**(levels | {"noise": statistics.noise / grey.step}))


def pixels_of(job: Job, window: Window) -> Pixels:
    """Read (2, y, x) as a backend sees it: in grey levels, or scaled by percentiles."""
    found = loaded(job)
    pixels = found.channels.read(slide_of(job), window)
    segmentation = job.config.segmentation
    if found.greys is None or segmentation.percentiles is None:
        return pixels
    if segmentation.normalization == "patch":
        return rescaled(pixels, own_greys(pixels, segmentation.percentiles))
    return rescaled(pixels, found.greys)


def own_greys(
    pixels: Pixels, percentiles: Percentiles
) -> tuple[IntensityScaling, IntensityScaling]:
    """Return what the percentiles of an image (2, y, x) itself make 0 and 1."""
    nucleus, wholecell = (
        IntensityScaling.of(histogram(channel), percentiles, pixels.dtype)
        for channel in pixels
    )
    return nucleus, wholecell


def rescaled(pixels: Pixels, greys: tuple[IntensityScaling, IntensityScaling]) -> Pixels:
    """Scale both channels of an image (2, y, x); float32."""
    return np.stack([g.apply(channel) for g, channel in zip(greys, pixels, strict=True)])


def make_backend(
    config: Config,
    shape: tuple[int, int],
    mpp: float,
    found: Loaded | None = None,
    *,
    diameter: float | None = None,
) -> Backend:
    """Make the configured backend; with statistics where the slide was read.

    Parameters
    ----------
    config : Config
        With `segmentation.diameter` the backend is made for the pixel size at which cells
        of this diameter have the size that it was made for.
    shape : (int, int)
        Of the slide, px.
    mpp : float
        The real pixel size, um.
    found : Loaded, optional
        What the load stage found.
    diameter : float, optional
        What `auto` has found, um. Until then the halo is enough for cells of twice the
        typical diameter.

    Raises
    ------
    ConfigError
        If the backend does not know the size of its cells, or needs nuclei and none are
        shown.
    """
    channels, (nucleus, wholecell) = config.channels, found.shown if found else (None, None)
    slide = SlideContext(
        shape=shape,
        mpp=mpp,
        nucleus=nucleus,
        wholecell=wholecell,
        has_wholecell=bool(
            found.channels.wholecell if found else channels.wholecell_channel
        ),
        has_nucleus=found.channels.has_nucleus if found else has_nuclei(channels),
    )
    backend = create(config.segmentation, slide)
    if not slide.has_nucleus and needs_nucleus(backend):
        raise ConfigError(
            f"the image is in grey, and channels.mode {channels.mode} shows it as cells "
            f"without nuclei, which the backend {backend.name!r} needs: set "
            f"channels.nucleus to grey, and channels.mode to L, to show it as nuclei "
            f"instead."
        )
    wanted = config.segmentation.diameter
    if wanted is None:
        return backend
    typical = diameter_um(backend)
    if diameter is None:
        diameter = RESERVE * typical if wanted == "auto" else wanted
    at_scale = replace(slide, mpp=mpp * typical / diameter)
    return backend if diameter == typical else create(config.segmentation, at_scale)


def backend_facts(backend: Backend) -> dict[str, Any]:
    """Return what a Source says of the backend that it is for."""
    return {
        "backend": backend.fingerprint(),
        "halo_px": backend.halo_px,
        "paired": is_paired(backend),
    }


@lru_cache(maxsize=1)
def _backend(job: Job, settings: str, diameter: float | None) -> Backend:
    del settings
    source, found = job.source, loaded(job)
    return make_backend(job.config, source.shape[1:], source.mpp, found, diameter=diameter)


def backend_for(job: Job, diameter: float | None) -> Backend:
    """Return the backend of a job for cells of a diameter, made once per worker."""
    return _backend(job, job.config.segmentation.model_dump_json(), diameter)


def backend_of(job: Job) -> Backend:
    """Return the backend of a job, made once per worker and settings."""
    return backend_for(job, diameter_of(job))


def diameter_of(job: Job) -> float | None:
    """Return the diameter of cells that a job goes by, um; None: the backend's own."""
    wanted = job.config.segmentation.diameter
    if wanted != "auto":
        return wanted
    return float(scale_job(job).tables(SCALE, FOUND)["diameter_um"])


def scale_job(job: Job) -> Job:
    """Return the job that finds the size of cells: it knows the slide and the backend."""
    depends_on = {
        "load": job.keys["load"],
        "backend": job.source.backend,
        "config": section_in_key(job.config, "segmentation"),
    }
    return replace(job, stage=SCALE, keys={**job.keys, SCALE: digest(depends_on)})


@lru_cache(maxsize=2)
def grid_of(job: Job) -> PatchGrid:
    """Return the grid that the patch stage laid."""
    tables = job.tables("patch", "grid")
    shape, step, halo = ((int(a), int(b)) for a, b in tables["grid"])
    return PatchGrid(shape, step, halo)


def valid_patches(job: Job) -> list[int]:
    """Return the informative patches, in the order of the pickles."""
    return [p for p, row in job.rows("flag").items() if row["is_informative"]]
