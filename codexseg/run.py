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
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.errors import RunStateError

Row = dict[str, Any]
Tables = dict[str, NDArray[Any]]

_CHUNK_PX = 4096
"""Longest side of a chunk of patches.zarr: a codec takes at most 2 GB at once."""


def digest(payload: Mapping[str, Any]) -> str:
    """Hash a JSON-able mapping; equal mappings give equal digests."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; what is written there takes its place at the end.

    The file is flushed to disk before it is renamed; on an error it is removed and
    `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, text: str) -> None:
    """Write a text file that either is not there or is complete."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Run:
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

    @property
    def exports_path(self) -> Path:
        """Files for other programs."""
        return self.path / "exports"

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return (self.path / "manifest.json").exists()

    def sweep(self, folder: Path | None = None) -> None:
        """Remove what a killed process left half-written in a folder of the run."""
        for left in (folder or self.path).glob("*"):
            if re.fullmatch(r"\..+\.[0-9a-f]{32}", left.name):
                left.unlink(missing_ok=True)
            elif re.match(r"batch-", left.name) and left.is_dir():
                shutil.rmtree(left, ignore_errors=True)

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
                shutil.rmtree(work)

    def forget(self, stage: str) -> None:
        """Forget everything that a stage has done."""
        self._marker_path(stage).unlink(missing_ok=True)
        for work in (self.path / "work").glob(f"{stage}[-.]*"):
            shutil.rmtree(work)

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
        write_atomic(path, json.dumps(row, sort_keys=True))

    def forget_row(self, stage: str, key: str, item: int) -> None:
        """Have a patch done again."""
        (self.work_path(stage, key) / f"{item:06d}.json").unlink(missing_ok=True)

    def rows(self, stage: str, key: str) -> dict[int, Row]:
        """Return the rows of the visited patches, in patch order."""
        paths = sorted(self.work_path(stage, key).glob("[0-9]*.json"))
        return {int(path.stem): json.loads(path.read_text("utf-8")) for path in paths}

    def write_total(self, stage: str, key: str, total: int) -> None:
        """Note of how many patches :meth:`progress` speaks."""
        path = self.work_path(stage, key) / "total.json"
        write_atomic(path, json.dumps({"total": total}))

    def progress(self, stage: str, key: str) -> tuple[int, int | None]:
        """Return how many patches of a stage are done, and of how many (None: unknown)."""
        work = self.work_path(stage, key)
        total = self._read_json(work / "total.json")
        done = sum(1 for _ in work.glob("[0-9]*.json"))
        return done, total["total"] if total else None

    def write_tables(self, stage: str, key: str, name: int | str, tables: Tables) -> None:
        """Write arrays beside the row of a patch, or of the whole stage (a name)."""
        with (
            replacing(self._tables_path(stage, key, name)) as part,
            part.open("wb") as file,
        ):
            np.savez(file, allow_pickle=False, **tables)

    def tables(self, stage: str, key: str, name: int | str) -> Tables:
        """Read the arrays that :meth:`write_tables` wrote."""
        path = self._tables_path(stage, key, name)
        try:
            with np.load(path) as file:
                return {key: file[key] for key in file.files}
        except FileNotFoundError:
            raise RunStateError(
                f"{path} is missing, expected the tables of stage {stage!r}; "
                f"do the stage again: codexseg run --from {stage}."
            ) from None

    # -- labels of the patches --------------------------------------------------------

    def create_patches(self, n: int, shape: tuple[int, int]) -> None:
        """Make the array of the backend's labels, (patch, compartment, y, x) uint32."""
        import zarr
        from zarr.codecs import BloscCodec

        store = self.path / "patches.zarr" / "original"
        full = (n, 2, *shape)
        if store.exists() and zarr.open_array(store, mode="r").shape == full:
            return
        shutil.rmtree(store, ignore_errors=True)
        chunks = (1, 1, min(shape[0], _CHUNK_PX), min(shape[1], _CHUNK_PX))
        zarr.create_array(
            store,
            shape=full,
            chunks=chunks,
            dtype="uint32",
            fill_value=0,
            compressors=BloscCodec(cname="lz4", clevel=3, shuffle="noshuffle"),
        )

    def sweep_patches(self) -> None:
        """Remove the chunks that a killed process left half-written."""
        for left in (self.path / "patches.zarr").rglob("*.partial"):
            left.unlink(missing_ok=True)

    def write_patch(self, patch: int, labels: NDArray[np.uint32]) -> None:
        """Write the labels of one patch, (2, y, x); its chunks are its own."""
        height, width = labels.shape[1:]
        self._patches("r+")[patch, :, :height, :width] = labels

    def read_patch(
        self, patch: int, outer: Window, window: Window | None = None
    ) -> NDArray[np.uint32]:
        """Read the labels of a patch, (2, y, x), or of a window inside its outer one."""
        ys, xs = (window or outer).within(outer)
        return np.asarray(self._patches("r")[patch, :, ys, xs], dtype=np.uint32)

    def _patches(self, mode: Any) -> Any:
        import zarr

        store = self.path / "patches.zarr" / "original"
        try:
            return zarr.open_array(store, mode=mode)
        except FileNotFoundError:
            raise RunStateError(
                f"{store} is missing, expected the labels of the patches; "
                f"do the stage again: codexseg run --from segment."
            ) from None

    def _marker_path(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"

    def _tables_path(self, stage: str, key: str, name: int | str) -> Path:
        stem = name if isinstance(name, str) else f"{name:06d}"
        return self.work_path(stage, key) / f"{stem}.npz"

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
        return content
