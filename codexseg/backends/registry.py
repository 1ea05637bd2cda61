"""Segmentation backends by name: built-in, registered by other packages, or by path."""

import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from codexseg.backends.base import Backend, SlideContext
from codexseg.errors import BackendUnavailable, CodexsegError, ConfigError, describe_error

if TYPE_CHECKING:
    from codexseg.config.schema import SegmentationConfig

GROUP = "codexseg.backends"
"""Entry point group under which other packages register a backend class."""

_ALL_SETTINGS = frozenset({"model_path", "watershed", "options"})
MESMER_LICENCE = (
    "DeepCell's modified Apache License 2.0: non-commercial academic use only, "
    "ask the Van Valen Lab for any other. "
    "https://github.com/vanvalenlab/deepcell-tf/blob/master/LICENSE"
)


@dataclass(frozen=True)
class BackendSpec:
    """Facts about a backend that are needed before it is made.

    Attributes
    ----------
    name : str
        Value of `segmentation.backend`.
    target : str
        Its class, as ``module:Class``.
    weights : {"required", "optional", "none"}
        Whether it takes `segmentation.model_path`.
    options : bool
        Whether it reads `segmentation.options`.
    in_fingerprint : frozenset of str
        Keys of the segmentation section that its fingerprint covers completely. They are
        left out of the keys of stages.
    extra : str or None
        Extra of codexseg that installs its packages. None: none is needed.
    licence : str or None
        Licence of its published weights, in short, with the address. None: no published
        weights, or unknown.
    """

    name: str
    target: str
    weights: Literal["required", "optional", "none"] = "optional"
    options: bool = True
    in_fingerprint: frozenset[str] = frozenset()
    extra: str | None = None
    licence: str | None = None


class BackendWarning(NamedTuple):
    """A setting that is allowed and probably a mistake; a run records it as a `RunWarning`.

    Attributes
    ----------
    code : str
        Stable identifier, such as "options_unused".
    value : str
        Value of the setting.
    setting : str
        Key of the configuration, such as "segmentation.options".
    message : str
        One or two sentences for the user.
    """

    code: str
    value: str
    setting: str
    message: str


# The fingerprint of these backends covers all settings that change their result.
_network = partial(BackendSpec, options=False, in_fingerprint=_ALL_SETTINGS)

BACKENDS = (
    _network(
        "embedded",
        "codexseg.backends.panoptic.backend:Embedded",
        weights="none",
        licence="Apache-2.0 (see codexseg/models/CARD.md for what it was made of)",
    ),
    BackendSpec(
        "watershed", "codexseg.backends.watershed:Watershed", weights="none", options=False
    ),
    _network("mesmer", "codexseg.backends.panoptic.backend:Mesmer", licence=MESMER_LICENCE),
    _network("panoptic", "codexseg.backends.panoptic.backend:Panoptic", weights="required"),
    _network(
        "deepcell", "codexseg.backends.deepcell.backend:Deepcell", licence=MESMER_LICENCE
    ),
    _network("unet", "codexseg.backends.unet.backend:Unet", weights="required"),
    _network(
        "instanseg",
        "codexseg.backends.tiled.instanseg:Instanseg",
        extra="instanseg",
        licence="Apache-2.0. https://github.com/instanseg/instanseg/blob/main/LICENSE",
    ),
    _network(
        "cellpose",
        "codexseg.backends.tiled.cellpose:Cellpose",
        options=True,
        extra="cellpose",
        licence="cpsam: CC-BY-NC 4.0, non-commercial use (the package is BSD-3-Clause). "
        "https://huggingface.co/mouseland/cellpose-sam",
    ),
    _network(
        "stardist",
        "codexseg.backends.tiled.stardist:Stardist",
        options=True,
        extra="stardist",
        licence="the package is BSD-3-Clause, its models are beside it. "
        "https://github.com/stardist/stardist-models",
    ),
)
"""Built-in backends. A new one is a class as `backends.base.Backend` describes, and a spec
here; another package registers its own through the entry points `codexseg.backends`."""


def spec_of(name: str) -> BackendSpec:
    """Return the facts about a backend.

    A backend of another package takes weights and options, and its fingerprint covers
    neither. Its `target` is that of its entry point, or `name` itself: ``module:Class``,
    or a name that nothing provides.
    """
    for spec in BACKENDS:
        if spec.name == name:
            return spec
    return BackendSpec(name, _registered().get(name, name))


def names() -> list[str]:
    """Return the names that `segmentation.backend` accepts on this machine."""
    return sorted({*(spec.name for spec in BACKENDS), *_registered()})


def create(config: "SegmentationConfig", slide: SlideContext) -> Backend:
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
        If its module cannot be imported, or its class breaks the contract.
    """
    backend_class = _load(config.backend)
    try:
        backend = backend_class(config, slide)
    except CodexsegError:
        raise
    except Exception as error:
        raise BackendUnavailable(
            f"Backend {config.backend!r} cannot be made: {describe_error(error)}. "
            f"Check segmentation.options, which it reads."
        ) from error
    needed = ("name", "mpp", "halo_px", "channels", "fingerprint", "predict")
    missing = [name for name in needed if not hasattr(backend, name)]
    if missing:
        raise BackendUnavailable(
            f"Backend {config.backend!r} lacks {', '.join(missing)}. "
            f"codexseg.backends.base.Backend describes the attributes of a backend."
        )
    return backend  # type: ignore[no-any-return]


def backend_warnings(config: "SegmentationConfig") -> Iterator[BackendWarning]:
    """Yield the warnings about a segmentation section, those of its backend included.

    Raises
    ------
    ConfigError, BackendUnavailable
        As :func:`create`, if the class of the backend cannot be loaded.
    """
    spec = spec_of(config.backend)
    if config.model_path is not None and spec.weights == "none":
        yield BackendWarning(
            "model_path_unused",
            str(config.model_path),
            "segmentation.model_path",
            f"segmentation.model_path is set, and the backend {spec.name!r} takes no "
            f"weights. Set segmentation.backend to the backend of these weights, such as "
            f"'mesmer'.",
        )
    if config.options and not spec.options:
        yield BackendWarning(
            "options_unused",
            ", ".join(map(str, config.options)),
            "segmentation.options",
            f"The backend {spec.name!r} does not use segmentation.options. They are for "
            f"cellpose, stardist and backends of other packages.",
        )
    own_warnings = getattr(_load(config.backend), "warnings", None)
    if own_warnings is not None:
        yield from own_warnings(config)


def _registered() -> dict[str, str]:
    """Return the targets of the entry points, by name."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def _load(name: str) -> Any:
    """Import the class of a backend."""
    target = spec_of(name).target
    module, _, attribute = target.partition(":")
    if not attribute:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"segmentation.backend: backend {name!r} not found. Expected one of "
            f"{', '.join(names())}, or 'module:Class'.{hint}"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BackendUnavailable(
            f"Backend {name!r} cannot be loaded from {target!r}: {error}. "
            f"Install the package that provides it, or correct segmentation.backend."
        ) from error
