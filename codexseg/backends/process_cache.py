"""Caches of this process: loaded models and digests of files."""

import hashlib
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

T = TypeVar("T")


def load_once(load: Callable[..., T], *arguments: Hashable, content: str = "") -> T:
    """Return ``load(*arguments)``, computed once per process and content.

    The latest two results are kept, as cellpose runs two models by turns. `content` is a
    digest of the files that are loaded, if the arguments do not contain one.
    """
    return cast("T", _load(load, arguments, content))


def digest_once(compute: Callable[..., str], path: Path, *arguments: str) -> str:
    """Return ``compute(path, *arguments)``, once per process until the file changes."""
    status = path.stat()
    return _digest(compute, (status.st_mtime_ns, status.st_size), path, *arguments)


def file_hash(path: Path, algorithm: Literal["md5", "sha256"]) -> str:
    """Return the hash of a file, in hexadecimal; computed once until the file changes."""
    return digest_once(_file_hash, path, algorithm)


def files_digest(folder: Path, files: Iterable[Path]) -> str:
    """Return the sha256 of the names and hashes of files in a folder, in hexadecimal."""
    lines = (
        f"{file.relative_to(folder).as_posix()} {file_hash(file, 'sha256')}\n"
        for file in files
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_hash(path: Path, algorithm: str) -> str:
    # md5 also on systems that forbid it for security
    new_hash = partial(hashlib.new, algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, new_hash).hexdigest()


@lru_cache(maxsize=2)
def _load(load: Callable[..., Any], arguments: tuple[Hashable, ...], content: str) -> Any:
    del content  # it is part of the cache key
    return load(*arguments)


@lru_cache(maxsize=256)
def _digest(compute: Callable[..., str], status: Hashable, *arguments: Hashable) -> str:
    del status  # it is part of the cache key
    return compute(*arguments)
