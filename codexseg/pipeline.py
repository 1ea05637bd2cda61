"""The orchestration class: from a YAML file to a finished run directory."""

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from socket import gethostname

from codexseg.artifacts.manifest import RunManifest, read_manifest, split_config
from codexseg.artifacts.warnings import (
    RunWarning,
    as_json,
    read_warnings,
    write_warnings,
)
from codexseg.backends.base import Backend
from codexseg.backends.registry import backend_warnings
from codexseg.config.loader import load_config
from codexseg.config.schema import Config
from codexseg.errors import BackendUnavailable, ConfigError, InputError, RunStateError
from codexseg.execution.process import usable_cores
from codexseg.execution.processes import executor
from codexseg.io.slides.channels import check_channels, with_channels_by_name
from codexseg.io.slides.open import open_image
from codexseg.io.slides.record import SlideRecord, record_slide
from codexseg.run.directory import Run, is_foreign
from codexseg.run.files import replacing
from codexseg.run.records import Record
from codexseg.stages.plan import RunPlan, Status, find_own_backend, load_plan
from codexseg.stages.segment.backend import make_backend, record_backend
from codexseg.stages.segment.diameter import (
    assumed_mpp_warning,
    is_mpp_assumed,
    known_mpp,
)

log = logging.getLogger(__name__)

LIKELY_MPP = (0.05, 5.0)
"""Pixel sizes of tissue microscopes, um."""

_PACKAGES = (
    "codexseg",
    "numpy",
    "scipy",
    "scikit-image",
    "tifffile",
    "zarr",
    "numba",
    "onnxruntime",
)


@dataclass(frozen=True)
class Result:
    """Result of a run.

    Attributes
    ----------
    path : Path
        The run directory.
    stages : list of Status
        State of each stage.
    cells : int or None
        Number of cells; None before the cells are numbered.
    failed_patches : list of int
        Patches whose backend raised: their cores are gaps in every output.
    halo_insufficient : list of int
        Patches with objects that may be cut at the edge of the window that was read.
    scale : dict or None
        With `segmentation.diameter`: the scale at which the backend sees the slide.
    warnings : list of RunWarning
        Doubts about the input or the result.
    """

    path: Path
    stages: list[Status]
    cells: int | None = None
    failed_patches: list[int] = field(default_factory=list)
    halo_insufficient: list[int] = field(default_factory=list)
    scale: Record | None = None
    warnings: list[RunWarning] = field(default_factory=list)


@dataclass(frozen=True)
class Pipeline:
    """A slide, a configuration and the directory of their run.

    ``Pipeline.from_yaml("my.yaml").execute()`` does the same as ``codexseg run my.yaml``.
    Executing again continues with the stages that are not up to date.

    Parameters
    ----------
    config : Config
        The configuration.
    out : path
        The run directory; created if it is missing.
    config_path : path, optional
        The YAML file of `config`; it is copied into the run.
    notes : tuple of str
        Notes for the user about the configuration.
    override_mpp : bool
        Whether `data.image_mpp` replaces a different pixel size of the slide.
    """

    config: Config
    out: Path
    config_path: Path | None = None
    notes: tuple[str, ...] = ()
    override_mpp: bool = False

    @classmethod
    def from_yaml(cls, path: str | Path, out: str | Path | None = None) -> "Pipeline":
        """Read a configuration; the default run directory is ``<stem>_codexseg`` beside it.

        Raises
        ------
        ConfigError
            If the file is wrong; the message lists all errors.
        """
        path = Path(path)
        loaded = load_config(path)
        out = Path(out) if out is not None else path.parent / f"{path.stem}_codexseg"
        return cls(loaded.config, out.absolute(), path.absolute(), loaded.notes)

    @classmethod
    def from_run(cls, run_path: str | Path) -> "Pipeline":
        """Open a run with the configuration of its last execution.

        If the YAML file still exists, its present content counts; otherwise the
        configuration in the manifest.

        Raises
        ------
        RunStateError
            If the directory contains no run.
        """
        run = Run(Path(run_path).absolute())
        if run.path.is_file():
            raise RunStateError(
                f"{run.path} is a file. Give a run directory; by default it is beside the "
                f"configuration and called <its name>_codexseg."
            )
        config = load_plan(run).config
        config_path = read_manifest(run).execution.get("config_path")
        if config_path and Path(config_path).exists():
            return cls.from_yaml(config_path, run.path)
        return cls(config, run.path)

    @property
    def run(self) -> Run:
        """The run directory."""
        return Run(self.out)

    @cached_property
    def settings(self) -> Config:
        """The configuration with the names of the sample and of the slide's channels."""
        data, file = self.config.data, self.config.data.file_name
        if file is None:
            return self.config
        sample = data.sample
        if sample is None:  # a run keeps its name when the file of the slide is renamed
            sample = read_manifest(self.run).result.get("sample") or self.config.sample_name
        named = data.model_copy(update={"sample": sample})
        config = self.config.model_copy(update={"data": named})
        if config.channels.mode == "names":
            return config
        if not file.exists() and self.run.exists():
            names = load_plan(self.run).slide.channel_names
        else:
            names = open_image(file, data.antibodies_file).channel_names
        return with_channels_by_name(config, names)

    def plan(self) -> list[Status]:
        """Return the state of each stage before :meth:`execute`; write nothing.

        If the slide is missing, the facts that the run recorded are used.
        """
        file = self.config.data.file_name
        if self.run.exists() and file is not None and not file.exists():
            known = load_plan(self.run)
            return replace(known, config=self.settings).status()
        slide = self.slide()
        try:
            backend = record_backend(self._backend(slide))
        except (BackendUnavailable, InputError) as error:
            if not self.run.exists():
                raise
            log.warning("%s The recorded state of the run is shown.", error)
            backend = load_plan(self.run).backend
        return RunPlan(self.run, self.settings, slide, backend).status()

    status = plan

    def check(self) -> RunPlan:
        """Open the slide, make the backend, and return the plan; write nothing.

        Raises
        ------
        ConfigError, InputError, BackendUnavailable
            If configuration, slide or backend cannot be used.
        """
        slide = self.slide()
        backend = record_backend(self._backend(slide))
        return RunPlan(self.run, self.settings, slide, backend)

    def slide(self) -> SlideRecord:
        """Open the slide and check it against the configuration.

        Raises
        ------
        InputError
            If the slide cannot be read, a channel is missing, or the pixel size is unknown
            or contradicts the configuration.
        """
        data = self.config.data
        if data.file_name is None:
            raise ConfigError("data.file_name is missing. Set it to the path of the slide.")
        slide = open_image(data.file_name, data.antibodies_file)
        check_channels(self.config, slide.channel_names)
        mpp = known_mpp(self.config, slide, override_mpp=self.override_mpp)
        return record_slide(data.file_name, mpp, data.antibodies_file)

    def _backend(self, slide: SlideRecord) -> Backend:
        find_own_backend(self.config, self.config_path)
        return make_backend(self.settings, slide.shape[1:], slide.mpp)

    def warnings(self, slide: SlideRecord) -> Iterator[RunWarning]:
        """Yield warnings about settings that are allowed and probably a mistake."""
        for note in self.notes:
            yield RunWarning("configuration", note, None, note)
        low, high = LIKELY_MPP
        if not low <= slide.mpp <= high:
            yield RunWarning(
                "unlikely_pixel_size",
                slide.mpp,
                "data.image_mpp",
                f"The pixel size is {slide.mpp:g} um/px. Expected {low} to {high}. It sets "
                f"the size of the cells that are searched: check data.image_mpp.",
            )
        if is_mpp_assumed(self.config, slide.open()):
            yield assumed_mpp_warning(slide.path)
        for warning in backend_warnings(self.config.segmentation):
            yield RunWarning(*warning)

    def execute(
        self,
        *,
        workers: int | None = None,
        from_stage: str | None = None,
        until: str | None = None,
        force: str | None = None,
    ) -> Result:
        """Execute the stages that are not up to date.

        Parameters
        ----------
        workers : int, optional
            Number of processes; by default `execution.workers`.
        from_stage, until, force : str, optional
            Execute this stage and all later ones again; stop after this stage; execute
            this stage again.

        Raises
        ------
        ConfigError, InputError
            If configuration, slide or directory cannot be used; nothing is written.
        """
        plan = self.check()
        self._make_directory(plan.slide)
        with (
            self.run.locked(),
            _logged(self.run),
            executor(workers or self.config.execution.workers) as execute,
        ):
            warnings = list(self.warnings(plan.slide))
            self._begin(plan, warnings, execute.workers)
            for warning in warnings:
                warning.log()
            try:
                plan.execute(execute, from_stage=from_stage, until=until, force=force)
            finally:
                # Warnings of finished stages count although a later stage fails.
                write_warnings(self.run.path, [*warnings, *_stage_warnings(plan)])
            result = self._result(plan)
            self._finish(plan, result)
        return result

    def _make_directory(self, slide: SlideRecord) -> None:
        """Create the run directory, or check that it belongs to this slide."""
        try:
            self._check_owner(slide)
            self.run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from error

    def _begin(self, plan: RunPlan, warnings: list[RunWarning], workers: int) -> None:
        """Write manifest, warnings and configuration before the first stage."""
        run = self.run
        try:
            run.sweep()
            self._manifest(plan, read_manifest(run), workers).write(run)
            write_warnings(run.path, [*warnings, *_stage_warnings(plan)])
            if self.config_path is not None:
                text = self.config_path.read_bytes()
                with replacing(run.config_path) as part:
                    part.write_bytes(text)
        except OSError as error:
            raise self._not_writable(error) from error

    def _not_writable(self, error: OSError) -> InputError:
        return InputError(
            f"Cannot write to the run directory {self.run.path} ({error.strerror}). "
            f"Choose a writable directory with --out."
        )

    def _check_owner(self, slide: SlideRecord) -> None:
        path, manifest = self.run.path, read_manifest(self.run)
        if manifest.result:
            known = manifest.slide
            if known.fingerprint.digest != slide.fingerprint.digest:
                same_path = known.path == slide.path
                other = "this slide with other content" if same_path else known.path
                raise RunStateError(
                    f"{path} belongs to another slide ({other}), not to {slide.path} with "
                    f"its present content. Choose another directory with --out, or delete "
                    f"this one."
                )
        elif path.exists() and any(map(is_foreign, path.iterdir())):
            raise RunStateError(
                f"{path} is not empty and holds no run. Choose a new or empty directory "
                f"with --out."
            )

    def _manifest(self, plan: RunPlan, before: RunManifest, workers: int) -> RunManifest:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        result_config, execution_config = split_config(
            self.settings.model_dump(mode="json")
        )
        backend = self._backend(plan.slide)
        about = dict(getattr(backend, "about", {}))
        weights_path = about.pop("weights_path", None)
        return RunManifest(
            {
                "sample": self.settings.sample_name,
                "slide": plan.slide.describe(),
                "config": result_config,
                "backend": {
                    "name": backend.name,
                    **vars(plan.backend),
                    "object_columns": dict(plan.backend.object_columns),
                    **about,
                },
            },
            {
                "slide": plan.slide.locate(),
                "config": execution_config,
                "config_path": None if self.config_path is None else str(self.config_path),
                "weights_path": weights_path,
                "versions": {name: _version(name) for name in _PACKAGES},
                "python": platform.python_version(),
                "platform": platform.platform(),
                "host": gethostname(),
                "process": os.getpid(),
                "cores": usable_cores(),
                "workers": workers,
                "created": before.execution.get("created") or now,
                "last_started": now,
            },
        )

    def _result(self, plan: RunPlan) -> Result:
        """Return the result; stages that are not up to date do not count."""
        statuses, completed = plan.status(), plan.completed_keys()
        known = {s.stage: s.summary or {} for s in statuses if s.stage in completed}
        segment = known.get("segment", {})
        return Result(
            self.run.path,
            statuses,
            known.get("repair", {}).get("cells"),
            list(segment.get("failed", [])),
            list(segment.get("not_proven", [])),
            segment.get("scale"),
            read_warnings(self.run.path),
        )

    def _finish(self, plan: RunPlan, result: Result) -> None:
        manifest, run = read_manifest(self.run), self.run
        completed = plan.completed_keys()
        markers = {name: run.marker(name) or {} for name in completed}
        files = {
            name: {"bytes": marker["files"][name][1], "sha256": digest}
            for stage, marker in markers.items()
            for name, digest in marker.get("sha256", {}).items()
            if stage != "report"  # the page contains times
        }
        RunManifest(
            manifest.result
            | {
                "cells": result.cells,
                "scale": result.scale,
                "failed_patches": result.failed_patches,
                "warnings": as_json(result.warnings),
                "stages": completed,
                "files": files,
            },
            manifest.execution
            | {"last_finished": datetime.now(UTC).isoformat(timespec="seconds")},
        ).write(run)


def _stage_warnings(plan: RunPlan) -> Iterator[RunWarning]:
    """Yield the warnings of the stages that are up to date."""
    for stage in plan.completed_keys():
        marker = plan.run.marker(stage) or {}
        for entry in marker.get("summary", {}).get("warnings", []):
            yield RunWarning(**entry)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def _logged(run: Run) -> Iterator[None]:
    """Write the log of codexseg to run.log."""
    handler = logging.FileHandler(run.log_path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("codexseg")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        log.info("stopped: %s %s", type(error).__name__.strip("_"), error)
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
