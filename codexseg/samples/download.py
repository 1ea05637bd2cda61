"""Download of one file of a project from the package indexes that pip uses.

Sample data are part of source distributions. pip can download those, but runs their code
to build the metadata. This module only downloads and checks the file.
"""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from codexseg.errors import CodexsegError, InputError
from codexseg.run.files import sha256_of

if TYPE_CHECKING:
    import requests

_SECTIONS = ("global", "download", ":env:")  # later ones win, as in `pip download`
_PIP_TIMEOUT_S = 15.0
_CONNECT_TIMEOUT_S = 10.0
_RETRIES = 2


class RegistryUnavailable(CodexsegError, ConnectionError):
    """No package index answers, or none has the file."""


@dataclass(frozen=True)
class PipSettings:
    """Settings of pip about package indexes; None means not set.

    Attributes
    ----------
    indexes : tuple of str
        Addresses of simple indexes, in pip's order.
    no_index : bool
        Whether pip must not use any index.
    cert, client_cert, proxy : str or None
        pip's options of these names.
    timeout_s : float
        Longest silence of a server, seconds.
    """

    indexes: tuple[str, ...]
    no_index: bool = False
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    timeout_s: float = _PIP_TIMEOUT_S


def download(project: str, filename: str, sha256: str, target: Path) -> None:
    """Download a file of a project to `target`, with a progress bar on a terminal.

    The indexes in pip's settings are tried in order. Indexes that are not served over
    http (`file://`, folders) are skipped.

    Parameters
    ----------
    project, filename : str
        For example "napari-prism" and "napari_prism-0.1.7.tar.gz".
    sha256 : str
        Expected hash of the file, hexadecimal.
    target : Path
        The file to write; it does not exist after an error.

    Raises
    ------
    RegistryUnavailable
        If no index answers or none has the file; the message lists each index and its
        answer.
    InputError
        If the downloaded file has another hash.
    """
    settings = read_pip_settings()
    if settings.no_index:
        raise RegistryUnavailable(
            f"{filename} was not downloaded because pip's setting no-index is on. Unset it "
            "to allow the download."
        )
    answers = []
    for index in settings.indexes:
        address = urlsplit(index)
        if address.scheme not in ("http", "https"):
            continue
        answer = _fetch(index, settings, project, filename, target)
        if answer is None:
            _check(target, filename, sha256)
            return
        public = address._replace(netloc=address.netloc.rpartition("@")[2])
        answers.append(f"{public.geturl()}: {answer}")
    reasons = "; ".join(answers) or "pip's settings list no index that is served by http"
    raise RegistryUnavailable(
        f"{filename} could not be downloaded ({reasons}). Check the network and "
        "`pip config list` (index-url, proxy, cert), then try again."
    )


def read_pip_settings() -> PipSettings:
    """Read pip's configuration files and PIP_* variables; without pip, the variables.

    Raises
    ------
    RegistryUnavailable
        If pip cannot read its settings, or its timeout is not a number.
    """
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    values = _pip_config_list() if importlib.util.find_spec("pip") else _pip_variables()
    index = values.get("index-url") or PYPI_SIMPLE_ENDPOINT
    timeout = values.get("timeout") or values.get("default-timeout") or _PIP_TIMEOUT_S
    try:
        timeout_s = float(timeout)
    except ValueError:
        raise RegistryUnavailable(
            f"pip's timeout is {timeout!r}, expected seconds. See `pip config list`."
        ) from None
    return PipSettings(
        indexes=(index, *values.get("extra-index-url", "").split()),
        no_index=values.get("no-index", "").lower() in ("1", "true", "yes", "on"),
        cert=values.get("cert") or None,
        client_cert=values.get("client-cert") or None,
        proxy=values.get("proxy") or None,
        timeout_s=timeout_s,
    )


def parse_pip_config(text: str) -> dict[str, str]:
    """Return the settings of `pip download` in the output of `pip config list`.

    Parameters
    ----------
    text : str
        Lines such as ``global.index-url='...'``; other lines are ignored.

    Returns
    -------
    dict
        Values by name, with dashes. The environment overrides the section [download],
        which overrides [global].
    """
    values: dict[str, str] = {}
    for section in _SECTIONS:
        lines = re.findall(rf"^{section}\.([^=]+)=(.*)$", text, re.MULTILINE)
        values |= {name: str(ast.literal_eval(value)) for name, value in lines}
    return values


def _pip_config_list() -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RegistryUnavailable(
            f"pip cannot read its settings: {process.stderr.strip()} "
            "Correct the files that `pip config debug` shows."
        )
    return parse_pip_config(process.stdout)


def _pip_variables() -> dict[str, str]:
    return {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith("PIP_")
    }


def _fetch(
    index: str, settings: PipSettings, project: str, filename: str, target: Path
) -> str | None:
    """Download from one index; return None, or the reason of a failure."""
    import pypi_simple
    import requests

    timeout = (min(settings.timeout_s, _CONNECT_TIMEOUT_S), settings.timeout_s)
    bar = pypi_simple.tqdm_progress_factory(
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
            return "is not a supported package index"
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
                f"pip's {name} is {path}, which does not exist. See `pip config list`."
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
    """Return the HTTP status or the innermost reason, without addresses and logins."""
    response = getattr(error, "response", None)
    if response is not None:
        return f" ({response.status_code} {response.reason})"
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", inner)
    text = str(reason).rpartition(": ")[2]
    return f" ({text})" if isinstance(reason, Exception) and "@" not in text else ""


def _check(file: Path, filename: str, sha256: str) -> None:
    actual = sha256_of(file)
    if actual != sha256:
        size = file.stat().st_size
        file.unlink()
        raise InputError(
            f"The downloaded {filename} ({size} bytes) has sha256 {actual}, expected "
            f"{sha256}. It was removed. Try again; if the error persists, the package "
            "index or a proxy changes files."
        )
