"""Things that a worker opens once and keeps: slide, statistics, grid, labels, cells."""

from functools import cached_property, lru_cache
from typing import Any

from codexseg.artifacts.cells import CellIndex
from codexseg.artifacts.labels import slide_labels
from codexseg.artifacts.patches import read_grid
from codexseg.artifacts.slide_statistics import SlideStatistics
from codexseg.core.grid import PatchGrid
from codexseg.io.labels.store import LabelStore
from codexseg.io.slides.base import SlideImage
from codexseg.workflow.stage import StageInputs


class WorkerState:
    """Inputs of a stage, opened on first use.

    Parameters
    ----------
    inputs : StageInputs
        Of the stage.

    Attributes
    ----------
    opened : dict
        Further things that a stage opens once per worker.
    """

    def __init__(self, inputs: StageInputs) -> None:
        self.inputs = inputs
        self.opened: dict[Any, Any] = {}

    @cached_property
    def slide(self) -> SlideImage:
        """The slide."""
        return self.inputs.slide.open()

    @cached_property
    def statistics(self) -> SlideStatistics:
        """Channels and statistics of the slide (after load)."""
        inputs = self.inputs
        return SlideStatistics.read(inputs.records("load"), inputs.config, inputs.slide)

    @cached_property
    def grid(self) -> PatchGrid:
        """The patch grid (after patch)."""
        return read_grid(self.inputs.records("patch"))

    @cached_property
    def labels(self) -> LabelStore:
        """The whole-slide labels (after stitch)."""
        return slide_labels(self.inputs.run)

    @cached_property
    def cells(self) -> CellIndex:
        """The cells and their ids (after repair)."""
        return CellIndex.read(self.inputs.records("repair"), self.inputs.keys)


@lru_cache(maxsize=1)
def _state(inputs: StageInputs) -> WorkerState:
    return WorkerState(inputs)


def worker_state(inputs: StageInputs) -> WorkerState:
    """Return the state of this worker for a stage; it is created once per process."""
    return _state(inputs.part(""))


def forget_worker_state() -> None:
    """Close what this process has opened; a stage calls it before its files change."""
    _state.cache_clear()
