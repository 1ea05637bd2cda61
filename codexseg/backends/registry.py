"""Backends by name: those of the package, those that others register, any class by path."""

import difflib
import importlib
from importlib.metadata import entry_points
from typing import Any

from codexseg.backends.base import Backend, SlideContext
from codexseg.errors import BackendUnavailable, CodexsegError, ConfigError

GROUP = "codexseg.backends"
"""Entry point group under which other packages register a backend class."""

BUILT_IN = {
    "embedded": "codexseg.backends.panoptic.backend:Embedded",
    "watershed": "codexseg.backends.watershed:Watershed",
    "mesmer": "codexseg.backends.panoptic.backend:Mesmer",
    "panoptic": "codexseg.backends.panoptic.backend:Panoptic",
    "deepcell": "codexseg.backends.deepcell.backend:Deepcell",
    "unet": "codexseg.backends.unet.backend:Unet",
    "instanseg": "codexseg.backends.tiled.instanseg:Instanseg",
    "cellpose": "codexseg.backends.tiled.cellpose:Cellpose",
    "stardist": "codexseg.backends.tiled.stardist:Stardist",
}

BY_WEIGHTS = {*BUILT_IN} - {"watershed"}
"""Those whose fingerprint says everything of their weights and their options."""
WITHOUT_OPTIONS = {*BUILT_IN} - {"cellpose", "stardist"}
"""Those that read nothing of `segmentation.options`."""


def names() -> list[str]:
    """Return the names that `segmentation.backend` takes here."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def create(config: Any, slide: SlideContext) -> Backend:
    """Make the backend that a segmentation section names.

    Parameters
    ----------
    config : SegmentationConfig
        `config.backend` is a registered name, or ``module:Class``.
    slide : SlideContext
        The slide that it is for.

    Raises
    ------
    ConfigError
        If there is no backend of that name.
    BackendUnavailable
        If its module cannot be imported, or its class does not keep the contract.
    """
    made = _load(config.backend)
    try:
        backend = made(config, slide)
    except CodexsegError:
        raise
    except Exception as error:
        raise BackendUnavailable(
            f"backend {config.backend!r} cannot be made: {type(error).__name__}: {error}; "
            f"look at segmentation.options, which it reads."
        ) from error
    missing = [
        name
        for name in ("name", "mpp", "halo_px", "channels", "fingerprint", "predict")
        if not hasattr(backend, name)
    ]
    if missing:
        raise BackendUnavailable(
            f"backend {config.backend!r} lacks {', '.join(missing)}; "
            f"see codexseg.backends.base.Backend for what a backend has."
        )
    return backend  # type: ignore[no-any-return]


def _load(name: str) -> Any:
    registered = {point.name: point for point in entry_points(group=GROUP)}
    if name not in BUILT_IN and name in registered:
        target = registered[name].value
    else:
        target = BUILT_IN.get(name, name)
    module, _, attribute = target.partition(":")
    if not attribute:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"segmentation.backend: there is no backend {name!r}, expected one of "
            f"{', '.join(names())}, or 'module:Class'.{hint}"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BackendUnavailable(
            f"backend {name!r} cannot be loaded from {target!r}: {error}. "
            f"Install the package that provides it, or correct segmentation.backend."
        ) from error
