"""Cell segmentation of multiplexed tissue slides, patch by patch.

The names below are imported when they are first used: ``import codexseg`` costs nothing.
``segment`` is not among them, for ``codexseg.segment`` is its module:
``from codexseg.segment import segment``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codexseg.codex_image import CodexImage
    from codexseg.codex_patches import CodexPatches
    from codexseg.config.schema import Config
    from codexseg.core.grid import Window
    from codexseg.errors import (
        BackendUnavailable,
        CodexsegError,
        ConfigError,
        InputError,
        RunStateError,
        SampleUnavailable,
        WorkerDied,
    )
    from codexseg.pipeline import Pipeline
    from codexseg.repair_masks import repair_masks_batch
    from codexseg.segment import (
        get_boundary,
        run_cell_segmentation,
        segment_image,
        separate_masks,
    )

__all__ = [
    "BackendUnavailable",
    "CodexImage",
    "CodexPatches",
    "CodexsegError",
    "Config",
    "ConfigError",
    "InputError",
    "Pipeline",
    "RunStateError",
    "SampleUnavailable",
    "Window",
    "WorkerDied",
    "get_boundary",
    "repair_masks_batch",
    "run_cell_segmentation",
    "segment_image",
    "separate_masks",
]

_HOMES = {
    "CodexImage": "codex_image",
    "CodexPatches": "codex_patches",
    "Config": "config.schema",
    "Pipeline": "pipeline",
    "Window": "core.grid",
    "get_boundary": "segment",
    "repair_masks_batch": "repair_masks",
    "run_cell_segmentation": "segment",
    "segment_image": "segment",
    "separate_masks": "segment",
}
"""The modules of the public names; all others are errors."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("codexseg")
        except PackageNotFoundError:  # a checkout that was not installed
            return "unknown"
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
