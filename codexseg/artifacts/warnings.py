"""Warnings of a run: shown by the terminal, ``status``, the manifest and the report."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codexseg.run.files import write_atomic
from codexseg.run.records import read_json

log = logging.getLogger(__name__)

WARNINGS = "warnings.json"


@dataclass(frozen=True)
class RunWarning:
    """A doubt about the input or the result of a run.

    Attributes
    ----------
    code : str
        Stable identifier, e.g. "unlikely_pixel_size".
    value : str, int, float, list or None
        The value that caused it.
    setting : str or None
        Configuration key that changes it.
    message : str
        One or two sentences: fact, expectation, remedy.
    """

    code: str
    value: Any
    setting: str | None
    message: str

    def log(self) -> "RunWarning":
        """Show the warning on the terminal and in run.log; return it."""
        log.warning("%s", self.message)
        return self


def as_json(warnings: Iterable[RunWarning]) -> list[dict[str, Any]]:
    """Return warnings as JSON-able dicts, each code and value once, in order."""
    found: dict[str, dict[str, Any]] = {}
    for warning in warnings:
        found.setdefault(f"{warning.code} {warning.value!r}", asdict(warning))
    return list(found.values())


def write_warnings(run: Path, warnings: Iterable[RunWarning]) -> None:
    """Write ``warnings.json`` into a run directory."""
    content = {"warnings": as_json(warnings)}
    text = json.dumps(content, indent=2, default=str)
    path = run / WARNINGS
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text)


def read_warnings(run: Path) -> list[RunWarning]:
    """Read ``warnings.json`` of a run; no warnings where the file is missing."""
    content = read_json(run / WARNINGS) or {}
    return [RunWarning(**entry) for entry in content.get("warnings", [])]
