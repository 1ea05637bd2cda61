"""The chain of stages: what each depends on, which are done, and doing the others.

A stage's key is the hash of what its result depends on: its name and version, its
sections of the config, what it says of backend or slide, and the keys of the stages it
reads. The marker keeps all of that, so a stale stage can say why.
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

from codexseg.config.schema import Config
from codexseg.errors import ConfigError, RunStateError
from codexseg.execution.base import Executor
from codexseg.run.directory import Row, Run, digest
from codexseg.stages import (
    export,
    flag,
    load,
    patch,
    profile,
    repair,
    report,
    segment,
    stitch,
)
from codexseg.stages.base import Context, Job, Source, Stage, Timings
from codexseg.stages.keys import section_in_key
from codexseg.stages.metadata import METADATA
from codexseg.stages.pixels import backend_facts, make_backend
from codexseg.stages.surveys import slide_pass_progress

log = logging.getLogger(__name__)

STAGES: tuple[Stage, ...] = (
    load.STAGE,
    patch.STAGE,
    flag.STAGE,
    segment.STAGE,
    repair.STAGE,
    stitch.STAGE,
    profile.STAGE,
    export.STAGE,
    report.STAGE,
)
NAMES = tuple(stage.name for stage in STAGES)

_CHANGED = " has changed"

State = Literal["done", "stale", "missing"]


@dataclass(frozen=True)
class Status:
    """What a stage has done: `done`, `stale` (and why) or `missing`."""

    stage: str
    state: State
    why: str = ""
    finished: int = 0
    total: int | None = None
    summary: Row | None = None


@dataclass(frozen=True)
class Chain:
    """The stages of one run with one config."""

    run: Run
    config: Config
    source: Source

    def payloads(self) -> Iterator[tuple[Stage, Row]]:
        """Yield each stage with everything that its result depends on."""
        tokens: dict[str, str] = {}
        for stage in STAGES:
            config = {name: section_in_key(self.config, name) for name in stage.sections}
            payload: Row = {
                "stage": stage.name,
                "version": stage.version,
                "config": config,
                "extra": stage.extra(self.config, self.source),
                "reads": {name: tokens[name] for name in stage.reads},
            }
            yield stage, payload
            tokens[stage.name] = self._token(stage, digest(payload))

    def status(self) -> list[Status]:
        """Say of each stage whether it is done, and if not, why."""
        found: list[Status] = []
        pending: set[str] = set()
        for stage, payload in self.payloads():
            status = self._status(stage, payload, pending)
            if status.state != "done":
                pending.add(stage.name)
            found.append(status)
        return found

    def keys_done(self) -> dict[str, str]:
        """Return the keys of the stages that are done and up to date, in order.

        A stage in which patches failed counts: its results have holes, and say so.
        """
        keys: dict[str, str] = {}
        for stage, payload in self.payloads():
            key, marker = digest(payload), self.run.marker(stage.name)
            if marker is None or marker["key"] != key:
                break
            keys[stage.name] = key
        return keys

    def execute(
        self,
        executor: Executor,
        *,
        from_stage: str | None = None,
        until: str | None = None,
        force: str | None = None,
    ) -> list[Status]:
        """Do every stage that is not done, in order; return what became of each.

        Raises
        ------
        ConfigError
            If a stage has no such name, or `from_stage` comes after `until`.
        RunStateError
            If a stage before `from_stage` is not done.
        """
        self._prepare(from_stage, until, force)
        keys: dict[str, str] = {}
        for stage, payload in self.payloads():
            keys[stage.name] = digest(payload)
            if self._status(stage, payload, set()).state == "done":
                log.info("%s: up to date", stage.name)
            else:
                if self._damage(stage.name):
                    self.run.forget(stage.name)
                self._do(stage, payload, keys, executor)
            if stage.name == until:
                break
        return self.status()

    def _do(
        self, stage: Stage, payload: Row, keys: dict[str, str], executor: Executor
    ) -> None:
        key = keys[stage.name]
        self.run.begin(stage.name, key)
        if NAMES.index(stage.name) >= NAMES.index("stitch"):
            self._drop_outdated(stage.name)
        started, wall, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
        log.info("%s: begins", stage.name)
        job = Job(self.run, self.config, self.source, stage.name, dict(keys))
        summary = stage.execute(Context(job, executor))
        seconds = time.perf_counter() - wall
        record = {
            "key": key,
            "depends_on": payload,
            "summary": summary,
            "started": started.isoformat(timespec="seconds"),
            "wall_s": round(seconds, 3),
            "files": {
                name: self.run.footprint(name)
                for name in (
                    *summary.get("written", []),
                    *self.run.work_folders(stage.name, key),
                )
            },
        }
        self.run.commit(stage.name, record)
        with Timings(self.run, stage.name) as timings:
            timings.add([("driver", seconds, time.process_time() - cpu)])
        log.info("%s: done in %.1f s: %s", stage.name, seconds, _words(summary))

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
                    f"{option} {name}: there is no such stage, expected one of "
                    f"{', '.join(NAMES)}."
                )
        for option, name in (("--from", from_stage), ("--force", force)):
            if name and until and NAMES.index(until) < NAMES.index(name):
                raise ConfigError(
                    f"{option} {name}: the stage comes after --until {until}, expected one "
                    f"before it."
                )
        if from_stage is not None:
            start = NAMES.index(from_stage)
            for status in self.status()[:start]:
                if status.state != "done":
                    why = f" ({status.why})" if status.why else ""
                    raise RunStateError(
                        f"--from {from_stage}: the earlier stage {status.stage} is "
                        f"{status.state}{why}, expected it to be done; use "
                        f"--from {status.stage}, or leave --from out."
                    )
            for name in NAMES[start:]:
                self.run.forget(name)
        if force is not None:
            self.run.forget(force)

    def _status(self, stage: Stage, payload: Row, pending: set[str]) -> Status:
        marker = self.run.marker(stage.name)
        finished, total = self.run.progress(stage.name, digest(payload))
        if marker is None:
            under_way = stage is segment.STAGE and not finished
            why = slide_pass_progress(self.run) if under_way else ""
            return Status(stage.name, "missing", why, finished, total)
        summary = marker["summary"]
        why = _first_causes(differences(marker["depends_on"], payload))
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
        """Remove what later stages wrote for other labels than those that come now."""
        for later, payload in self.payloads():
            marker = self.run.marker(later.name)
            if NAMES.index(later.name) <= NAMES.index(stage) or marker is None:
                continue
            if marker["key"] != digest(payload):
                for name in set(marker["summary"].get("written", [])) - {METADATA}:
                    (self.run.path / name).unlink(missing_ok=True)

    def _damage(self, stage: str) -> str:
        """Say which files of a finished stage are not as it left them; empty: none."""
        marker = self.run.marker(stage) or {}
        changed = [
            name
            for name, footprint in marker.get("files", {}).items()
            if self.run.footprint(name) != tuple(footprint)
        ]
        return f"{', '.join(changed)} missing or changed" if changed else ""

    def _token(self, stage: Stage, key: str) -> str:
        """Name a stage's result: its key, and what it lacks."""
        marker = self.run.marker(stage.name)
        if marker is None or marker["key"] != key or not marker["summary"].get("failed"):
            return key
        return digest({"key": key, "failed": marker["summary"]["failed"]})


def find_own_backend(config: Config, config_path: str | Path | None) -> None:
    """Let 'module:Class' find a module beside the configuration; workers do too."""
    if ":" in config.segmentation.backend and config_path is not None:
        folder = str(Path(config_path).parent)
        if folder not in sys.path:
            sys.path.append(folder)


def open_chain(run: Run) -> Chain:
    """Take up a run with the configuration and the slide that its manifest names.

    Nothing is opened: a run can be looked at when its slide is not there.

    Raises
    ------
    RunStateError
        If there is no run in the directory.
    """
    manifest = run.read_manifest()
    if not manifest:
        raise RunStateError(
            f"{run.path} holds no run (no manifest.json), expected a directory that "
            f"'codexseg run' has written."
        )
    try:
        config, slide = Config.model_validate(manifest["config"]), manifest["slide"]
    except ValidationError as error:
        raise RunStateError(
            f"{run.path} was made with keys of the configuration that this version does "
            f"not know; run it again with a configuration that 'codexseg config check' "
            f"finds valid. ({error.error_count()} problems: {error.errors()[0]['loc']})"
        ) from error
    find_own_backend(config, manifest.get("config_path"))
    panel = config.data.antibodies_file
    channels, height, width = slide["shape_cyx"]
    source = Source(
        path=slide["path"],
        panel=None if panel is None else str(panel),
        shape=(channels, height, width),
        channel_names=tuple(slide["channel_names"]),
        mpp=slide["mpp"],
        dtype=slide["dtype"],
        fingerprint=slide["fingerprint"],
        **_backend_facts(manifest, config, (height, width), slide["mpp"]),
    )
    return Chain(run, config, source)


def _backend_facts(
    manifest: Row, config: Config, shape: tuple[int, int], mpp: float
) -> dict[str, Any]:
    """Say what the run's backend is: its weights need not be there any more."""
    known = manifest.get("backend")
    if known is None:  # of version 0.1.0
        return backend_facts(make_backend(config, shape, mpp))
    facts = {name: known[name] for name in ("halo_px", "paired")}
    return {"backend": known["fingerprint"], **facts}


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Say in words how two payloads differ, key by key."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}")]
    if old == new:
        return []
    words = path.removeprefix(".").removeprefix("config.").removeprefix("extra.")
    if words.startswith("reads."):
        return [words.removeprefix("reads.") + _CHANGED]
    if words == "fingerprint":
        return ["the slide has changed"]
    if words == "version":
        return [f"codexseg does this stage otherwise now (version {old} -> {new})"]
    return [f"{words} {old!r} -> {new!r}"]


def _first_causes(causes: list[str]) -> str:
    """Leave out that earlier stages have changed where that is not the only cause."""
    own = [cause for cause in causes if not cause.endswith(_CHANGED)]
    earlier = sorted(set(causes) - set(own), key=lambda c: NAMES.index(c.split()[0]))
    return "; ".join(own or earlier[:1])


def _words(summary: Row) -> str:
    return ", ".join(f"{k} {v}" for k, v in summary.items() if v not in ([], None, {}))
