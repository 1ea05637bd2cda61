"""The table of cells of a run: its channels and columns."""

from collections.abc import Sequence

from codexseg.artifacts.cells import CellTable
from codexseg.artifacts.columns import cell_columns, unique_names
from codexseg.config.schema import ProfileConfig
from codexseg.io.slides.panel import resolve_channel
from codexseg.workflow.stage import StageInputs


def measured_channels(settings: ProfileConfig, names: Sequence[str]) -> dict[str, int]:
    """Return the channels to measure: distinct name and number of each.

    Parameters
    ----------
    settings : ProfileConfig
        The section profile of the configuration.
    names : sequence of str
        Names of the slide's channels.
    """
    distinct = unique_names(names)
    if settings.channels is None:
        return {name: number for number, name in enumerate(distinct)}
    numbers = (resolve_channel(name, tuple(names)) for name in settings.channels)
    return {distinct[number]: number for number in dict.fromkeys(numbers)}


def cell_table(inputs: StageInputs) -> CellTable:
    """Return the table of cells of a run (after profile)."""
    settings = inputs.config.profile
    columns = cell_columns(
        [*measured_channels(settings, inputs.slide.channel_names)],
        settings.statistics,
        solidity=settings.solidity,
        object_columns=dict(inputs.backend.object_columns),
    )
    return CellTable(inputs.records("profile"), columns)
