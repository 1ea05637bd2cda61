"""One file of one project from the package index that pip uses, without pip's build.

Sample data travels inside source distributions. pip can fetch those, but builds their
metadata first, which runs their code; here the file is only downloaded and checked.
"""

import ast
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from codexseg.errors import CodexsegError, InputError

if TYPE_CHECKING:
    import requests

_SECTIONS = ("global", "download", ":env:")  # later ones win, as in `pip download`
_PIP_TIMEOUT_S = 15.0
_CONNECT_TIMEOUT_S = 10.0
_RETRIES = 2
_CHUNK_BYTES = 2**20


class RegistryUnavailable(CodexsegError, ConnectionError):
    """No package index could be reached, or none has the file."""


@dataclass(frozen=True)
class PipSettings:
    """What pip is told about package indexes; None or empty = not set.

    Attributes
    ----------
    indexes : tuple of str
        Addresses of simple indexes, in pip's order; empty: the public one.
    no_index : bool
        pip must use no index at all.
    cert, client_cert, proxy : str or None
        As pip's options of these names.
    timeout_s : float
        Seconds that a server may be silent.
    """

    indexes: tuple[str, ...] = ()
    no_index: bool = False
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    timeout_s: float = _PIP_TIMEOUT_S


def download(project: str, filename: str, sha256: str, target: Path) -> None:
    """Download a file of a project to `target`, showing progress on a terminal.

    The indexes of pip's settings are asked one after the other; those that are not
    served over http (`file://`, folders) are passed over.

    Parameters
    ----------
    project, filename : str
        Such as "napari-prism" and "napari_prism-0.1.7.tar.gz".
    sha256 : str
        What the file must hash to, in hexadecimal.
    target : Path
        Where it is written; on an error nothing is left there.

    Raises
    ------
    RegistryUnavailable
        If no index answers or none has the file; names each index and its answer.
    InputError
        If the file that came is not the one expected.
    """
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    settings = read_pip_settings()
    if settings.no_index:
        raise RegistryUnavailable(
            f"{filename} was not downloaded: pip is told to use no index (no-index). "
            "Unset it to allow the download."
        )
    answers = []
    for index in settings.indexes or (PYPI_SIMPLE_ENDPOINT,):
        if urlsplit(index).scheme not in ("http", "https"):
            continue
        answer = _fetch(index, settings, project, filename, target)
        if answer is None:
            _check(target, filename, sha256)
            return
        answers.append(f"{_without_login(index)}: {answer}")
    reasons = "; ".join(answers) or "pip's settings name no index that is served by http"
    raise RegistryUnavailable(
        f"{filename} could not be downloaded ({reasons}). Check the network and "
        "`pip config list` (index-url, proxy, cert), then try again."
    )


def read_pip_settings() -> PipSettings:
    """Read pip's settings: its files and PIP_* variables, or the variables alone.

    Raises
    ------
    RegistryUnavailable
        If pip is installed and cannot read its own settings.
    """
    values = _pip_config_list() if importlib.util.find_spec("pip") else _pip_variables()
    first = [values["index-url"]] if values.get("index-url") else []
    extra = values.get("extra-index-url", "").split()
    if extra and not first:
        from pypi_simple import PYPI_SIMPLE_ENDPOINT

        first = [PYPI_SIMPLE_ENDPOINT]
    timeout = values.get("timeout") or values.get("default-timeout") or _PIP_TIMEOUT_S
    try:
        timeout_s = float(timeout)
    except ValueError:
        raise RegistryUnavailable(
            f"pip's timeout is {timeout!r}, expected seconds: see `pip config list`."
        ) from None
    return PipSettings(
        indexes=(*first, *extra),
        no_index=values.get("no-index", "").lower() in ("1", "true", "yes", "on"),
        cert=values.get("cert") or None,
        client_cert=values.get("client-cert") or None,
        proxy=values.get("proxy") or None,
        timeout_s=timeout_s,
    )


def parse_pip_config(text: str) -> dict[str, str]:
    """Return the settings that hold for `pip download` from what `pip config list` says.

    Parameters
    ----------
    text : str
        Lines such as ``global.index-url='...'``; other lines are passed over.

    Returns
    -------
    dict
        Value by name, with dashes: environment over [download] over [global].
    """
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        section, dot, name = key.partition(".")
        if equals and dot and section in found:
            found[section][name] = str(ast.literal_eval(value))
    return {name: value for part in found.values() for name, value in part.items()}


def _pip_config_list() -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RegistryUnavailable(
            f"pip cannot read its settings: {answer.stderr.strip()} "
            "Correct what `pip config debug` shows."
        )
    return parse_pip_config(answer.stdout)


def _pip_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    prefix = "PIP_"
    return {
        name.removeprefix(prefix).lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith(prefix)
    }


def _fetch(
    index: str, settings: PipSettings, project: str, filename: str, target: Path
) -> str | None:
    """Download from one index; return None, or why it was not to be had there."""
    import pypi_simple
    import requests
    from pypi_simple import tqdm_progress_factory

    timeout = (min(settings.timeout_s, _CONNECT_TIMEOUT_S), settings.timeout_s)
    bar = tqdm_progress_factory(
        desc=filename, unit="B", unit_scale=True, disable=None, leave=False
    )
    with pypi_simple.PyPISimple(index, session=_session(settings)) as client:
        try:
            page = client.get_project_page(project, timeout=timeout)
            files = [file for file in page.packages if file.filename == filename]
            if not files:
                return f"has {project}, but not {filename}"
            client.download_package(
                files[0], target, verify=False, progress=bar, timeout=timeout
            )
        except pypi_simple.NoSuchProjectError:
            return f"has no {project}"
        except (
            pypi_simple.UnsupportedContentTypeError,
            pypi_simple.UnsupportedRepoVersionError,
        ):
            return "is not a package index that can be read"
        except requests.RequestException as error:
            return f"{type(error).__name__}{_cause(error)}"
    return None


def _session(settings: PipSettings) -> "requests.Session":
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    for name, path in (("cert", settings.cert), ("client-cert", settings.client_cert)):
        if path and not Path(path).exists():
            raise RegistryUnavailable(
                f"pip's {name} is {path}, which does not exist: see `pip config list`."
            )
    session = requests.Session()
    retry = Retry(total=_RETRIES, backoff_factor=0.3, status_forcelist=(500, 502, 503, 504))
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    if settings.cert:
        session.verify = settings.cert
    if settings.client_cert:
        session.cert = settings.client_cert
    if settings.proxy:
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
        session.trust_env = False  # as in pip: the variables would win otherwise
    return session


def _cause(error: Exception) -> str:
    """Return the status, or the end of the innermost reason: no address, no login."""
    response = getattr(error, "response", None)
    if response is not None:
        return f" ({response.status_code} {response.reason})"
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", inner)
    text = str(reason).rpartition(": ")[2]
    return f" ({text})" if isinstance(reason, Exception) and "@" not in text else ""


def _without_login(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _check(file: Path, filename: str, sha256: str) -> None:
    found = file_sha256(file)
    if found != sha256:
        size = file.stat().st_size
        file.unlink()
        raise InputError(
            f"{filename} as downloaded ({size} bytes) has sha256 {found}, expected "
            f"{sha256}; it was removed. Try again; if it persists, the package index or a "
            "proxy on the way changes files."
        )


def file_sha256(path: Path) -> str:
    """Hash a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()
