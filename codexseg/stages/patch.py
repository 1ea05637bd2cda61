"""Patch: lay the grid. Cores partition the slide; outer windows add a halo.

The halo is the larger of `halo_px` of the backend and half the configured overlap. The
stage segment extends the window of a patch if its objects need more.
"""

from math import ceil

from codexseg.artifacts.patches import write_grid
from codexseg.config.schema import Config, PatchingConfig
from codexseg.core.grid import PatchGrid
from codexseg.io.slides.record import SlideRecord
from codexseg.run.records import Record
from codexseg.workflow.stage import BackendRecord, Stage, StageContext

ALIGN_PX = 64
"""Cores above :data:`LARGE_PX` are a multiple of this, so that chunks divide them."""
LARGE_PX = 4096


def patch(context: StageContext) -> Record:
    """Lay the grid of all later stages."""
    inputs = context.inputs
    grid = lay_grid(inputs.config.patching, inputs.slide.shape[1:], inputs.backend.halo_px)
    write_grid(inputs.own, grid)
    rows, columns = grid.counts
    return {
        "patches": len(grid),
        "rows": rows,
        "columns": columns,
        "core_px": list(grid.step),
        "halo_px": list(grid.halo),
    }


def lay_grid(patching: PatchingConfig, shape: tuple[int, int], halo_px: int) -> PatchGrid:
    """Return the grid of a configuration: every split mode is only a grid.

    Parameters
    ----------
    patching : PatchingConfig
        The section of the configuration.
    shape : (int, int)
        Height and width of the slide, px.
    halo_px : int
        Margin that the backend needs, px.
    """
    height, width = shape
    step = {
        "full_image": (height, width),
        "halves": (height, ceil(width / 2))
        if patching.split_direction == "vertical"
        else (ceil(height / 2), width),
        "quarters": (ceil(height / 2), ceil(width / 2)),
        "patches": (patching.patch_height, patching.patch_width),
    }[patching.split_mode]
    step = tuple(  # type: ignore[assignment]
        _align(size if wanted == -1 else min(wanted, size), size)
        for wanted, size in zip(step, shape, strict=True)
    )
    halo = [max(1, halo_px, round(patching.overlap * side / 2)) for side in step]
    # A core that covers the slide has no surroundings.
    return PatchGrid(
        shape,
        step,
        (0 if step[0] >= height else halo[0], 0 if step[1] >= width else halo[1]),
    )


def _align(step: int, size: int) -> int:
    if step <= LARGE_PX or step >= size:
        return step
    return min(size, ceil(step / ALIGN_PX) * ALIGN_PX)


def _halo(config: Config, slide: SlideRecord, backend: BackendRecord) -> Record:
    del config, slide
    return {"backend_halo_px": backend.halo_px}


STAGE = Stage("patch", ("patching",), ("load",), patch, extra=_halo)
