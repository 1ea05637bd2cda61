"""The run directory: the only module that knows where things lie on disk.

::

    RUN/ config.yaml manifest.json run.log stages/<name>.json
         work/<name>-<key>/NNNNNN.json    a row for a finished patch, tables beside it
         patches.zarr/original            the backend's labels, a chunk a patch
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
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from codexseg.errors import RunStateError
from codexseg.run.files import ArrayFiles, remove, replacing, write_arrays, write_atomic
from codexseg.run.patch_store import PatchLabels

Row = dict[str, Any]
Tables = dict[str, NDArray[Any]]
Arrays = Mapping[str, NDArray[Any]]

_ZARR_METADATA = {".zarray", ".zattrs", ".zgroup"}


def digest(payload: Mapping[str, Any]) -> str:
    """Hash a JSON-able mapping; equal mappings give equal digests."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_foreign(path: Path) -> bool:
    """Whether a file in a run directory is none that a run begins with."""
    return not re.match(r"\.(lock|owner|manifest\.json\.)|run\.log$", path.name)


@dataclass(frozen=True)
class Run(PatchLabels):
    """A run directory. Holds a path and nothing else, so it travels to workers."""

    path: Path

    @property
    def config_path(self) -> Path:
        """The user's configuration, word for word."""
        return self.path / "config.yaml"

    @property
    def log_path(self) -> Path:
        """What was done, and when."""
        return self.path / "run.log"

    @property
    def timings_path(self) -> Path:
        """One line per patch and stage: seconds of wall and CPU."""
        return self.path / "timings.csv"

    @property
    def segmentation_path(self) -> Path:
        """The whole-slide labels, an OME-Zarr."""
        return self.path / "segmentation.ome.zarr"

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return (self.path / "manifest.json").exists()

    def sweep(self) -> None:
        """Remove what a killed process left half-written."""
        work = [path for path in (self.path / "work").glob("*") if path.is_dir()]
        places = (self.path / name for name in ("", "stages", "exports", "work"))
        for folder in (*places, *work):
            for left in folder.glob(".*"):
                if re.fullmatch(r"\..+\.[0-9a-f]{32}", left.name):
                    remove(left)
        for folder in work:
            for batch in folder.glob("batch-*"):
                shutil.rmtree(batch, ignore_errors=True)
        for chunk in (self.path / "patches.zarr").rglob("*.partial"):
            chunk.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the lock goes with the process, however it ends.

        Raises
        ------
        RunStateError
            If another process works on the run, or the directory cannot be written.
        """
        from filelock import FileLock, Timeout

        owner, lock = self.path / ".owner", FileLock(self.path / ".lock", timeout=0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            lock.acquire()
            owner.write_text(f"process {os.getpid()} on {gethostname()} since {since}")
        except Timeout:
            who = owner.read_text() if owner.exists() else "another process"
            raise RunStateError(
                f"{self.path} is being worked on by {who}, expected nobody: wait for it, "
                f"stop it, or choose another directory with --out."
            ) from None
        except OSError as error:
            raise RunStateError(
                f"the run directory {self.path} cannot be written ({error.strerror}), "
                f"expected a writable place; choose another one with --out."
            ) from error
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def footprint(self, name: str) -> tuple[int, int]:
        """Count the files and bytes of a file or folder of the run; hidden ones do not."""
        path = self.path / name
        if path.is_file():
            return 1, path.stat().st_size
        files = bytes_ = 0
        for folder, folders, names in os.walk(path):
            folders[:] = [f for f in folders if not f.startswith("batch-")]
            for file in names:
                if not file.startswith(".") or file in _ZARR_METADATA:
                    files += 1
                    bytes_ += Path(folder, file).stat().st_size
        return files, bytes_

    def work_folders(self, stage: str, key: str) -> list[str]:
        """Name the folders in which a stage keeps rows and tables."""
        pattern = f"{stage}[-.]*{key[:12]}"
        found = sorted((self.path / "work").glob(pattern))
        return [path.relative_to(self.path).as_posix() for path in found]

    # -- manifest and markers ---------------------------------------------------------

    def read_manifest(self) -> Row:
        """Return what the run says of itself; empty where it was never started."""
        return self._read_json(self.path / "manifest.json") or {}

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace what the run says of itself."""
        text = json.dumps(manifest, indent=2, sort_keys=True, default=str)
        write_atomic(self.path / "manifest.json", text)

    def marker(self, stage: str) -> Row | None:
        """Return what the last complete execution of a stage recorded, if there was one."""
        return self._read_json(self._marker_path(stage))

    def begin(self, stage: str, key: str) -> None:
        """Forget what other keys left, finished or not, before new outputs replace it."""
        marker = self.marker(stage)
        if marker is not None and marker["key"] != key:
            self._marker_path(stage).unlink()
        for work in (self.path / "work").glob(f"{stage}[-.]*"):
            if not work.name.endswith(f"-{key[:12]}"):
                remove(work)

    def forget(self, stage: str) -> None:
        """Forget everything that a stage has done."""
        self._marker_path(stage).unlink(missing_ok=True)
        for work in (self.path / "work").glob(f"{stage}[-.]*"):
            remove(work)

    def commit(self, stage: str, record: Mapping[str, Any]) -> None:
        """Declare the stage complete. The last thing that happens to a stage."""
        write_atomic(self._marker_path(stage), json.dumps(record, indent=2, default=str))

    # -- rows and tables of a stage ---------------------------------------------------

    def work_path(self, stage: str, key: str) -> Path:
        """Return where the rows and tables of a stage lie."""
        return self.path / "work" / f"{stage}-{key[:12]}"

    def row(self, stage: str, key: str, item: int) -> Row | None:
        """Return the row of a patch, None where it was not visited yet."""
        return self._read_json(self.work_path(stage, key) / f"{item:06d}.json")

    def write_row(self, stage: str, key: str, item: int, row: Mapping[str, Any]) -> None:
        """Declare a patch done. The last thing that happens to a patch."""
        path = self.work_path(stage, key) / f"{item:06d}.json"
        tables = self._tables_path(stage, key, item)
        if tables.exists():
            row = {**row, "files": {**row.get("files", {}), **self.sizes(tables)}}
        write_atomic(path, json.dumps(row, sort_keys=True))

    def sizes(self, *paths: Path) -> dict[str, int]:
        """Measure files of the run, for the row of the patch that they belong to."""
        return {p.relative_to(self.path).as_posix(): p.stat().st_size for p in paths}

    def holds(self, row: Row) -> bool:
        """Whether the files of a patch are there, as large as they were written."""
        files = {self.path / name: size for name, size in row.get("files", {}).items()}
        return all(p.is_file() and p.stat().st_size == n for p, n in files.items())

    def rows(self, stage: str, key: str) -> dict[int, Row]:
        """Return the rows of the visited patches, in patch order."""
        rows = {}
        for path in sorted(self.work_path(stage, key).glob("[0-9]*.json")):
            try:
                rows[int(path.stem)] = dict(json.loads(path.read_text("utf-8")))
            except (ValueError, TypeError):
                continue  # not what was written there: the patch is not done
        return rows

    def write_total(self, stage: str, key: str, total: int) -> None:
        """Note of how many patches :meth:`progress` speaks."""
        path = self.work_path(stage, key) / "total.json"
        write_atomic(path, json.dumps({"total": total}))

    def progress(self, stage: str, key: str) -> tuple[int, int | None]:
        """Return how many patches of a stage are done, and of how many (None: unknown)."""
        work = self.work_path(stage, key)
        try:
            total = self._read_json(work / "total.json")
        except RunStateError:  # damaged: the stage is found to be so, and done again
            total = None
        rows = self.rows(stage, key).values() if total else []
        done = sum(1 for row in rows if row.get("status") != "failed")
        return done, total["total"] if total else None

    def write_tables(self, stage: str, key: str, name: int | str, tables: Tables) -> None:
        """Write arrays beside the row of a patch, or of the whole stage (a name).

        Those of a stage, which grow with the slide, are mapped into memory when they are
        read, so that all workers share them.
        """
        if isinstance(name, str):
            write_arrays(self._tables_path(stage, key, name).with_suffix(""), tables)
            return
        with (
            replacing(self._tables_path(stage, key, name)) as part,
            part.open("wb") as file,
        ):
            np.savez(file, allow_pickle=False, **tables)

    def tables(self, stage: str, key: str, name: int | str) -> Arrays:
        """Read the arrays that :meth:`write_tables` wrote."""
        path, own = self._tables_path(stage, key, name), stage.partition(".")[0]
        if isinstance(name, str) and path.with_suffix("").is_dir():
            remedy = f"do the stage again: codexseg run CONFIG --force {own}"
            return ArrayFiles.of_folder(path.with_suffix(""), remedy)
        try:
            with np.load(path) as file:
                return {key: file[key] for key in file.files}
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise RunStateError(
                f"{path} is missing or damaged ({error}), expected the tables of stage "
                f"{stage!r}; do it again: codexseg run CONFIG --force {own}."
            ) from error

    def write_arrays(
        self, stage: str, key: str, item: int, arrays: Arrays
    ) -> dict[str, int]:
        """Write large arrays beside the row of a piece; return their files and sizes."""
        paths = {name: self._array_path(stage, key, item, name) for name in arrays}
        for name, array in arrays.items():
            with replacing(paths[name]) as part, part.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        return self.sizes(*paths.values())

    def arrays(self, stage: str, key: str, item: int) -> Arrays:
        """Return what :meth:`write_arrays` wrote, each array read when it is asked for.

        The row of the piece names them, under "arrays".
        """
        row = self.row(stage, key, item)
        if row is None:
            raise RunStateError(
                f"{self.work_path(stage, key)} lacks piece {item}, which it had; run the "
                f"same command again, and it is made again."
            )
        paths = {name: self._array_path(stage, key, item, name) for name in row["arrays"]}
        return ArrayFiles(paths)

    def forget_row(self, stage: str, key: str, item: int) -> None:
        """Forget that a patch is done."""
        (self.work_path(stage, key) / f"{item:06d}.json").unlink(missing_ok=True)

    def _marker_path(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"

    def _tables_path(self, stage: str, key: str, name: int | str) -> Path:
        stem = name if isinstance(name, str) else f"{name:06d}"
        return self.work_path(stage, key) / f"{stem}.npz"

    def _array_path(self, stage: str, key: str, item: int, name: str) -> Path:
        return self.work_path(stage, key) / f"{item:06d}.{name}.npy"

    def _read_json(self, path: Path) -> Row | None:
        try:
            content: Row = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunStateError(
                f"{path} is not JSON ({error}), expected what codexseg wrote there; "
                f"delete it, and what depends on it is done again."
            ) from error
        if not isinstance(content, dict):
            raise RunStateError(f"{path} is not what codexseg wrote there; delete it.")
        return content
