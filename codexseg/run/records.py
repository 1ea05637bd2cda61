"""Records of a stage: one JSON file per finished patch, with its arrays beside it.

::

    RUN/work/<stage>-<key>/NNNNNN.json          record of a finished item
                           NNNNNN.npz           its small arrays
                           NNNNNN.<name>.npy    its large arrays
                           <table>/<name>.npy   arrays of the whole stage
                           total.json           number of items

The arrays are written before the record, so an item with a record is complete.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from codexseg.arrays import Columns
from codexseg.errors import RunStateError
from codexseg.run.files import ArrayFiles, replacing, sha256_of, write_arrays, write_atomic

Record = dict[str, Any]

_DELETE = "Delete it and run the same command again to recompute the stage."


def read_json(path: Path) -> Record | None:
    """Return the content of a JSON file of the run, or None if there is no file.

    Raises
    ------
    RunStateError
        If the file is damaged.
    """
    try:
        content: Record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise RunStateError(
            f"{path} is damaged: it is not JSON ({error}). {_DELETE}"
        ) from error
    if not isinstance(content, dict):
        raise RunStateError(f"{path} is damaged: expected a JSON object. {_DELETE}")
    return content


@dataclass(frozen=True)
class StageRecords:
    """Records and arrays of one stage for one key. Holds paths only, so it is picklable.

    Attributes
    ----------
    run : Path
        The run directory.
    stage : str
        Name of the stage, or ``stage.part`` for one of its passes.
    key : str
        Key of the stage.
    """

    run: Path
    stage: str
    key: str

    @property
    def folder(self) -> Path:
        """The work folder of the stage."""
        return self.run / "work" / f"{self.stage}-{self.key[:12]}"

    def part(self, name: str) -> "StageRecords":
        """Return the records of one pass of the stage; "" for the stage itself."""
        stage = self.stage.partition(".")[0]
        return StageRecords(self.run, f"{stage}.{name}" if name else stage, self.key)

    # -- records ----------------------------------------------------------------------

    def read(self, item: int) -> Record | None:
        """Return the record of an item, or None if the item is not finished."""
        return read_json(self._path(item, ".json"))

    def read_all(self) -> dict[int, Record]:
        """Return the records of all finished items, in order. Damaged ones are missing."""
        records = {}
        for path in sorted(self.folder.glob("[0-9]*.json")):
            try:
                records[int(path.stem)] = dict(json.loads(path.read_text("utf-8")))
            except (ValueError, TypeError):
                continue  # a damaged record: the item is computed again
        return records

    def write(self, item: int, record: Mapping[str, Any]) -> None:
        """Mark an item as finished. Call this after its arrays were written."""
        arrays = self._path(item, ".npz")
        if arrays.exists():
            files = {**record.get("files", {}), **self.describe_files(arrays)}
            record = {**record, "files": files}
        write_atomic(self._path(item, ".json"), json.dumps(record, sort_keys=True))

    def forget(self, item: int) -> None:
        """Mark an item as not finished."""
        self._path(item, ".json").unlink(missing_ok=True)

    def describe_files(self, *paths: Path) -> dict[str, tuple[int, str]]:
        """Return size and sha256 of files of the run, by path relative to the run."""
        return {
            path.relative_to(self.run).as_posix(): (path.stat().st_size, sha256_of(path))
            for path in paths
        }

    def is_intact(self, record: Record) -> bool:
        """Return whether all files of an item exist with the recorded size."""
        for name, described in record.get("files", {}).items():
            # Version 0.1.0 recorded the size alone.
            size = described if isinstance(described, int) else described[0]
            path = self.run / name
            if not path.is_file() or path.stat().st_size != size:
                return False
        return True

    def write_total(self, total: int) -> None:
        """Record the number of items for :meth:`progress`."""
        write_atomic(self.folder / "total.json", json.dumps({"total": total}))

    def progress(self) -> tuple[int, int | None]:
        """Return the numbers of finished and of all items; None if unknown."""
        try:
            total = read_json(self.folder / "total.json")
        except RunStateError:  # the stage is recomputed, which writes the file again
            total = None
        records = self.read_all().values() if total else []
        finished = sum(1 for record in records if record.get("status") != "failed")
        return finished, total["total"] if total else None

    # -- arrays -----------------------------------------------------------------------

    def write_table(self, name: str, columns: Columns) -> None:
        """Write arrays of the whole stage.

        They grow with the slide. Readers map them into memory, so workers share them.
        """
        write_arrays(self.folder / name, columns)

    def read_table(self, name: str) -> Columns:
        """Open the arrays that :meth:`write_table` wrote."""
        folder = self.folder / name
        if folder.is_dir():
            return ArrayFiles({p.stem: p for p in folder.glob("*.npy")}, self._remedy)
        return self._read_npz(folder.with_suffix(".npz"))  # of version 0.1.0

    def has_table(self, name: str) -> bool:
        """Return whether the stage wrote a table of this name."""
        return (self.folder / name).is_dir() or (self.folder / f"{name}.npz").exists()

    def write_columns(self, item: int, columns: Columns) -> None:
        """Write the small arrays of an item."""
        with replacing(self._path(item, ".npz")) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **dict(columns))

    def read_columns(self, item: int) -> Columns:
        """Read the arrays that :meth:`write_columns` wrote."""
        return self._read_npz(self._path(item, ".npz"))

    def write_arrays(self, item: int, arrays: Columns) -> dict[str, tuple[int, str]]:
        """Write the large arrays of an item; return size and sha256 of each file.

        The record of the item lists their names under "arrays".
        """
        paths = {name: self._path(item, f".{name}.npy") for name in arrays}
        for name, array in arrays.items():
            with replacing(paths[name]) as part, part.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        return self.describe_files(*paths.values())

    def open_arrays(self, item: int) -> Columns:
        """Open the arrays that :meth:`write_arrays` wrote; each is read on access."""
        record = self.read(item)
        if record is None:
            raise RunStateError(
                f"Item {item} is missing from {self.folder}. Run the same command again "
                f"to recompute it."
            )
        paths = {name: self._path(item, f".{name}.npy") for name in record["arrays"]}
        return ArrayFiles(paths)

    @property
    def _remedy(self) -> str:
        stage = self.stage.partition(".")[0]
        return f"Recompute the stage with codexseg run CONFIG --force {stage}."

    def _read_npz(self, path: Path) -> Columns:
        try:
            with np.load(path) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise RunStateError(
                f"{path} is missing or damaged ({error}). {self._remedy}"
            ) from error

    def _path(self, item: int, suffix: str) -> Path:
        return self.folder / f"{item:06d}{suffix}"
