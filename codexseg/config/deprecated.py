"""Keys that `export.formats` replaces: one switch for each format."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from codexseg.config.fields import EXPORT_FORMATS, ExportFormat

FORMAT_SWITCHES: dict[str, ExportFormat] = {
    "export.csv": "csv",
    "export.h5ad": "h5ad",
    "export.ome_tiff": "ome_tiff",
    "segmentation.save_segmentation_pickle": "pickle",
}

_BOOL = TypeAdapter(bool)


@dataclass(frozen=True)
class FormatSwitch:
    """A deprecated key of a configuration.

    Attributes
    ----------
    key : str
        The key, as section.key.
    value : object
        Its value in the configuration.
    enabled : bool or None
        The value as a boolean; None if it is not one.
    """

    key: str
    value: Any
    enabled: bool | None

    @property
    def advice(self) -> str:
        """The line that replaces the key."""
        name = FORMAT_SWITCHES[self.key]
        change = f"Add {name} to" if self.enabled else f"Remove {name} from"
        return f"{self.key} is deprecated. {change} export.formats instead."


def take_format_switches(data: dict[str, Any]) -> list[FormatSwitch]:
    """Move the deprecated keys of a configuration into `export.formats`.

    Parameters
    ----------
    data : dict
        The sections; changed in place. A switch adds its format to those listed, or
        removes it. Without a list, the formats are the default ones.

    Returns
    -------
    list of FormatSwitch
        The keys that `data` contained.
    """
    switches = list(_pop_switches(data))
    enabled = {FORMAT_SWITCHES[s.key]: s.enabled for s in switches}
    if not switches:
        return []
    section = data.get("export")
    if section is None:
        section = data["export"] = {}
    if not isinstance(section, dict):
        return switches
    formats = section.get("formats", EXPORT_FORMATS)
    if isinstance(formats, str):
        formats = [formats]
    if isinstance(formats, list | tuple):
        removed = [name for name, on in enabled.items() if on is False]
        kept = [name for name in formats if name not in removed]
        added = [name for name, on in enabled.items() if on and name not in kept]
        section["formats"] = kept + added
    return switches


def _pop_switches(data: dict[str, Any]) -> Iterator[FormatSwitch]:
    for key in FORMAT_SWITCHES:
        section, _, name = key.partition(".")
        values = data.get(section)
        if not isinstance(values, dict) or name not in values:
            continue
        value = values.pop(name)
        try:
            yield FormatSwitch(key, value, _BOOL.validate_python(value))
        except ValidationError:
            yield FormatSwitch(key, value, None)
