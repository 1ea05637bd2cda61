"""What a stage is, what its workers are given, and how it visits its patches."""

import csv
import errno
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tqdm import tqdm

from codexseg.config.schema import Config
from codexseg.errors import RunStateError
from codexseg.execution.base import DIED, Executor
from codexseg.run.directory import Arrays, Row, Run, Tables

log = logging.getLogger(__name__)

MOST_WARNINGS = 5
"""Failed patches that are named on the terminal as they are; run.log names all."""

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What the operating system says when a file cannot be written: no patch is to blame."""


@dataclass(frozen=True)
class Source:
    """Where the slide lies and what is known of it. Small: it travels to workers.

    `backend` is the fingerprint of the backend that it is for, `halo_px` and `paired` what
    this one says of itself.
    """

    path: str
    panel: str | None
    shape: tuple[int, int, int]
    channel_names: tuple[str, ...]
    mpp: float
    dtype: str
    fingerprint: str
    backend: str
    halo_px: int
    paired: bool


@dataclass(frozen=True, eq=False)
class Job:
    """What a worker needs to visit a patch: paths and numbers, never arrays.

    Jobs are equal if they read the same files, so what is read can be remembered.
    """

    run: Run
    config: Config
    source: Source
    stage: str
    keys: dict[str, str]

    def __hash__(self) -> int:
        return hash((self.run, *sorted(self.keys.items())))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and (self.run, self.keys) == (other.run, other.keys)

    @property
    def key(self) -> str:
        """The key of this stage."""
        return self.keys[self.stage.partition(".")[0]]

    def at(self, part: str) -> "Job":
        """Return the job of a part of this stage, whose rows lie apart; "": the stage."""
        stage = self.stage.partition(".")[0]
        return replace(self, stage=f"{stage}.{part}" if part else stage)

    def tables(self, stage: str, name: int | str) -> Arrays:
        """Read the tables of an earlier stage, of one patch or of the whole."""
        return self.run.tables(stage, self.keys[stage.partition(".")[0]], name)

    def rows(self, stage: str) -> dict[int, Row]:
        """Read the rows of an earlier stage."""
        return self.run.rows(stage, self.keys[stage])

    def write_tables(self, name: int | str, tables: Tables) -> None:
        """Write tables of this stage."""
        self.run.write_tables(self.stage, self.key, name, tables)


Visit = Callable[[Job, Sequence[int]], Iterator[tuple[int, Row]]]
"""Visits patches in a worker: yields each patch's row once its files are written."""


@dataclass(frozen=True)
class Stage:
    """A named step of a run.

    Attributes
    ----------
    name : str
        Its module, its marker, its word on the command line.
    sections : tuple of str
        The sections of the config that its result depends on.
    reads : tuple of str
        The earlier stages whose results it reads.
    execute : callable
        Does it; returns a small summary for the marker.
    version : int
        Raised when results change for the same config.
    extra : callable
        What else the result depends on.
    """

    name: str
    sections: tuple[str, ...]
    reads: tuple[str, ...]
    execute: Callable[["Context"], Row]
    version: int = 1
    extra: Callable[[Config, Source], Row] = lambda config, source: {}


@dataclass(frozen=True)
class Context:
    """What a stage is given: its job, and where the work runs."""

    job: Job
    executor: Executor

    def map_patches(
        self,
        visit: Visit,
        patches: Iterable[int],
        *,
        unit: str = "patch",
        groups: Callable[[Sequence[int]], Sequence[Sequence[int]]] | None = None,
        tolerant: bool = False,
        part: str = "",
    ) -> dict[int, Row]:
        """Visit every patch not yet done; return the rows of all.

        Parameters
        ----------
        visit : callable
            Picklable. Called with (job, patches).
        patches : iterable of int
            All patches (or other numbered pieces of work) of the stage.
        groups : callable, optional
            Sorts what is to be done into batches; by default each patch is one.
        tolerant : bool
            Turn the failure of a patch into a row, ``{"status": "failed", "note": ...}``,
            which is done again next time. Otherwise the first failure is raised.
        part : str
            Names one of several passes of a stage over its patches.
        """
        job, patches = self.job.at(part), sorted(patches)
        run, stage, key = job.run, job.stage, job.key
        rows = run.rows(stage, key)
        done = {p: row for p, row in rows.items() if run.holds(row)}
        if len(done) < len(rows):
            lost = len(rows) - len(done)
            log.warning("%s: %d done are lost or damaged, made again", stage, lost)
        todo = [
            p
            for p in patches
            if done.get(p, {"status": "failed"}).get("status") == "failed"
        ]
        run.write_total(stage, key, len(patches))
        batches = groups(todo) if groups else [[p] for p in todo]
        bar = tqdm(
            total=len(patches),
            initial=len(patches) - len(todo),
            desc=f"{self.job.stage.partition('.')[0]:8}{part and ' '}{part}",
            unit=unit,
            disable=None if patches else True,
        )
        with bar, Timings(run, stage) as timings:
            function = partial(_visit, visit, job, tolerant=tolerant)
            died = partial(_note_death, job) if tolerant else None
            for times in self.executor.map(function, batches, died=died):
                timings.add(times)
                bar.update(len(times))
        rows = run.rows(stage, key)
        failed = [patch for patch in todo if rows[patch].get("status") == "failed"]
        for count, patch in enumerate(failed):
            level = logging.WARNING if count < MOST_WARNINGS else logging.INFO
            log.log(level, "%s: patch %d failed: %s", stage, patch, rows[patch]["note"])
            log.info("%s", rows[patch]["traceback"])
        return {p: rows[p] for p in patches}


class Timings:
    """Appends to timings.csv: stage, patch, seconds of wall and CPU."""

    def __init__(self, run: Run, stage: str) -> None:
        self._path, self._stage = run.timings_path, stage

    def __enter__(self) -> "Timings":
        is_new = not self._path.exists()
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        if is_new:
            self._writer.writerow(["stage", "patch", "wall_s", "cpu_s"])
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, times: Iterable[tuple[int | str, float, float]]) -> None:
        """Write a line for each patch, or for the whole stage (patch "driver")."""
        for patch, wall, cpu in times:
            self._writer.writerow([self._stage, patch, f"{wall:.3f}", f"{cpu:.3f}"])
        self._file.flush()


def _visit(
    visit: Visit, job: Job, patches: Sequence[int], *, tolerant: bool
) -> list[tuple[int, float, float]]:
    """Visit a batch in a worker; where it fails, each of its patches on its own."""
    key, times = job.key, []
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        for patch, row in visit(job, patches):
            job.run.write_row(job.stage, key, patch, {"patch": patch, **row})
            now = time.perf_counter(), time.process_time()
            times.append((patch, now[0] - wall, now[1] - cpu))
            wall, cpu = now
    except (Exception, SystemExit) as error:
        if _is_disk_trouble(error) or isinstance(error, RunStateError) or not tolerant:
            error.add_note(
                f"in stage {job.stage!r}, patch {_names(patches)}, of {job.run.path}"
            )
            raise
        left = [p for p in patches if p not in {patch for patch, _, _ in times}]
        if len(patches) > 1:
            return times + [t for p in left for t in _visit(visit, job, [p], tolerant=True)]
        _write_failure(job, left[0], _words(error), traceback.format_exc())
        times.append((left[0], time.perf_counter() - wall, time.process_time() - cpu))
    return times


def _note_death(job: Job, patches: Sequence[int]) -> list[list[int]]:
    """Have a batch that killed its worker done patch by patch; note a patch that did."""
    if len(patches) > 1:
        return [[patch] for patch in patches]
    _write_failure(job, patches[0], f"WorkerDied: {DIED}", "")
    return []


def _write_failure(job: Job, patch: int, note: str, trace: str) -> None:
    texts = {"note": note, "traceback": trace}
    clean = {k: t.encode("utf-8", "backslashreplace").decode() for k, t in texts.items()}
    row = {"patch": patch, "status": "failed", **clean}
    job.run.write_row(job.stage, job.key, patch, row)


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an error that cannot even be printed
        return type(error).__name__


def _is_disk_trouble(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_TROUBLE


def _names(patches: Sequence[int]) -> str:
    return ", ".join(map(str, patches))
