"""Mesmer's published weights, from the DeepCell API into deepcell's own cache.

The access token is read where it is sent, and stands in no variable of ours; the errors
of requests, which quote addresses, are not chained to those raised here; the address of
the storage carries a signature and is as secret as the token.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from codexseg.backends.networks.archive import file_hash
from codexseg.backends.networks.weights import (
    KNOWN,
    TOKEN,
    KnownWeights,
    deepcell_dir,
    unpack_saved_model,
)
from codexseg.errors import BackendUnavailable, InputError
from codexseg.run.files import replacing

if TYPE_CHECKING:
    import requests

API = "https://users.deepcell.org/api/getData/"

_ACCOUNT = "https://users.deepcell.org"
_AGENT = "Wget/1.20 (linux-gnu)"  # deepcell's client names itself so to the storage
_TIMEOUT_S = (10.0, 60.0)  # to connect; of silence
_CHUNK_BYTES = 2**20

T = TypeVar("T")


def fetch_mesmer(announce: Callable[[str], object] = lambda _: None) -> Path:
    """Fetch Mesmer's weights to where deepcell keeps them, and unpack them beside.

    A tarball that is there needs neither token nor network; one of another md5 is
    replaced. Progress is shown on a terminal.

    Parameters
    ----------
    announce : callable
        Is told the licence before something is downloaded, and of a tarball that is not
        the one expected, that it is so and, then, that it was replaced.

    Returns
    -------
    Path
        The tarball.

    Raises
    ------
    BackendUnavailable
        If there is no token or it is refused, if the API does not know the file, or if
        API or storage cannot be reached.
    InputError
        If what came is not the file expected, or cannot be written.

    Notes
    -----
    API and cache are those of `deepcell.utils.fetch_data` (deepcell 0.12.10).
    """
    known = KNOWN["mesmer"]
    folder = deepcell_dir()
    tarball, unpacked = folder / known.file_name, folder / known.folder
    try:
        found = tarball.is_file()
        here = found and file_hash(tarball, "md5") == known.md5
        if found and not here:
            announce(f"{tarball} has another md5 than {known.title}.")
        if not here:
            _check_token(known)
            announce(f"Licence: {known.licence}")
            _download(known, tarball)
            if found:
                announce(f"{tarball} was replaced.")
        if not (here and unpacked.is_dir()):
            _unpack(tarball, unpacked)
    except OSError as error:
        raise InputError(
            f"the weights cannot be written to {folder} ({error.strerror or error}): make "
            f"room there, or the folder writable."
        ) from error
    return tarball


def _check_token(known: KnownWeights) -> None:
    if not _token():
        raise BackendUnavailable(
            f"{TOKEN} is not set: {known.title} is fetched from DeepCell with an access "
            f"token, which is free for academic use ({_ACCOUNT}). Set it in the "
            f"environment, or copy the tarball from where it is into {deepcell_dir()}."
        )
    if not re.fullmatch(r"[!-~]+", _token()):
        raise BackendUnavailable(
            f"{TOKEN} is set, and holds characters that no access token has: set it to the "
            f"token alone, as {_ACCOUNT} shows it."
        )


def _token() -> str:
    return os.environ.get(TOKEN, "").strip()


def _download(known: KnownWeights, tarball: Path) -> None:
    import requests

    with replacing(tarball) as part, requests.Session() as session, _no_log():
        _answered(lambda: _save(_open(session, known), part, known.file_name))
        found = file_hash(part, "md5")
        if found != known.md5:
            raise InputError(
                f"{known.file_name} as downloaded ({part.stat().st_size} bytes) has md5 "
                f"{found}, expected {known.md5}; it was removed. Try again; if it "
                f"persists, a proxy changes files, or another version was published."
            )


def _answered(send: Callable[[], T]) -> T:
    """Send, and raise errors that quote no address and no header, chained to none."""
    import requests

    try:
        return send()
    except requests.RequestException as error:
        reason = f"{type(error).__name__}{_system_reason(error)}"
    raise BackendUnavailable(
        f"DeepCell cannot be reached, or the connection broke ({reason}): check the "
        f"network and the proxy (HTTPS_PROXY), and try again. Nothing was kept."
    )


def _ask(session: "requests.Session", known: KnownWeights) -> str:
    """Return where the storage has the file: an address that is signed, and secret."""
    import requests

    def key(request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        request.headers["X-Api-Key"] = _token()
        return request

    # a redirection would carry the header to another host
    response = session.post(
        API,
        data={"s3_key": known.asset_key},
        auth=key,
        timeout=_TIMEOUT_S,
        allow_redirects=False,
    )
    status = response.status_code
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise BackendUnavailable(
            f"the DeepCell API refuses the token in {TOKEN} ({_words(status)}): it may "
            f"have expired. Make a new one at {_ACCOUNT}."
        )
    if status == HTTPStatus.NOT_FOUND:
        raise BackendUnavailable(
            f"the DeepCell API does not know {known.asset_key} ({_words(status)}): it may "
            f"not be published any more. Look for a newer codexseg, or set "
            f"segmentation.model_path to a copy."
        )
    try:
        address = response.json()["url"] if status == HTTPStatus.OK else None
    except (requests.JSONDecodeError, KeyError, TypeError):
        address = None
    if not isinstance(address, str):
        raise _unexpected("the DeepCell API", status)
    return address


def _open(session: "requests.Session", known: KnownWeights) -> "requests.Response":
    """Ask for the file; the address does not outlive this function."""
    address, headers = _ask(session, known), {"User-Agent": _AGENT}
    return session.get(address, headers=headers, stream=True, timeout=_TIMEOUT_S)


def _save(response: "requests.Response", part: Path, name: str) -> None:
    with response:
        if response.status_code != HTTPStatus.OK:
            raise _unexpected("DeepCell's storage", response.status_code)
        length = response.headers.get("Content-Length", "")
        with (
            part.open("wb") as file,
            tqdm(
                desc=name,
                total=int(length) if length.isdigit() else None,
                unit="B",
                unit_scale=True,
                disable=None,
                leave=False,
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))


def _unexpected(who: str, status: int) -> BackendUnavailable:
    return BackendUnavailable(
        f"{who} answered {_words(status)}, expected what was asked for: try again later."
    )


def _words(status: int) -> str:
    """Return a status in words of our own: a server may quote anything in its reason."""
    known = status in HTTPStatus.__members__.values()
    return f"{status} {HTTPStatus(status).phrase}" if known else str(status)


def _system_reason(error: BaseException | None) -> str:
    """Return what the system said, such as "Connection refused": it quotes no address."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return f": {error.strerror}"
        error = error.__cause__ or error.__context__
    return ""


def _unpack(tarball: Path, folder: Path) -> None:
    """Unpack the SavedModel to a folder; what is there goes, as with deepcell."""
    with TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as name:
        found = unpack_saved_model(tarball, Path(name) / "new")
        if folder.is_dir():
            folder.rename(Path(name) / "old")
        found.rename(folder)


@contextmanager
def _no_log() -> Iterator[None]:
    """Keep urllib3 from logging addresses."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("urllib3")]
    loggers = [log for log in map(logging.getLogger, names) if not log.disabled]
    for log in loggers:
        log.disabled = True
    try:
        yield
    finally:
        for log in loggers:
            log.disabled = False
