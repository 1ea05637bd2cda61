"""The orchestration class: from a YAML file to a finished run directory."""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from codexseg.backends.base import Backend
from codexseg.backends.registry import WITHOUT_OPTIONS
from codexseg.config.loader import load_config
from codexseg.config.schema import Config
from codexseg.errors import BackendUnavailable, ConfigError, InputError, RunStateError
from codexseg.execution.processes import executor
from codexseg.io.slides.open import open_image
from codexseg.run.directory import Row, Run, is_foreign
from codexseg.run.files import replacing
from codexseg.stages.base import Source
from codexseg.stages.chain import Chain, Status, find_own_backend, open_chain
from codexseg.stages.channels import check_channels, with_channels_by_name
from codexseg.stages.pixels import backend_facts, make_backend
from codexseg.stages.scale import assumption, is_mpp_assumed, known_mpp

log = logging.getLogger(__name__)

LIKELY_MPP = (0.05, 5.0)
"""Pixel sizes that microscopes of tissue have, um."""

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
    """What a run has to show.

    Attributes
    ----------
    path : Path
        The run directory.
    stages : list of Status
        What became of each stage.
    cells : int or None
        Number of cells; None before the cells were numbered.
    failed_patches : list of int
        Patches whose backend raised: their cores are holes in every output.
    not_proven : list of int
        Patches with objects larger than their window could grow: they may be cut.
    scale : dict or None
        With `segmentation.diameter`: at what scale the backend saw the slide.
    """

    path: Path
    stages: list[Status]
    cells: int | None = None
    failed_patches: list[int] = field(default_factory=list)
    not_proven: list[int] = field(default_factory=list)
    scale: Row | None = None


@dataclass(frozen=True)
class Pipeline:
    """A slide, a configuration and the directory in which their run lies.

    ``Pipeline.from_yaml("my.yaml").execute()`` does what ``codexseg run my.yaml`` does.
    Executing again does only what is not done yet.

    Parameters
    ----------
    config : Config
        What to do.
    out : path
        The run directory; made where it is missing.
    config_path : path, optional
        The YAML file that `config` was read from; it is copied into the run.
    notes : tuple of str
        What a user should be told about the configuration.
    trusts_config_mpp : bool
        Whether `data.image_mpp` counts though the slide says another pixel size.
    """

    config: Config
    out: Path
    config_path: Path | None = None
    notes: tuple[str, ...] = ()
    trusts_config_mpp: bool = False

    @classmethod
    def from_yaml(cls, path: str | Path, out: str | Path | None = None) -> "Pipeline":
        """Read a configuration; the run lies beside it as ``<stem>_codexseg``.

        Raises
        ------
        ConfigError
            If the file is wrong; the message holds all its errors.
        """
        path = Path(path)
        loaded = load_config(path)
        out = Path(out) if out is not None else path.parent / f"{path.stem}_codexseg"
        return cls(loaded.config, out.absolute(), path.absolute(), loaded.notes)

    @classmethod
    def from_run(cls, run_path: str | Path) -> "Pipeline":
        """Take up a run with the configuration that it was last executed with.

        If the YAML file still lies where it was, it counts as it is now; else what the
        manifest of the run keeps of it.

        Raises
        ------
        RunStateError
            If there is no run in this directory.
        """
        run = Run(Path(run_path).absolute())
        if run.path.is_file():
            raise RunStateError(
                f"{run.path} is a file, expected a run directory; the run of a "
                f"configuration lies beside it, in <its name>_codexseg."
            )
        config, manifest = open_chain(run).config, run.read_manifest()
        path = Path(manifest["config_path"]) if manifest.get("config_path") else None
        if path is not None and path.exists():
            return cls.from_yaml(path, run.path)
        return cls(config, run.path)

    @property
    def run(self) -> Run:
        """The run directory."""
        return Run(self.out)

    @cached_property
    def settings(self) -> Config:
        """The configuration with its channels by name, as the slide calls them."""
        data = self.config.data
        if self.config.channels.mode == "names" or data.file_name is None:
            return self.config
        if not data.file_name.exists() and self.run.exists():
            names = open_chain(self.run).source.channel_names
        else:
            names = open_image(data.file_name, data.antibodies_file).channel_names
        return with_channels_by_name(self.config, names)

    def plan(self) -> list[Status]:
        """Say what :meth:`execute` would find done, stale (and why) or missing.

        Nothing is written. A slide that is gone is taken for what the run knows of it.
        """
        slide = self.config.data.file_name
        if self.run.exists() and slide is not None and not slide.exists():
            return self._chain(open_chain(self.run).source).status()
        facts = self._slide_facts()
        try:
            made = backend_facts(self._backend(facts["shape"][1:], facts["mpp"]))
        except (BackendUnavailable, InputError) as error:
            if not self.run.exists():
                raise
            log.warning("%s The run is shown as it was left.", error)
            known = open_chain(self.run).source
            made = {name: getattr(known, name) for name in ("backend", "halo_px", "paired")}
        return self._chain(Source(**facts, **made)).status()

    status = plan

    def source(self) -> Source:
        """Open the slide and check it against the configuration.

        Raises
        ------
        InputError
            If the slide cannot be read, a channel is not there, or the pixel size is
            unknown or contradicts the configuration.
        """
        facts = self._slide_facts()
        backend = self._backend(facts["shape"][1:], facts["mpp"])
        return Source(**facts, **backend_facts(backend))

    def _slide_facts(self) -> dict[str, Any]:
        """Open the slide; return what a Source says of it."""
        data = self.config.data
        if data.file_name is None:
            raise ConfigError("data.file_name is missing, expected the path of the slide.")
        slide = open_image(data.file_name, data.antibodies_file)
        check_channels(self.config, slide.channel_names)
        mpp = known_mpp(self.config, slide, trusts_config=self.trusts_config_mpp)
        return {
            "path": str(data.file_name),
            "panel": None if data.antibodies_file is None else str(data.antibodies_file),
            "shape": slide.shape,
            "channel_names": tuple(slide.channel_names),
            "mpp": mpp,
            "dtype": str(slide.dtype),
            "fingerprint": slide.fingerprint(),
        }

    def _backend(self, shape: tuple[int, int], mpp: float) -> Backend:
        find_own_backend(self.config, self.config_path)
        return make_backend(self.settings, shape, mpp)

    def doubts(self, source: Source) -> Iterator[str]:
        """Yield a sentence on what is allowed and probably not meant."""
        low, high = LIKELY_MPP
        if not low <= source.mpp <= high:
            yield (
                f"the pixel size is {source.mpp:g} um/px, expected {low} to {high}: is it "
                f"right? It decides the size of the cells that are looked for."
            )
        if is_mpp_assumed(self.config, open_image(source.path, source.panel)):
            yield assumption(source.path)
        segmentation = self.config.segmentation
        if segmentation.backend in WITHOUT_OPTIONS and segmentation.options:
            yield (
                f"segmentation.options is for cellpose, stardist and backends of third "
                f"parties; the backend {segmentation.backend!r} does not use it."
            )
        if segmentation.backend == "deepcell" and segmentation.normalization == "slide":
            yield (
                "the backend 'deepcell' takes each patch for an image of its own, whatever "
                "segmentation.normalization says, so cells at seams can differ; the "
                "backend 'mesmer' does the same computation for the slide as a whole."
            )

    def execute(
        self,
        *,
        workers: int | None = None,
        from_stage: str | None = None,
        until: str | None = None,
        force: str | None = None,
    ) -> Result:
        """Do what is not done yet.

        Parameters
        ----------
        workers : int, optional
            Processes; `execution.workers` where not given.
        from_stage, until, force : str, optional
            Do this stage and all later ones again; stop after this one; do this one
            again.

        Raises
        ------
        ConfigError, InputError
            If configuration, slide or directory cannot be used; nothing was written.
        """
        source = self.source()
        self._make_directory(source)
        with (
            self.run.locked(),
            _logged(self.run),
            executor(workers or self.config.execution.workers) as execute,
        ):
            self._begin(source)
            for note in (*self.notes, *self.doubts(source)):
                log.warning("%s", note)
            chain = self._chain(source)
            chain.execute(execute, from_stage=from_stage, until=until, force=force)
            result = self._result(chain)
            self._finish(result)
        return result

    def _chain(self, source: Source) -> Chain:
        return Chain(self.run, self.settings, source)

    def _make_directory(self, source: Source) -> None:
        """Make the run directory, or check that it is this slide's."""
        try:
            self._check_owner(self.run.read_manifest(), source)
            self.run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from error

    def _begin(self, source: Source) -> None:
        """Note what is about to be done."""
        run = self.run
        try:
            run.sweep()
            run.write_manifest(self._manifest(source, run.read_manifest()))
            if self.config_path is not None:
                text = self.config_path.read_bytes()
                with replacing(run.config_path) as part:
                    part.write_bytes(text)
        except OSError as error:
            raise self._not_writable(error) from error

    def _not_writable(self, error: OSError) -> InputError:
        return InputError(
            f"the run directory {self.run.path} cannot be written ({error.strerror}), "
            f"expected a writable place; choose another one with --out."
        )

    def _check_owner(self, manifest: Row, source: Source) -> None:
        path = self.run.path
        slide = manifest.get("slide", {})
        if manifest and slide.get("fingerprint") != source.fingerprint:
            was = slide.get("path")
            whose = "this slide as it was before" if was == source.path else f"{was}"
            raise RunStateError(
                f"{path} belongs to another slide ({whose}), expected {source.path} as it "
                f"is now; choose another directory with --out, or delete this one."
            )
        if not manifest and path.exists() and any(map(is_foreign, path.iterdir())):
            raise RunStateError(
                f"{path} is not empty and holds no run, expected a new or empty directory; "
                f"choose another one with --out."
            )

    def _manifest(self, source: Source, before: Row) -> Row:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {
            "schema_version": 1,
            "slide": {
                "path": source.path,
                "fingerprint": source.fingerprint,
                "shape_cyx": list(source.shape),
                "dtype": source.dtype,
                "channel_names": list(source.channel_names),
                "mpp": source.mpp,
            },
            "config": self.settings.model_dump(mode="json"),
            "config_path": None if self.config_path is None else str(self.config_path),
            "versions": {name: _version(name) for name in _PACKAGES},
            "python": platform.python_version(),
            "backend": self._about_backend(source),
            "created": before.get("created", now),
            "last_started": now,
        }

    def _about_backend(self, source: Source) -> Row:
        """Say which backend and which weights, and under which licence they are."""
        backend = self._backend(source.shape[1:], source.mpp)
        about = getattr(backend, "about", {})
        facts = {"name": backend.name, "fingerprint": source.backend}
        return {**facts, "halo_px": source.halo_px, "paired": source.paired, **about}

    def _result(self, chain: Chain) -> Result:
        """Say what is there; results of stages that are out of date do not count."""
        stages, done = chain.status(), chain.keys_done()
        known = {s.stage: s.summary or {} for s in stages if s.stage in done}
        return Result(
            self.run.path,
            stages,
            known.get("stitch", {}).get("cells"),
            list(known.get("segment", {}).get("failed", [])),
            list(known.get("segment", {}).get("not_proven", [])),
            known.get("segment", {}).get("scale"),
        )

    def _finish(self, result: Result) -> None:
        manifest = self.run.read_manifest()
        manifest["last_finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        manifest["cells"] = result.cells
        manifest["scale"] = result.scale
        manifest["failed_patches"] = result.failed_patches
        self.run.write_manifest(manifest)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def _logged(run: Run) -> Iterator[None]:
    """Write what codexseg says of itself to run.log meanwhile."""
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
