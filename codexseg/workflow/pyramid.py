"""Coarser levels of label images that cannot be written core by core."""

from collections.abc import Sequence
from functools import partial

from codexseg.io.labels.chunks import core_levels
from codexseg.io.labels.store import LabelStore
from codexseg.workflow.stage import Finished, StageContext, StageInputs
from codexseg.workflow.worker import worker_state


def build_pyramid(context: StageContext, labels: LabelStore, names: Sequence[str]) -> None:
    """Build the coarser levels of label images, each from the next finer one."""
    grid = worker_state(context.inputs).grid
    for level in range(1 + core_levels(grid.shape, grid.step), labels.n_levels):
        context.map_patches(
            partial(_build_level, level, tuple(names)),
            range(len(labels.level_tasks(level, names))),
            unit="block",
            part=f"level{level}",
        )


def _build_level(
    level: int, names: tuple[str, ...], inputs: StageInputs, tasks: Sequence[int]
) -> Finished:
    """Build blocks of a level. Runs in a worker."""
    labels = worker_state(inputs).labels
    todo = labels.level_tasks(level, names)
    for task in tasks:
        labels.build_level(level, todo[task])
        yield task, {}
