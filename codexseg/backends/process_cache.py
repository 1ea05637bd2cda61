"""Caches of this process: loaded models and digests of files."""

import hashlib
import os
from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

T = TypeVar("T")


def load_once(load: Callable[..., T], *arguments: Hashable) -> T:
    """Return ``load(*arguments)``, computed once per process.

    The latest two results are kept, as cellpose runs two models by turns.
    """
    return cast("T", _load(load, arguments))


def digest_once(compute: Callable[[Path], str], path: Path) -> str:
    """Return ``compute(path)``, computed once per process until the file changes."""
    status = path.stat()
    return _digest(compute, os.fspath(path), status.st_mtime_ns, status.st_size)


def file_hash(path: Path, algorithm: Literal["md5", "sha256"]) -> str:
    """Return the hash of a file, in hexadecimal; computed once until the file changes."""
    return digest_once(_md5 if algorithm == "md5" else _sha256, path)


def new_md5() -> Any:
    """Return an md5 object, also on systems that forbid md5 for security."""
    return hashlib.md5(usedforsecurity=False)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return str(hashlib.file_digest(file, new_md5).hexdigest())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.sha256).hexdigest()


@lru_cache(maxsize=2)
def _load(load: Callable[..., Any], arguments: tuple[Hashable, ...]) -> Any:
    return load(*arguments)


@lru_cache(maxsize=256)
def _digest(compute: Callable[[Path], str], path: str, mtime_ns: int, size: int) -> str:
    del mtime_ns, size  # they are part of the cache key
    return compute(Path(path))
