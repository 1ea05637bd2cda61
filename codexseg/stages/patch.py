"""Patch: lay the grid. Cores partition the slide, outer windows add a halo."""

from math import ceil

import numpy as np

from codexseg.config.schema import Config
from codexseg.core.grid import PatchGrid
from codexseg.run.directory import Row
from codexseg.stages.base import Context, Source, Stage

ALIGN_PX = 64
"""Cores above :data:`LARGE_PX` are a multiple of this, so that chunks can divide them."""
LARGE_PX = 4096


def patch(context: Context) -> Row:
    """Lay the grid that all later stages follow."""
    job = context.job
    grid = lay_grid(job.config, job.source)
    job.write_tables("grid", {"grid": np.array([grid.shape, grid.step, grid.halo])})
    rows, columns = grid.counts
    return {
        "patches": len(grid),
        "rows": rows,
        "columns": columns,
        "core_px": list(grid.step),
        "halo_px": list(grid.halo),
    }


def lay_grid(config: Config, source: Source) -> PatchGrid:
    """Return the grid that a config asks for: every split mode is only a grid."""
    shape = source.shape[1:]
    height, width = shape
    patching = config.patching
    step = {
        "full_image": (height, width),
        "halves": (height, ceil(width / 2))
        if patching.split_direction == "vertical"
        else (ceil(height / 2), width),
        "quarters": (ceil(height / 2), ceil(width / 2)),
        "patches": (patching.patch_height, patching.patch_width),
    }[patching.split_mode]
    step = tuple(  # type: ignore[assignment]
        _aligned(size if wanted == -1 else min(wanted, size), size)
        for wanted, size in zip(step, shape, strict=True)
    )
    halo = [max(1, source.halo_px, round(patching.overlap * s / 2)) for s in step]
    # A core that covers the slide has nothing around it.
    return PatchGrid(
        shape,
        step,
        (0 if step[0] >= height else halo[0], 0 if step[1] >= width else halo[1]),
    )


def _aligned(step: int, size: int) -> int:
    if step <= LARGE_PX or step >= size:
        return step
    return min(size, ceil(step / ALIGN_PX) * ALIGN_PX)


def _halo(config: Config, source: Source) -> Row:
    del config
    return {"backend_halo_px": source.halo_px}


STAGE = Stage("patch", ("patching",), ("load",), patch, extra=_halo)
