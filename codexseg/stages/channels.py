"""Which channels are segmented: by name, or as a grey or a colour picture.

For pictures: a colour picture shows cells in green and nuclei in blue, a grey one cells
alone; the rule of many entries to the NeurIPS 2022 cell segmentation challenge.
"""

import re
from collections.abc import Sequence

from codexseg.config.schema import ChannelsConfig, Config
from codexseg.errors import ConfigError, InputError
from codexseg.io.slides.panel import resolve_channel

COLOURS = ("red", "green", "blue")
GREY = "grey"


def with_channels_by_name(config: Config, names: Sequence[str]) -> Config:
    """Return a configuration whose channels are named, as the slide calls them."""
    channels = by_name(config.channels, names)
    return config.model_copy(update={"channels": channels})


def by_name(channels: ChannelsConfig, names: Sequence[str]) -> ChannelsConfig:
    """Turn the colours of a picture into the names of channels.

    Parameters
    ----------
    channels : ChannelsConfig
        Of any mode.
    names : sequence of str
        Of the slide's channels.

    Returns
    -------
    ChannelsConfig
        Of mode "names"; of mode "L" for a grey picture without nuclei, whose nuclear
        channel stands in for what there is not. Doing it again changes nothing.

    Raises
    ------
    InputError
        If the slide has not the channels of the mode.
    ConfigError
        If a colour is asked for that a picture of the mode has not.
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
    """Whether nuclei are shown; asked of what :func:`by_name` returns."""
    return channels.mode != "L" or channels.nucleus == GREY


def check_channels(config: Config, names: Sequence[str]) -> None:
    """Look every configured channel up, and name all that are not there at once.

    Raises
    ------
    InputError
        If one is not there.
    """
    channels = by_name(config.channels, names)
    wanted = [("channels.nuclear_channel", channels.nuclear_channel)]
    for key, listed in (
        ("channels.wholecell_channel", channels.wholecell_channel),
        ("profile.channels", config.profile.channels or ()),
    ):
        wanted += [(key, name) for name in listed]
    problems = []
    for key, name in wanted:
        try:
            resolve_channel(name, tuple(names))
        except InputError as error:
            problems.append(f"{key}: {error}")
    if problems and (
        set(names) == set(COLOURS) or tuple(names) in {(GREY,), ("Channel 0",)}
    ):
        mode = "L" if len(names) == 1 else "RGB"
        problems.append(
            f"If it is a picture without markers, set channels.mode to {mode}, or to auto."
        )
    if problems:
        raise InputError("\n".join(problems))


def _mode(channels: ChannelsConfig, names: Sequence[str]) -> str:
    if channels.mode != "auto" or _is_there(channels.nuclear_channel, names):
        return "names" if channels.mode == "auto" else channels.mode
    if len(names) == 1:
        return "L"
    unnamed = all(re.fullmatch(r"Channel \d+", name) for name in names)
    is_colour = len(names) == 3 and (unnamed or set(names) == set(COLOURS))
    return "RGB" if is_colour else "names"


def _is_there(name: str, names: Sequence[str]) -> bool:
    try:
        resolve_channel(name, tuple(names))
    except InputError:
        return False
    return True


def _check_count(mode: str, names: Sequence[str], expected: int) -> None:
    if len(names) != expected:
        other = {1: "L", 3: "RGB"}.get(len(names), "names")
        raise InputError(
            f"channels.mode {mode} is for images of {expected} channel"
            f"{'s' if expected > 1 else ''}, and this one has {len(names)} "
            f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''}): set it to "
            f"{other}, or to auto."
        )


def _colour(colour: str, key: str, names: Sequence[str]) -> str:
    if colour not in COLOURS:
        raise ConfigError(
            f"channels.{key} is {colour}, and the image is a colour picture: expected red, "
            f"green or blue, or channels.mode L for a grey one."
        )
    return colour if colour in names else names[COLOURS.index(colour)]
