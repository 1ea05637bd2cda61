"""Tarballs of weights."""

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory

from codexseg.errors import InputError

TARBALLS = (".tar.gz", ".tgz", ".tar")
MAX_BYTES = 2**31
"""Maximum size of an unpacked network."""
_CHUNK_BYTES = 2**20


def unpack(tarball: Path, folder: Path, check: Callable[[Path], object]) -> None:
    """Unpack the regular files of a tarball into a folder, completely or not at all.

    Parameters
    ----------
    tarball : Path
        Its name ends in one of `TARBALLS`.
    folder : Path
        Target folder; nothing is unpacked if it exists.
    check : callable
        Called with the unpacked folder before it is kept; raises InputError if its
        content is wrong.

    Raises
    ------
    InputError
        If the tarball is cut off or damaged, contains files outside of its folder, or
        `check` raises it.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as name:
        part = Path(name) / folder.name
        part.mkdir()
        try:
            is_plain = tarball.name.lower().endswith(".tar")
            with tarball.open("rb") if is_plain else gzip.open(tarball) as stream:
                _extract(stream, part)
        except _BROKEN as error:
            raise InputError(
                f"{tarball} ({tarball.stat().st_size} bytes) cannot be unpacked ({error}): "
                f"it is cut off, damaged, or of another format than its name "
                f"({', '.join(TARBALLS)}). Delete it and fetch it again."
            ) from error
        check(part)
        try:
            part.rename(folder)
        except OSError:  # another process has unpacked it meanwhile
            if not folder.is_dir():
                raise


_BROKEN = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    RecursionError,  # this and the following: crafted headers
    OverflowError,
    ValueError,
)


def _extract(stream: BufferedReader | gzip.GzipFile, folder: Path) -> None:
    # tarfile's filters need Python 3.11.4; these checks refuse the same
    root, total = folder.resolve(), 0
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            target = (folder / member.name).resolve()
            if not target.is_relative_to(root):
                raise tarfile.TarError(f"{member.name!r} is outside of its folder")
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                total += member.size
                if total > MAX_BYTES:
                    raise tarfile.TarError(f"it contains more than {MAX_BYTES} bytes")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, _CHUNK_BYTES)
    while stream.read(_CHUNK_BYTES):  # gzip checks its sum at the end
        pass
