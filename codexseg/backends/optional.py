"""Optional packages of backends, their devices, and the options that they take."""

import difflib
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from codexseg.backends.registry import spec_of
from codexseg.errors import BackendUnavailable, ConfigError

log = logging.getLogger(__name__)

OPTIONS = "segmentation.options"


def require(backend: str, *packages: str) -> None:
    """Check that packages are installed, without importing them.

    Raises
    ------
    BackendUnavailable
        If a package is missing.
    """
    for package in packages:
        try:
            is_installed = importlib.util.find_spec(package) is not None
        except ValueError:  # in sys.modules, without a spec
            is_installed = True
        if not is_installed:
            raise BackendUnavailable(
                f"The backend {backend!r} needs the package {package}, which is not "
                f"installed. Run pip install 'codexseg[{spec_of(backend).extra}]'."
            )


def package_version(package: str) -> str:
    """Return the version of an installed package, or "unknown"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def check_torch(backend: str, device: str) -> None:
    """Check that torch is installed and can use the requested device.

    Parameters
    ----------
    backend : str
        Name of the backend that needs it.
    device : {"auto", "cpu", "cuda"}
        segmentation.device. torch is imported for "cuda" only, as this takes seconds.

    Raises
    ------
    BackendUnavailable
        If torch is missing, or cannot use the GPU.
    """
    require(backend, "torch")
    if device == "cuda" and torch_device(device) == "cpu":
        raise BackendUnavailable(
            f"segmentation.device is 'cuda', and torch {package_version('torch')} cannot "
            f"use a GPU. Install a build of torch for CUDA, or set it to 'auto' or 'cpu'."
        )


def torch_device(device: str) -> str:
    """Return the device that torch uses, "cpu" or "cuda"."""
    import torch

    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def tensorflow_device(device: str) -> str:
    """Set the device that TensorFlow uses and return it, "cpu" or "cuda".

    Raises
    ------
    BackendUnavailable
        If a GPU is requested, and TensorFlow has none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    gpus = tensorflow.config.list_physical_devices("GPU")
    if device == "cuda" and not gpus:
        raise BackendUnavailable(
            "segmentation.device is 'cuda', and TensorFlow has no GPU. Install "
            "tensorflow[and-cuda] in a separate environment, or set segmentation.device "
            "to 'cpu'."
        )
    if device == "cpu" and gpus:
        try:
            tensorflow.config.set_visible_devices([], "GPU")
        except RuntimeError:
            log.info("TensorFlow is in use already; its devices stay as set")
    return "cuda" if gpus and device != "cpu" else "cpu"


def check_options(
    backend: str, options: Mapping[str, Any], known: Mapping[str, tuple[type, ...]]
) -> None:
    """Check names and types of the options of a backend.

    Parameters
    ----------
    backend : str
        Name of the backend.
    options : mapping
        segmentation.options.
    known : mapping
        Types of the values, by name. Booleans do not count as numbers; an option of type
        float takes int, too.

    Raises
    ------
    ConfigError
        If an option is unknown, or its value has another type.
    """
    for name, value in options.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            expected = f"one of {', '.join(known)}" if known else "none"
            raise ConfigError(
                f"{OPTIONS}.{name}: the backend {backend!r} has no such option. Expected "
                f"{expected}.{hint}"
            )
        types = known[name]
        accepted = types + (int,) * (float in types)
        is_wrong_bool = isinstance(value, bool) and bool not in types
        if not isinstance(value, accepted) or is_wrong_bool:
            expected = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise ConfigError(f"{OPTIONS}.{name} is {value!r}, expected {expected}.")


def options_digest(settings: Mapping[str, Any]) -> str:
    """Return a short hash of settings, for a fingerprint."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
