"""Tarballs of weights: what they hash to, and what is in them."""

import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal, cast

from codexseg.errors import InputError

TARBALLS = (".tar.gz", ".tgz", ".tar")
MOST_BYTES = 2**31
"""No network unpacks to more."""
_CHUNK_BYTES = 2**20


def file_hash(path: Path, algorithm: Literal["md5", "sha256"]) -> str:
    """Hash a file, in hexadecimal; remembered in this process while it does not change."""
    status = path.stat()
    return _hash(os.fspath(path), status.st_mtime_ns, status.st_size, algorithm)


def new_md5() -> Any:
    """Start an md5, also where the system forbids it for secrets: here it is a name."""
    return hashlib.md5(usedforsecurity=False)


def unpack(tarball: Path, folder: Path, check: Callable[[Path], object]) -> None:
    """Unpack a tarball; the folder appears complete or not at all.

    Only regular files are taken, and none that would lie outside of the folder.

    Parameters
    ----------
    tarball : Path
        Its name ends in one of `TARBALLS`.
    folder : Path
        Where its content goes; where it exists, nothing is done.
    check : callable
        Is given the content before it is kept, and raises where it is not right.

    Raises
    ------
    InputError
        If the tarball is cut off or damaged, or what `check` raises.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as name:
        part = Path(name) / folder.name
        part.mkdir()
        try:
            with _opened(tarball) as stream:
                _extract(stream, part)
        except _BROKEN as error:
            raise InputError(
                f"{tarball} ({tarball.stat().st_size} bytes) cannot be unpacked ({error}): "
                f"it is cut off, damaged, or not of the kind that its name says "
                f"({', '.join(TARBALLS)}). Delete it and fetch it again."
            ) from error
        check(part)
        try:
            part.rename(folder)
        except OSError:  # somebody else unpacked it meanwhile
            if not folder.is_dir():
                raise


_BROKEN = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    RecursionError,  # what follows is raised for headers that nobody writes by chance
    OverflowError,
    ValueError,
)


def _opened(tarball: Path) -> IO[bytes]:
    if tarball.name.lower().endswith(".tar"):
        return tarball.open("rb")
    return cast("IO[bytes]", gzip.open(tarball, "rb"))


def _extract(stream: IO[bytes], folder: Path) -> None:
    # tarfile's filters came with 3.11.4: what they guard from is refused here as well
    root, total = folder.resolve(), 0
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            target = (folder / member.name).resolve()
            if not target.is_relative_to(root):
                raise tarfile.TarError(f"it holds {member.name!r}, outside of its folder")
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                total += member.size
                if total > MOST_BYTES:
                    raise tarfile.TarError(f"it holds more than {MOST_BYTES} bytes")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, _CHUNK_BYTES)
    while stream.read(_CHUNK_BYTES):  # gzip checks its sum at the very end
        pass


@lru_cache(maxsize=256)
def _hash(path: str, mtime_ns: int, size: int, algorithm: str) -> str:
    del mtime_ns, size  # a file that changes is hashed again
    with Path(path).open("rb") as file:
        made = hashlib.file_digest(file, new_md5 if algorithm == "md5" else hashlib.sha256)
    return made.hexdigest()
