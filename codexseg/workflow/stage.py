"""A stage of a run: declaration, inputs of its workers, and the map over patches."""

import errno
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from tqdm import tqdm

from codexseg.config.schema import Config
from codexseg.errors import RunStateError, describe_error
from codexseg.execution.base import DIED, Executor
from codexseg.io.slides.record import SlideRecord
from codexseg.run.directory import Run, digest
from codexseg.run.records import Record, StageRecords
from codexseg.workflow.timings import Timings

log = logging.getLogger(__name__)

MAX_WARNINGS = 5
"""Number of failed patches that are logged as warnings; run.log lists all."""

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Errors of the file system. They end the run: no patch caused them."""


@dataclass(frozen=True)
class BackendRecord:
    """Facts about the backend of a run.

    Attributes
    ----------
    fingerprint : str
        Identity of weights and version.
    halo_px : int
        Margin that it needs around a core, px.
    paired : bool
        Whether equal labels of a cell and a nucleus make them a pair.
    object_columns : mapping of str to str
        Per-object columns that it returns beside the labels: name to dtype.
    """

    fingerprint: str
    halo_px: int
    paired: bool
    object_columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StageInputs:
    """Everything that a worker needs to open its inputs: paths and numbers, no arrays.

    Attributes
    ----------
    run : Run
        The run directory.
    config : Config
        The configuration, with channels by name.
    slide : SlideRecord
        The slide.
    backend : BackendRecord
        The backend.
    stage : str
        The stage, or ``stage.part`` for one of its passes.
    keys : dict of str to str
        Keys of this stage and of the stages before it.
    """

    run: Run
    config: Config
    slide: SlideRecord
    backend: BackendRecord
    stage: str
    keys: dict[str, str]

    @property
    def key(self) -> str:
        """The key of this stage."""
        return self.keys[self.stage.partition(".")[0]]

    @property
    def paired_by_label(self) -> bool:
        """Whether equal labels pair cells and nuclei, and not their overlap."""
        return self.backend.paired or self.config.segmentation.compartment == "nuclear"

    @property
    def own(self) -> StageRecords:
        """Records of this stage or pass."""
        return StageRecords(self.run.path, self.stage, self.key)

    def part(self, name: str) -> "StageInputs":
        """Return the inputs of a pass of this stage; "" for the stage itself."""
        stage = self.stage.partition(".")[0]
        wanted = f"{stage}.{name}" if name else stage
        return self if wanted == self.stage else replace(self, stage=wanted)

    def records(self, stage: str) -> StageRecords:
        """Return the records of another stage."""
        return StageRecords(self.run.path, stage, self.keys[stage.partition(".")[0]])

    @cached_property
    def token(self) -> str:
        """Identity of these inputs: equal inputs open equal things."""
        return digest(
            {
                "run": str(self.run.path),
                "config": self.config.model_dump(mode="json"),
                "slide": self.slide.describe() | self.slide.locate(),
                "backend": repr(self.backend),
                "keys": self.keys,
            }
        )

    def __hash__(self) -> int:
        return hash(self.token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StageInputs) and (self.stage, self.token) == (
            other.stage,
            other.token,
        )


Finished = Iterator[tuple[int, Record]]
"""Number and record of each finished patch."""
Visit = Callable[[StageInputs, Sequence[int]], Finished]
"""Processes patches in a worker: yields the record of each once its files are written."""


@dataclass(frozen=True)
class Stage:
    """A named step of a run.

    Attributes
    ----------
    name : str
        Name of its module, its marker and its word on the command line.
    sections : tuple of str
        Sections of the configuration that its result depends on.
    reads : tuple of str
        Earlier stages whose results it reads.
    execute : callable
        Executes it; returns a small summary for the marker.
    version : int
        Raised when results or files change for the same configuration.
    changes : mapping of int to str
        Reason for each raise of the version, shown by ``status``.
    extra : callable
        Further values that the result depends on.
    """

    name: str
    sections: tuple[str, ...]
    reads: tuple[str, ...]
    execute: Callable[["StageContext"], Record]
    version: int = 1
    changes: Mapping[int, str] = field(default_factory=dict)
    extra: Callable[[Config, SlideRecord, BackendRecord], Record] = lambda *_: {}


@dataclass(frozen=True)
class StageContext:
    """Arguments of a stage: the inputs of its workers, and the executor."""

    inputs: StageInputs
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
    ) -> dict[int, Record]:
        """Process every patch that is not finished; return the records of all.

        Parameters
        ----------
        visit : callable
            Picklable. Called with (inputs, patches).
        patches : iterable of int
            Numbers of all patches, or other items, of the stage.
        unit : str
            Name of an item in the progress bar.
        groups : callable, optional
            Sorts the unfinished patches into batches; by default each is one.
        tolerant : bool
            Record the failure of a patch, ``{"status": "failed", "note": ...}``, and try
            it again in the next run. Otherwise the first failure is raised.
        part : str
            Name of the pass, if the stage has several.
        """
        inputs, patches = self.inputs.part(part), sorted(patches)
        own = inputs.own
        todo = _unfinished(own, patches)
        own.write_total(len(patches))
        batches = groups(todo) if groups else [[patch] for patch in todo]
        bar = tqdm(
            total=len(patches),
            initial=len(patches) - len(todo),
            desc=f"{self.inputs.stage.partition('.')[0]:8}{part and ' '}{part}",
            unit=unit,
            disable=None if patches else True,
        )
        with bar, Timings(inputs.run.timings_path, inputs.stage) as timings:
            function = partial(_visit, visit, inputs, tolerant=tolerant)
            died = partial(_record_death, own) if tolerant else None
            for times in self.executor.map(function, batches, died=died):
                timings.add(times)
                bar.update(len(times))
        records = own.read_all()
        _log_failures(inputs.stage, {patch: records[patch] for patch in todo})
        return {patch: records[patch] for patch in patches}


def _unfinished(own: StageRecords, patches: Sequence[int]) -> list[int]:
    records = own.read_all()
    intact = {patch for patch, record in records.items() if own.is_intact(record)}
    if len(intact) < len(records):
        log.warning(
            "%s: the files of %d finished items are missing or damaged and are recomputed.",
            own.stage,
            len(records) - len(intact),
        )
    return [p for p in patches if p not in intact or records[p].get("status") == "failed"]


def _log_failures(stage: str, records: Mapping[int, Record]) -> None:
    failed = [p for p, record in records.items() if record.get("status") == "failed"]
    for count, patch in enumerate(failed):
        level = logging.WARNING if count < MAX_WARNINGS else logging.INFO
        log.log(level, "%s: patch %d failed: %s", stage, patch, records[patch]["note"])
        log.info("%s", records[patch]["traceback"])


def _visit(
    visit: Visit, inputs: StageInputs, patches: Sequence[int], *, tolerant: bool
) -> list[tuple[int, float, float]]:
    """Process a batch in a worker; if it fails, process its patches one by one."""
    own, times = inputs.own, []
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        for patch, record in visit(inputs, patches):
            own.write(patch, {"patch": patch, **record})
            now = time.perf_counter(), time.process_time()
            times.append((patch, now[0] - wall, now[1] - cpu))
            wall, cpu = now
    except (Exception, SystemExit) as error:
        is_disk_error = isinstance(error, OSError) and error.errno in DISK_ERRORS
        if is_disk_error or isinstance(error, RunStateError) or not tolerant:
            numbers = ", ".join(map(str, patches))
            error.add_note(
                f"in stage {inputs.stage!r}, patch {numbers}, of {inputs.run.path}"
            )
            raise
        left = [p for p in patches if p not in {patch for patch, _, _ in times}]
        if len(patches) > 1:
            return times + [
                t for p in left for t in _visit(visit, inputs, [p], tolerant=True)
            ]
        _record_failure(own, left[0], describe_error(error), traceback.format_exc())
        times.append((left[0], time.perf_counter() - wall, time.process_time() - cpu))
    return times


def _record_death(own: StageRecords, patches: Sequence[int]) -> list[list[int]]:
    """Split a batch that killed its worker; record the failure of a single patch."""
    if len(patches) > 1:
        return [[patch] for patch in patches]
    _record_failure(own, patches[0], f"WorkerDied: {DIED}", "")
    return []


def _record_failure(own: StageRecords, patch: int, note: str, trace: str) -> None:
    texts = {"note": note, "traceback": trace}
    clean = {k: t.encode("utf-8", "backslashreplace").decode() for k, t in texts.items()}
    own.write(patch, {"patch": patch, "status": "failed", **clean})
