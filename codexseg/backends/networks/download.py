"""Download of Mesmer's published weights from the DeepCell API into deepcell's cache.

The access token is read when it is sent and is not kept in a variable. The address of the
storage contains a signature and is as secret as the token, so errors of requests, which
quote addresses, are not chained to errors of this module.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tqdm import tqdm

from codexseg.backends.networks.weights import (
    KNOWN,
    TOKEN,
    KnownWeights,
    deepcell_dir,
    unpack_saved_model,
)
from codexseg.backends.process_cache import file_hash
from codexseg.errors import BackendUnavailable, InputError
from codexseg.run.files import replacing

if TYPE_CHECKING:
    import requests

API = "https://users.deepcell.org/api/getData/"

_ACCOUNT = "https://users.deepcell.org"
_AGENT = "Wget/1.20 (linux-gnu)"  # as deepcell's client
_TIMEOUT_S = (10.0, 60.0)  # to connect, to receive
_CHUNK_BYTES = 2**20


def fetch_mesmer(announce: Callable[[str], object] = lambda _: None) -> Path:
    """Fetch Mesmer's weights into deepcell's cache and unpack them.

    An existing tarball needs neither token nor network. One with another md5 is replaced.
    A terminal shows the progress.

    Parameters
    ----------
    announce : callable
        Called with the licence before the download, and with a message before and after
        an existing tarball is replaced.

    Returns
    -------
    Path
        The tarball.

    Raises
    ------
    BackendUnavailable
        If there is no token, or it is refused, or the API has no such file, or API or
        storage cannot be reached.
    InputError
        If the downloaded file has another md5, or cannot be written.

    Notes
    -----
    API and cache are those of `deepcell.utils.fetch_data` (deepcell 0.12.10).
    """
    known = KNOWN["mesmer"]
    folder = deepcell_dir()
    tarball, unpacked = folder / known.file_name, folder / known.folder
    try:
        has_tarball = tarball.is_file()
        is_complete = has_tarball and file_hash(tarball, "md5") == known.md5
        if has_tarball and not is_complete:
            announce(f"{tarball} has another md5 than {known.title}.")
        if not is_complete:
            _check_token(known)
            announce(f"Licence: {known.licence}")
            _download(known, tarball)
            if has_tarball:
                announce(f"{tarball} was replaced.")
        if not (is_complete and unpacked.is_dir()):
            _unpack(tarball, unpacked)
    except OSError as error:
        raise InputError(
            f"The weights cannot be written to {folder} ({error.strerror or error}). Free "
            f"some space there, or make the folder writable."
        ) from error
    return tarball


def _check_token(known: KnownWeights) -> None:
    if not _token():
        raise BackendUnavailable(
            f"{TOKEN} is not set. {known.title} needs an access token of DeepCell, which "
            f"is free for academic use ({_ACCOUNT}). Set it in the environment, or copy "
            f"the tarball into {deepcell_dir()}."
        )
    if not re.fullmatch(r"[!-~]+", _token()):
        raise BackendUnavailable(
            f"{TOKEN} contains characters that no access token has. Set it to the token "
            f"alone, as {_ACCOUNT} shows it."
        )


def _token() -> str:
    return os.environ.get(TOKEN, "").strip()


def _download(known: KnownWeights, tarball: Path) -> None:
    import requests

    with replacing(tarball) as part, requests.Session() as session, _no_log():
        _answered(lambda: _save(_open(session, known), part, known.file_name))
        md5 = file_hash(part, "md5")
        if md5 != known.md5:
            raise InputError(
                f"{known.file_name} as downloaded ({part.stat().st_size} bytes) has md5 "
                f"{md5}, expected {known.md5}; it was removed. Try again. If the error "
                f"persists, a proxy changes files, or another version was published."
            )


def _answered(send: Callable[[], None]) -> None:
    """Send a request; raise errors without address and headers, chained to none."""
    import requests

    try:
        return send()
    except requests.RequestException as error:
        reason = f"{type(error).__name__}{_system_reason(error)}"
    raise BackendUnavailable(
        f"DeepCell cannot be reached, or the connection broke ({reason}). Check the "
        f"network and the proxy (HTTPS_PROXY), and try again. Nothing was kept."
    )


def _ask(session: "requests.Session", known: KnownWeights) -> str:
    """Return the address of the file in the storage; it is signed, and secret."""
    import requests

    def key(request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        request.headers["X-Api-Key"] = _token()
        return request

    # a redirection would send the header to another host
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
            f"The DeepCell API refuses the token in {TOKEN} ({_phrase(status)}). It may "
            f"have expired. Create a new one at {_ACCOUNT}."
        )
    if status == HTTPStatus.NOT_FOUND:
        raise BackendUnavailable(
            f"The DeepCell API has no {known.asset_key} ({_phrase(status)}). It may not be "
            f"published any more. Look for a newer codexseg, or set "
            f"segmentation.model_path to a copy."
        )
    try:
        address = response.json()["url"] if status == HTTPStatus.OK else None
    except (requests.JSONDecodeError, KeyError, TypeError):
        address = None
    if not isinstance(address, str):
        raise _unexpected("The DeepCell API", status)
    return address


def _open(session: "requests.Session", known: KnownWeights) -> "requests.Response":
    """Request the file; the address does not outlive this function."""
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
        f"{who} answered {_phrase(status)}. Expected the file. Try again later."
    )


def _phrase(status: int) -> str:
    """Return a status with its standard phrase; that of a server may quote anything."""
    is_standard = status in HTTPStatus.__members__.values()
    return f"{status} {HTTPStatus(status).phrase}" if is_standard else str(status)


def _system_reason(error: BaseException | None) -> str:
    """Return the message of the system, "Connection refused" for instance.

    It contains no address.
    """
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return f": {error.strerror}"
        error = error.__cause__ or error.__context__
    return ""


def _unpack(tarball: Path, folder: Path) -> None:
    """Unpack the SavedModel to a folder, which is replaced, as deepcell does."""
    with TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as name:
        saved_model = unpack_saved_model(tarball, Path(name) / "new")
        if folder.is_dir():
            folder.rename(Path(name) / "old")
        saved_model.rename(folder)


@contextmanager
def _no_log() -> Iterator[None]:
    """Disable the loggers of urllib3, which log addresses."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("urllib3")]
    loggers = [log for log in map(logging.getLogger, names) if not log.disabled]
    for log in loggers:
        log.disabled = True
    try:
        yield
    finally:
        for log in loggers:
            log.disabled = False
