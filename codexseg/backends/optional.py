"""What the adapters of other projects' models share: their packages, their options."""

import difflib
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from codexseg.errors import BackendUnavailable, ConfigError

OPTIONS = "segmentation.options"


def require(backend: str, *packages: str) -> None:
    """Check that packages are installed, without importing them.

    Raises
    ------
    BackendUnavailable
        If one is missing.
    """
    for package in packages:
        try:
            found = importlib.util.find_spec(package) is not None
        except ValueError:  # in sys.modules, without a spec
            found = True
        if not found:
            raise BackendUnavailable(
                f"the backend {backend!r} needs the package {package}, which is not "
                f"installed: pip install 'codexseg[{backend}]'."
            )


def version_of(package: str) -> str:
    """Return the version of an installed package; "unknown" where it does not say."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def check_torch(backend: str, device: str) -> None:
    """Check that torch is installed, and can compute where it is told to.

    Parameters
    ----------
    backend : str
        Who asks.
    device : {"auto", "cpu", "cuda"}
        segmentation.device. torch is only imported for "cuda": it takes seconds.

    Raises
    ------
    BackendUnavailable
        If torch is missing, or cannot use the GPU that was asked for.
    """
    require(backend, "torch")
    if device == "cuda" and torch_device(device) == "cpu":
        raise BackendUnavailable(
            f"segmentation.device is 'cuda', and torch {version_of('torch')} cannot use a "
            f"GPU: install a build of torch for CUDA, or set it to 'auto' or 'cpu'."
        )


def torch_device(device: str) -> str:
    """Choose where torch computes, "cpu" or "cuda": a GPU that it can use, if it may."""
    import torch

    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def check_options(
    backend: str, options: Mapping[str, Any], known: Mapping[str, tuple[type, ...]]
) -> None:
    """Check the options of a backend: their names, and the types of their values.

    Parameters
    ----------
    backend : str
        Whose they are.
    options : mapping
        segmentation.options.
    known : mapping
        The types that an option takes, by its name. True and False are no numbers; where
        float is taken, int is.

    Raises
    ------
    ConfigError
        If an option is unknown, or its value of another type.
    """
    for name, value in options.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            expected = f"one of {', '.join(known)}" if known else "none"
            raise ConfigError(
                f"{OPTIONS}.{name}: the backend {backend!r} has no such option, expected "
                f"{expected}.{hint}"
            )
        types = known[name]
        takes = types + (int,) * (float in types)
        if not isinstance(value, takes) or (isinstance(value, bool) and bool not in types):
            words = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise ConfigError(f"{OPTIONS}.{name} is {value!r}, expected {words}.")


def options_digest(settings: Mapping[str, Any]) -> str:
    """Name settings in a few characters, for a fingerprint."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
