"""Atomic files, arrays in files, checksums, and the cache folder of the user."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import platformdirs
from numpy.typing import NDArray

from codexseg.errors import RunStateError

_MAPPED_BYTES = 2**20
"""Arrays of more bytes are mapped into memory; smaller ones are read."""


def cache_dir() -> Path:
    """Return the cache folder: $CODEXSEG_CACHE, or that of the user."""
    return Path(os.environ.get("CODEXSEG_CACHE") or platformdirs.user_cache_dir("codexseg"))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it at the end.

    The file is flushed to disk before it is renamed. On an error it is removed, and
    `path` is unchanged.
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


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists; a folder disappears at once."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    gone = path
    if not path.name.startswith("."):
        gone = path.rename(path.with_name(f".{path.name}.{uuid4().hex}"))
    shutil.rmtree(gone, ignore_errors=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file that is either absent or complete."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as ``.npy`` files into a folder that is either absent or complete.

    An existing folder is replaced. No process may be reading it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid4().hex}")
    part.mkdir()
    try:
        for name, array in arrays.items():
            with (part / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        remove(folder)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


class ArrayFiles(Mapping[str, NDArray[Any]]):
    """Arrays in .npy files, read on access; large ones are memory-mapped.

    Parameters
    ----------
    paths : dict of str to Path
        The file of each array.
    remedy : str
        End of the message about a missing or damaged file.
    """

    def __init__(
        self,
        paths: dict[str, Path],
        remedy: str = "Run the same command again to recompute it.",
    ) -> None:
        self._paths, self._remedy = paths, remedy

    def __getitem__(self, name: str) -> NDArray[Any]:
        path = self._paths[name]
        try:
            large = path.stat().st_size > _MAPPED_BYTES
            array: NDArray[Any] = np.load(path, mmap_mode="r" if large else None)
        except (OSError, ValueError, EOFError) as error:
            raise RunStateError(
                f"{path} is missing or damaged ({error}). {self._remedy}"
            ) from error
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def map_npy(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Create a memory-mapped ``.npy`` of zeros with its disk space allocated.

    In a sparse file, a full disk would kill the process at a later write.
    """
    mapped: NDArray[Any] = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped
