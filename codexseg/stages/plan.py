"""The plan of a run: the stages, their keys, which are up to date, and why not.

The key of a stage is the hash of everything that its result depends on: name and version,
its sections of the configuration, facts about backend or slide, and the keys of the stages
that it reads. The marker stores all of that, so the status names the cause of a change.
"""

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from codexseg.artifacts.manifest import RunManifest, read_manifest
from codexseg.artifacts.patches import PATCHES_METADATA
from codexseg.config.schema import Config
from codexseg.errors import ConfigError, RunStateError
from codexseg.execution.base import Executor
from codexseg.io.slides.record import SlideRecord
from codexseg.run.directory import Run, digest
from codexseg.run.records import Record
from codexseg.stages import export, flag, load, patch, profile, repair, report
from codexseg.stages.segment import stage as segment
from codexseg.stages.segment.backend import make_backend, record_backend
from codexseg.stages.segment.passes import slide_pass_progress
from codexseg.stages.stitch import stage as stitch
from codexseg.workflow.cache_keys import section_in_key
from codexseg.workflow.stage import BackendRecord, Stage, StageContext, StageInputs
from codexseg.workflow.timings import DRIVER, Timings
from codexseg.workflow.worker import forget_worker_state

log = logging.getLogger(__name__)

STAGES: tuple[Stage, ...] = (
    load.STAGE,
    patch.STAGE,
    flag.STAGE,
    segment.STAGE,
    stitch.STAGE,
    repair.STAGE,
    profile.STAGE,
    export.STAGE,
    report.STAGE,
)
NAMES = tuple(stage.name for stage in STAGES)

_CHANGED = " has changed"

State = Literal["done", "stale", "missing"]


@dataclass(frozen=True)
class Status:
    """State of a stage.

    Attributes
    ----------
    stage : str
        Its name.
    state : {"done", "stale", "missing"}
        Whether its result is up to date.
    why : str
        Cause of a stale state, or progress.
    finished, total : int, int or None
        Number of finished and of all patches.
    summary : dict or None
        Summary of the last execution.
    """

    stage: str
    state: State
    why: str = ""
    finished: int = 0
    total: int | None = None
    summary: Record | None = None


@dataclass(frozen=True)
class RunPlan:
    """The stages of one run with one configuration.

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
    """

    run: Run
    config: Config
    slide: SlideRecord
    backend: BackendRecord

    def cache_inputs(self) -> Iterator[tuple[Stage, Record]]:
        """Yield each stage with everything that its result depends on."""
        tokens: dict[str, str] = {}
        for stage in STAGES:
            config = {name: section_in_key(self.config, name) for name in stage.sections}
            payload: Record = {
                "stage": stage.name,
                "version": stage.version,
                "config": config,
                "extra": stage.extra(self.config, self.slide, self.backend),
                "reads": {name: tokens[name] for name in stage.reads},
            }
            yield stage, payload
            tokens[stage.name] = self._token(stage, digest(payload))

    def status(self) -> list[Status]:
        """Return the state of each stage, with its cause."""
        statuses: list[Status] = []
        pending: set[str] = set()
        for stage, payload in self.cache_inputs():
            status = self._status(stage, payload, pending)
            if status.state != "done":
                pending.add(stage.name)
            statuses.append(status)
        return statuses

    def completed_keys(self) -> dict[str, str]:
        """Return the keys of the stages that are up to date, in order.

        A stage with failed patches counts: its results name the gaps.
        """
        keys: dict[str, str] = {}
        for stage, payload in self.cache_inputs():
            key, marker = digest(payload), self.run.marker(stage.name)
            if marker is None or marker["key"] != key:
                break
            keys[stage.name] = key
        return keys

    def readable_keys(self) -> dict[str, str]:
        """Return the keys of all stages with results for this configuration.

        As :meth:`completed_keys`, but results of an earlier version count: they are valid,
        although the next execution computes them again.
        """
        keys = self.completed_keys()
        if "segment" not in keys:
            return keys
        for stage, payload in self.cache_inputs():
            marker = self.run.marker(stage.name)
            if stage.name in keys or marker is None:
                continue
            recorded = marker["depends_on"]
            is_earlier = recorded["version"] < stage.version
            if is_earlier and _same_config(recorded, payload) and self._fits(recorded):
                keys[stage.name] = marker["key"]
        return keys

    def _fits(self, recorded: Record) -> bool:
        """Return whether the stages that a result was made from are unchanged."""
        markers = {name: self.run.marker(name) for name in recorded["reads"]}
        return all(
            marker is not None and _token(marker) == recorded["reads"][name]
            for name, marker in markers.items()
        )

    def inputs(self, stage: str, keys: dict[str, str]) -> StageInputs:
        """Return the inputs of the workers of a stage."""
        return StageInputs(self.run, self.config, self.slide, self.backend, stage, keys)

    def execute(
        self,
        executor: Executor,
        *,
        from_stage: str | None = None,
        until: str | None = None,
        force: str | None = None,
    ) -> list[Status]:
        """Execute every stage that is not up to date, in order; return all states.

        Raises
        ------
        ConfigError
            If a stage does not exist, or `from_stage` comes after `until`.
        RunStateError
            If a stage before `from_stage` is not up to date.
        """
        self._prepare(from_stage, until, force)
        keys: dict[str, str] = {}
        for stage, payload in self.cache_inputs():
            keys[stage.name] = digest(payload)
            if self._status(stage, payload, set()).state == "done":
                log.info("%s: up to date", stage.name)
            else:
                if self._damage(stage.name):
                    self.run.forget(stage.name)
                self._execute_stage(stage, payload, dict(keys), executor)
            if stage.name == until:
                break
        return self.status()

    def _execute_stage(
        self, stage: Stage, payload: Record, keys: dict[str, str], executor: Executor
    ) -> None:
        key = keys[stage.name]
        self.run.begin(stage.name, key)
        if NAMES.index(stage.name) >= NAMES.index("stitch"):
            self._drop_outdated(stage.name)
        forget_worker_state()
        started, wall, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
        log.info("%s: begins", stage.name)
        summary = stage.execute(StageContext(self.inputs(stage.name, keys), executor))
        seconds = time.perf_counter() - wall
        written = summary.get("written", [])
        self.run.commit(
            stage.name,
            {
                "key": key,
                "depends_on": payload,
                "summary": summary,
                "started": started.isoformat(timespec="seconds"),
                "wall_s": round(seconds, 3),
                "files": {
                    name: self.run.footprint(name)
                    for name in (*written, *self.run.work_folders(stage.name, key))
                },
                "sha256": {name: self.run.checksum(name) for name in written},
            },
        )
        with Timings(self.run.timings_path, stage.name) as timings:
            timings.add([(DRIVER, seconds, time.process_time() - cpu)])
        log.info("%s: done in %.1f s: %s", stage.name, seconds, _describe(summary))

    def _prepare(
        self, from_stage: str | None, until: str | None, force: str | None
    ) -> None:
        for option, name in (
            ("--from", from_stage),
            ("--until", until),
            ("--force", force),
        ):
            if name is not None and name not in NAMES:
                raise ConfigError(
                    f"{option} {name}: unknown stage. Use one of {', '.join(NAMES)}."
                )
        for option, name in (("--from", from_stage), ("--force", force)):
            if name and until and NAMES.index(until) < NAMES.index(name):
                raise ConfigError(
                    f"{option} {name} comes after --until {until}. Choose an earlier stage."
                )
        if from_stage is not None:
            start = NAMES.index(from_stage)
            for status in self.status()[:start]:
                if status.state != "done":
                    why = f" ({status.why})" if status.why else ""
                    raise RunStateError(
                        f"--from {from_stage}: the earlier stage {status.stage} is "
                        f"{status.state}{why}. Use --from {status.stage}, or omit --from."
                    )
            for name in NAMES[start:]:
                self.run.forget(name)
        if force is not None:
            self.run.forget(force)

    def _status(self, stage: Stage, payload: Record, pending: set[str]) -> Status:
        marker = self.run.marker(stage.name)
        finished, total = self.run.records(stage.name, digest(payload)).progress()
        if marker is None:
            under_way = stage is segment.STAGE and not finished
            why = slide_pass_progress(self.run) if under_way else ""
            return Status(stage.name, "missing", why, finished, total)
        summary = marker["summary"]
        why = _first_causes(_differences(marker["depends_on"], payload, stage))
        failed = summary.get("failed") or []
        waits = sorted(set(stage.reads) & pending, key=NAMES.index)
        if not why:
            why = self._damage(stage.name)
        if not why and failed:
            more = ", ..." if len(failed) > 10 else ""
            why = f"{len(failed)} patches failed: {', '.join(map(str, failed[:10]))}{more}"
        if not why and waits:
            why = f"{waits[0]} comes first"
        state: State = "stale" if why else "done"
        return Status(stage.name, state, why, finished, total, summary)

    def _drop_outdated(self, stage: str) -> None:
        """Remove files that later stages wrote for other labels."""
        for later, payload in self.cache_inputs():
            marker = self.run.marker(later.name)
            if NAMES.index(later.name) <= NAMES.index(stage) or marker is None:
                continue
            if marker["key"] != digest(payload):
                for name in set(marker["summary"].get("written", [])) - {PATCHES_METADATA}:
                    path = self.run.path / name
                    if not path.is_dir():  # label images are written again core by core
                        path.unlink(missing_ok=True)

    def _damage(self, stage: str) -> str:
        """Name the changed or missing files of a finished stage; "" if there are none."""
        marker = self.run.marker(stage) or {}
        changed = [
            name
            for name, footprint in marker.get("files", {}).items()
            if self.run.footprint(name) != tuple(footprint)
        ]
        return f"{', '.join(changed)} missing or changed" if changed else ""

    def _token(self, stage: Stage, key: str) -> str:
        """Return the identity of a stage's result: its key, with its failed patches."""
        marker = self.run.marker(stage.name)
        return key if marker is None or marker["key"] != key else _token(marker)


def find_own_backend(config: Config, config_path: str | Path | None) -> None:
    """Make a module beside the configuration importable for 'module:Class' backends."""
    if ":" in config.segmentation.backend and config_path is not None:
        folder = str(Path(config_path).parent)
        if folder not in sys.path:
            sys.path.append(folder)


def load_plan(run: Run) -> RunPlan:
    """Return the plan of a run with the configuration and slide of its manifest.

    The slide is not opened: the status of a run is available without it.

    Raises
    ------
    RunStateError
        If the directory contains no run.
    """
    manifest = read_manifest(run)
    if not manifest.result:
        raise RunStateError(
            f"{run.path} holds no run (no manifest.json). Choose a directory that "
            f"codexseg run has written."
        )
    try:
        config = Config.model_validate(manifest.config)
    except ValidationError as error:
        raise RunStateError(
            f"{run.path} was created with configuration keys that this version does not "
            f"support ({error.error_count()} errors, first: {error.errors()[0]['loc']}). "
            f"Run it again with a configuration that codexseg config check accepts."
        ) from error
    find_own_backend(config, manifest.execution.get("config_path"))
    slide = manifest.slide
    return RunPlan(run, config, slide, _recorded_backend(manifest, config, slide))


def _recorded_backend(
    manifest: RunManifest, config: Config, slide: SlideRecord
) -> BackendRecord:
    """Return the backend of a run; its weights need not be available."""
    known = manifest.result.get("backend")
    if known is None:  # of version 0.1.0
        return record_backend(make_backend(config, slide.shape[1:], slide.mpp))
    return BackendRecord(
        known["fingerprint"],
        known["halo_px"],
        known["paired"],
        known.get("object_columns", {}),
    )


def _token(marker: Record) -> str:
    key: str = marker["key"]
    failed = marker["summary"].get("failed")
    return digest({"key": key, "failed": failed}) if failed else key


def _same_config(recorded: Record, payload: Record) -> bool:
    """Return whether the settings that both versions of a stage read are equal."""
    old, new = recorded["config"], payload["config"]
    return all(old[name] == new[name] for name in old.keys() & new.keys())


def _differences(old: Record, new: Record, stage: Stage) -> list[str]:
    """Describe the causes of a changed key."""
    if old["version"] != new["version"]:
        versions = range(old["version"] + 1, stage.version + 1)
        reasons = [stage.changes[v] for v in versions if v in stage.changes]
        return ["; ".join(reasons) or f"version {old['version']} -> {new['version']}"]
    return _changed_keys(old, new)


def _changed_keys(old: Any, new: Any, path: str = "") -> list[str]:
    """Describe how two payloads differ, key by key."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            d for k in keys for d in _changed_keys(old.get(k), new.get(k), f"{path}.{k}")
        ]
    if old == new:
        return []
    name = path.removeprefix(".").removeprefix("config.").removeprefix("extra.")
    if name.startswith("reads."):
        return [name.removeprefix("reads.") + _CHANGED]
    if name == "fingerprint":
        return ["the slide has changed"]
    return [f"{name} {old!r} -> {new!r}"]


def _first_causes(causes: list[str]) -> str:
    """Omit changes of earlier stages unless they are the only cause."""
    own = [cause for cause in causes if not cause.endswith(_CHANGED)]
    earlier = sorted(set(causes) - set(own), key=lambda c: NAMES.index(c.split()[0]))
    return "; ".join(own or earlier[:1])


def _describe(summary: Record) -> str:
    return ", ".join(f"{k} {v}" for k, v in summary.items() if v not in ([], None, {}))
