"""Seconds of stages and patches: ``timings.csv``."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from codexseg.artifacts.columns import TIMING_COLUMNS, names_of

DRIVER = "driver"
"""In place of a patch number: the line of the whole stage."""
# Version 0.1.0 called the slide passes surveys.
SLIDE_PASS_STAGES = ("slide_pass", "survey")


class Timings:
    """Append wall and CPU seconds to a CSV file.

    Parameters
    ----------
    path : Path
        The file; created with its header if it is missing.
    stage : str
        The stage, or ``stage.part``.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self._path, self._stage = path, stage

    def __enter__(self) -> "Timings":
        is_new = not self._path.exists()
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        if is_new:
            self._writer.writerow(names_of(TIMING_COLUMNS))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, times: Iterable[tuple[int | str, float, float]]) -> None:
        """Write one line per (patch, wall seconds, CPU seconds)."""
        for patch, wall, cpu in times:
            self._writer.writerow([self._stage, patch, f"{wall:.3f}", f"{cpu:.3f}"])
        self._file.flush()


def stage_times(path: Path) -> dict[str, tuple[float, float]]:
    """Read wall and CPU seconds of the last execution of each stage.

    The line of the driver ends a stage. If the driver processed the patches itself, its
    CPU seconds include theirs; otherwise those of the workers are added.
    """
    times: dict[str, tuple[float, float]] = {}
    patches: dict[str, float] = {}
    for part, patch, wall, cpu in _lines(path):
        name = part.partition(".")[0]
        stage = "segment" if name in SLIDE_PASS_STAGES else name
        if patch == DRIVER:
            workers = patches.pop(stage, 0.0)
            times[stage] = wall, cpu if cpu >= workers else cpu + workers
        else:
            patches[stage] = patches.get(stage, 0.0) + cpu
    return times


def _lines(path: Path) -> Iterator[tuple[str, str, float, float]]:
    """Yield the lines; an unfinished line of a killed run is skipped."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.reader(file):
            try:
                stage, patch, wall, cpu = line
                yield stage, patch, float(wall), float(cpu)
            except ValueError:
                continue
