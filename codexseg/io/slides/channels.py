"""The channels that are segmented: by name, or those of a grey or a colour picture.

In a colour picture, cells are green and nuclei blue; a grey picture shows cells. Many
entries to the NeurIPS 2022 cell segmentation challenge follow this rule.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from codexseg.arrays import Pixels
from codexseg.config.schema import ChannelsConfig, Config
from codexseg.core.grid import Window
from codexseg.core.intensity.histogram import merge_channels
from codexseg.errors import ConfigError, InputError
from codexseg.io.slides.base import COLOURS, SlideImage
from codexseg.io.slides.panel import resolve_channel

GREY = "grey"
MERGED = -1
"""Number of the channel that is the maximum of several whole-cell markers."""


@dataclass(frozen=True)
class SegmentationChannels:
    """The channels of the slide that form the two channels of a backend.

    Attributes
    ----------
    nucleus : int
        Number of the nuclear channel. Without nuclei (`has_nucleus` false) it is a
        placeholder, and backends read zeros.
    wholecell : tuple of int
        Numbers of the whole-cell markers.
    scales : tuple of float or None
        Divisors of the markers before they are merged; None: merge raw intensities.
    has_nucleus : bool
        Whether a channel shows nuclei.
    """

    nucleus: int
    wholecell: tuple[int, ...]
    scales: tuple[float, ...] | None = None
    has_nucleus: bool = True

    @classmethod
    def resolve(cls, config: Config, names: tuple[str, ...]) -> "SegmentationChannels":
        """Find the configured channels among those of the slide."""
        channels = by_name(config.channels, names)
        nucleus = resolve_channel(channels.nuclear_channel, names)
        markers = tuple(resolve_channel(n, names) for n in channels.wholecell_channel)
        return cls(nucleus, markers, has_nucleus=has_nuclei(channels))

    @property
    def all(self) -> tuple[int, ...]:
        """Numbers of all channels that are read, each once."""
        return tuple(dict.fromkeys((self.nucleus, *self.wholecell)))

    @property
    def histogrammed(self) -> tuple[int, ...]:
        """Numbers of the channels with a histogram: nucleus, then markers or MERGED."""
        is_merged = len(self.wholecell) > 1 and self.scales is None
        return (self.nucleus, *((MERGED,) if is_merged else self.wholecell))

    def read(self, slide: SlideImage, window: Window) -> Pixels:
        """Read (2, y, x): nucleus, and whole cell (zeros without a marker)."""
        nucleus = slide.read(self.nucleus, window)
        if not self.has_nucleus:
            nucleus = np.zeros_like(nucleus)
        wholecell = np.zeros_like(nucleus)
        if self.wholecell:
            markers = [slide.read(channel, window) for channel in self.wholecell]
            wholecell = merge_channels(markers, self.scales)
        return np.stack([nucleus, wholecell])


def with_channels_by_name(config: Config, names: Sequence[str]) -> Config:
    """Return a configuration with the names of the slide's channels."""
    channels = by_name(config.channels, names)
    return config.model_copy(update={"channels": channels})


def by_name(channels: ChannelsConfig, names: Sequence[str]) -> ChannelsConfig:
    """Replace the colours of a picture by names of channels.

    Parameters
    ----------
    channels : ChannelsConfig
        The configured channels, of any mode.
    names : sequence of str
        Names of the slide's channels.

    Returns
    -------
    ChannelsConfig
        Of mode "names", or "L" for a grey picture that shows no nuclei; its nuclear
        channel is then a placeholder. The function is idempotent.

    Raises
    ------
    InputError
        If the slide lacks the channels of the mode.
    ConfigError
        If pictures of the mode lack the colour.
    """
    mode = _mode(channels, names)
    if mode == "names":
        return channels.model_copy(update={"mode": "names"})
    if mode == "L":
        _check_count(mode, names, 1)
        both = channels.nucleus == GREY and channels.cell == GREY
        cells = both or channels.nucleus != GREY
        nucleus, wholecell = names[0], (names[0],) if cells else ()
        found = "names" if channels.nucleus == GREY else "L"
    else:
        _check_count(mode, names, 3)
        nucleus = _colour(channels.nucleus, "nucleus", names)
        wholecell = (_colour(channels.cell, "cell", names),)
        found = "names"
    update = {"nuclear_channel": nucleus, "wholecell_channel": wholecell, "mode": found}
    return channels.model_copy(update=update)


def has_nuclei(channels: ChannelsConfig) -> bool:
    """Return whether a channel shows nuclei; takes the result of :func:`by_name`."""
    return channels.mode != "L" or channels.nucleus == GREY


def check_channels(config: Config, names: Sequence[str]) -> None:
    """Check that every configured channel exists.

    Raises
    ------
    InputError
        If channels are missing; the message lists all of them.
    """
    channels = by_name(config.channels, names)
    wanted = [
        ("channels.nuclear_channel", channels.nuclear_channel),
        *(("channels.wholecell_channel", name) for name in channels.wholecell_channel),
        *(("profile.channels", name) for name in config.profile.channels or ()),
    ]
    problems = []
    for key, name in wanted:
        try:
            resolve_channel(name, names)
        except InputError as error:
            problems.append(f"{key}: {error}")
    if problems and (
        set(names) == set(COLOURS) or tuple(names) in {(GREY,), ("Channel 0",)}
    ):
        mode = "L" if len(names) == 1 else "RGB"
        problems.append(
            f"For a picture without markers, set channels.mode to {mode} or auto."
        )
    if problems:
        raise InputError("\n".join(problems))


def _mode(channels: ChannelsConfig, names: Sequence[str]) -> str:
    if channels.mode != "auto":
        return channels.mode
    with suppress(InputError):
        resolve_channel(channels.nuclear_channel, names)
        return "names"
    if len(names) == 1:
        return "L"
    unnamed = all(re.fullmatch(r"Channel \d+", name) for name in names)
    is_colour = len(names) == 3 and (unnamed or set(names) == set(COLOURS))
    return "RGB" if is_colour else "names"


def _check_count(mode: str, names: Sequence[str], expected: int) -> None:
    if len(names) != expected:
        fitting = {1: "L", 3: "RGB"}.get(len(names), "names")
        raise InputError(
            f"channels.mode {mode} needs {expected} channel{'s' if expected > 1 else ''}, "
            f"but the image has {len(names)} "
            f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''}). Set "
            f"channels.mode to {fitting} or auto."
        )


def _colour(colour: str, key: str, names: Sequence[str]) -> str:
    if colour not in COLOURS:
        raise ConfigError(
            f"channels.{key} is {colour}, but the image is a colour picture. Use red, "
            f"green or blue, or set channels.mode to L for a grey picture."
        )
    return colour if colour in names else names[COLOURS.index(colour)]
