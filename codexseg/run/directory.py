"""The run directory: the only module that knows its layout.

::

    RUN/ config.yaml manifest.json warnings.json run.log stages/<name>.json
         work/<name>-<key>/NNNNNN.json    record of a finished patch, arrays beside it
         patches.zarr/original            labels of the patches, one chunk per patch
         segmentation.ome.zarr patches_metadata.csv cells.parquet ... exports/

A file is either absent or complete: it is written aside and renamed.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from typing import Any

from codexseg.errors import RunStateError
from codexseg.run.files import remove, sha256_of, write_atomic
from codexseg.run.patch_store import PatchStore
from codexseg.run.records import Record, StageRecords, read_json

_ZARR_METADATA = {".zarray", ".zattrs", ".zgroup"}


def digest(payload: Mapping[str, Any]) -> str:
    """Hash a JSON-able mapping; equal mappings give equal digests."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_foreign(path: Path) -> bool:
    """Return whether a file in a run directory was not created by codexseg."""
    return not re.match(r"\.(lock|owner|manifest\.json\.)|run\.log$", path.name)


@dataclass(frozen=True)
class Run:
    """A run directory. Holds a path only, so it is picklable."""

    path: Path

    @property
    def config_path(self) -> Path:
        """The configuration as the user wrote it."""
        return self.path / "config.yaml"

    @property
    def log_path(self) -> Path:
        """The log of all executions."""
        return self.path / "run.log"

    @property
    def timings_path(self) -> Path:
        """Wall and CPU seconds, one line per patch and stage."""
        return self.path / "timings.csv"

    @property
    def manifest_path(self) -> Path:
        """The manifest."""
        return self.path / "manifest.json"

    @property
    def segmentation_path(self) -> Path:
        """The whole-slide labels, an OME-Zarr."""
        return self.path / "segmentation.ome.zarr"

    @property
    def patches(self) -> PatchStore:
        """The labels of the patches."""
        return PatchStore(self.path / "patches.zarr")

    def exists(self) -> bool:
        """Return whether the directory contains a run."""
        return self.manifest_path.exists()

    def records(self, stage: str, key: str) -> StageRecords:
        """Return the records and arrays of a stage."""
        return StageRecords(self.path, stage, key)

    def sweep(self) -> None:
        """Remove the unfinished files of a killed process."""
        for pattern in (".*", "stages/.*", "exports/.*", "work/.*", "work/*/.*"):
            for path in self.path.glob(pattern):
                if re.fullmatch(r"\..+\.[0-9a-f]{32}", path.name):
                    remove(path)
        for batch in self.path.glob("work/*/batch-*"):
            shutil.rmtree(batch, ignore_errors=True)
        for chunk in (self.path / "patches.zarr").rglob("*.partial"):
            chunk.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process. The lock ends with the process.

        Raises
        ------
        RunStateError
            If another process uses the run, or the directory is not writable.
        """
        from filelock import FileLock, Timeout

        owner, lock = self.path / ".owner", FileLock(self.path / ".lock", timeout=0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            lock.acquire()
            owner.write_text(f"process {os.getpid()} on {gethostname()} since {since}")
        except Timeout:
            holder = owner.read_text() if owner.exists() else "another process"
            raise RunStateError(
                f"{self.path} is in use by {holder}. Wait for it, stop it, or choose "
                f"another directory with --out."
            ) from None
        except OSError as error:
            raise RunStateError(
                f"Cannot write to the run directory {self.path} ({error.strerror}). "
                f"Choose a writable directory with --out."
            ) from error
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def footprint(self, name: str) -> tuple[int, int]:
        """Count files and bytes of a file or folder of the run, without hidden files."""
        sizes = [path.stat().st_size for path in self._files(name)]
        return len(sizes), sum(sizes)

    def checksum(self, name: str) -> str:
        """Return the sha256 of a file, or of the names and sha256 of a folder's files."""
        path = self.path / name
        if path.is_file():
            return sha256_of(path)
        lines = (
            f"{sha256_of(p)}  {p.relative_to(path).as_posix()}\n" for p in self._files(name)
        )
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    def _files(self, name: str) -> Iterator[Path]:
        path = self.path / name
        if path.is_file():
            yield path
            return
        for folder, folders, names in os.walk(path):
            folders[:] = [f for f in folders if not f.startswith("batch-")]
            for file in names:
                if not file.startswith(".") or file in _ZARR_METADATA:
                    yield Path(folder, file)

    def work_folders(self, stage: str, key: str) -> list[str]:
        """Return the work folders of a stage and its passes, relative to the run."""
        folders = sorted((self.path / "work").glob(f"{stage}[-.]*{key[:12]}"))
        return [path.relative_to(self.path).as_posix() for path in folders]

    # -- markers ----------------------------------------------------------------------

    def marker(self, stage: str) -> Record | None:
        """Return the marker of the last complete execution of a stage, if any."""
        return read_json(self._marker_path(stage))

    def begin(self, stage: str, key: str) -> None:
        """Remove the marker and the work folders of other keys of a stage."""
        marker = self.marker(stage)
        if marker is not None and marker["key"] != key:
            self._marker_path(stage).unlink()
        for work in (self.path / "work").glob(f"{stage}[-.]*"):
            if not work.name.endswith(f"-{key[:12]}"):
                remove(work)

    def forget(self, stage: str) -> None:
        """Remove the marker and all work folders of a stage."""
        self._marker_path(stage).unlink(missing_ok=True)
        for work in (self.path / "work").glob(f"{stage}[-.]*"):
            remove(work)

    def commit(self, stage: str, marker: Mapping[str, Any]) -> None:
        """Mark a stage as complete. Call this last."""
        write_atomic(self._marker_path(stage), json.dumps(marker, indent=2, default=str))

    def _marker_path(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"
