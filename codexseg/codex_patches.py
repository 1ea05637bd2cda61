"""A view of a run for notebooks: its valid patches and their masks, read on access."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, overload

import numpy as np
from tqdm import tqdm

from codexseg.arrays import Pixels
from codexseg.artifacts.manifest import read_manifest
from codexseg.artifacts.patches import (
    PATCHES_METADATA,
    informative_patches,
    patch_rows,
    write_patches_metadata,
)
from codexseg.config.schema import Config
from codexseg.errors import RunStateError
from codexseg.execution.processes import executor
from codexseg.exports.patch_masks import PICKLES, Masks, matched_masks, original_masks
from codexseg.exports.pickles import write_pickle
from codexseg.run.directory import Run
from codexseg.run.records import Record
from codexseg.stages.plan import RunPlan, load_plan
from codexseg.stages.segment.backend import make_backend, record_backend
from codexseg.workflow.stage import BackendRecord
from codexseg.workflow.worker import WorkerState

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class PatchSequence(Sequence[T], Generic[T]):
    """One item per valid patch, read from disk on every access.

    Parameters
    ----------
    patch_ids : sequence of int
        Numbers of the patches, as in the column patch_id of the metadata.
    read : callable
        Reads the item of a patch.
    """

    def __init__(self, patch_ids: Sequence[int], read: Callable[[int], T]) -> None:
        self.patch_ids = tuple(patch_ids)
        self._read = read

    def __len__(self) -> int:
        return len(self.patch_ids)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "PatchSequence[T]": ...
    def __getitem__(self, index: int | slice) -> "T | PatchSequence[T]":
        if isinstance(index, slice):
            return PatchSequence(self.patch_ids[index], self._read)
        return self._read(self.patch_ids[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._read, self.patch_ids)

    def __repr__(self) -> str:
        return f"<{len(self)} items, of the patches {list(self.patch_ids)}>"


class CodexPatches:
    """The patches of a run and their masks. Holds a path only.

    Every property reads the present state of the run, and requires the stage in brackets.

    Parameters
    ----------
    run_path : str or Path
        A run directory.

    Raises
    ------
    RunStateError
        If there is no run, or from the properties, if their stage is not complete.

    Examples
    --------
    >>> patches = CodexPatches("slide_codexseg")  # doctest: +SKIP
    >>> patches.valid_patches[0].shape  # doctest: +SKIP
    (2252, 2252, 2)
    """

    def __init__(self, run_path: str | Path) -> None:
        self._run = Run(Path(run_path).absolute())
        load_plan(self._run)

    def __repr__(self) -> str:
        return f"CodexPatches({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._run.path

    @property
    def config(self) -> Config:
        """The configuration of the last execution."""
        return load_plan(self._run).config

    @property
    def patches_metadata(self) -> "pd.DataFrame":
        """One row per patch: statistics, flags, counts, windows, status (flag).

        The table is a copy. The section patch_qc of the configuration decides which
        patches are informative.
        """
        import pandas as pd

        rows = [
            {name: np.nan if value == "" else value for name, value in row.items()}
            for row in self._rows()
        ]
        return pd.DataFrame(rows)

    @property
    def valid_patches(self) -> PatchSequence[Pixels]:
        """Pixels of the informative patches (flag).

        Items are (y, x, 2) arrays of the outer windows: channel 0 nucleus, 1 whole cell.
        """
        state = self._state("flag")
        self._check_slide(load_plan(self._run))
        grid, channels, slide = state.grid, state.statistics.channels, state.slide

        def read(number: int) -> Pixels:
            return np.moveaxis(channels.read(slide, grid[number].outer), 0, -1)

        return PatchSequence(informative_patches(state.inputs.records("flag")), read)

    @property
    def seg_res_batch(self) -> PatchSequence[Masks]:
        """Masks of the backend in the valid patches (segment).

        Items are dicts of (y, x) uint32: "cell", "nucleus", "cell_boundary",
        "nucleus_boundary", in the labels of the backend.
        """
        return self._masks("segment", original_masks)

    @property
    def repaired_seg_res_batch(self) -> PatchSequence[Masks]:
        """The matched cells that each valid patch owns (repair).

        Items are dicts: "cell_matched_mask", "nucleus_matched_mask",
        "cell_outside_nucleus_mask", "cell_matched_boundary", "nucleus_matched_boundary",
        (y, x) uint32 in the slide's cell ids, "matched_fraction" and "matching_stats".
        """
        return self._masks("repair", matched_masks)

    def save_seg_res(self) -> list[Path]:
        """Write both pickles, with one patch in memory (repair).

        Returns
        -------
        list of Path
            ``original_seg_res_batch.pickle`` and ``matched_seg_res_batch.pickle``.
        """
        with self._run.locked():
            state = self._state("repair")
            for pickle in PICKLES:
                bar = tqdm(
                    pickle.pieces(state),
                    desc="export  ",
                    unit="patch",
                    postfix=pickle.file,
                    disable=None,
                )
                masks = (pickle.masks(state, patch) for patch in bar)
                write_pickle(self.path / pickle.file, masks)
        return [self.path / pickle.file for pickle in PICKLES]

    def save_metadata(self) -> Path:
        """Write ``patches_metadata.csv`` into the run directory (flag)."""
        with self._run.locked():
            write_patches_metadata(self.path, self._rows())
        return self.path / PATCHES_METADATA

    def execute(self, config: Config | None = None, *, until: str) -> None:
        """Execute the stages that are not up to date, as :meth:`Pipeline.execute` does.

        Parameters
        ----------
        config : Config, optional
            Replaces the configuration of the run, except for its data section.
        until : str
            The last stage to execute.

        Raises
        ------
        RunStateError
            If the slide has changed since the run was created.
        """
        plan = load_plan(self._run)
        self._check_slide(plan)
        with self._run.locked(), executor(plan.config.execution.workers) as execute:
            if config is not None:
                config = config.model_copy(update={"data": plan.config.data})
                plan = RunPlan(self._run, config, plan.slide, _backend(plan, config))
                read_manifest(self._run).with_config(config.dump()).write(self._run)
            plan.execute(execute, until=until)

    def _rows(self) -> Iterator[Record]:
        """Yield the rows of the metadata, with counts if cells are numbered."""
        keys = load_plan(self._run).readable_keys()
        completed = [name for name in ("flag", "segment", "repair") if name in keys]
        state = self._state(completed[-1] if completed else "flag")
        records = state.inputs.records
        return patch_rows(
            state.grid,
            records("flag"),
            records("segment") if "segment" in keys else None,
            state.cells.counts if "repair" in keys else None,
        )

    def _masks(
        self, stage: str, read: Callable[[WorkerState, int], Masks]
    ) -> PatchSequence[Masks]:
        state = self._state(stage)
        patches = informative_patches(state.inputs.records("flag"))
        return PatchSequence(patches, lambda number: read(state, number))

    def _state(self, stage: str) -> WorkerState:
        """Return the results of the stages up to this one."""
        plan = load_plan(self._run)
        keys = plan.readable_keys()
        if stage not in keys:
            status = next(s for s in plan.status() if s.stage not in keys)
            why = f" ({status.why})" if status.why else ""
            raise RunStateError(
                f"The stage {status.stage} of {self.path} is {status.state}{why}. Run "
                f"until {stage} first: codexseg run CONFIG --until {stage}, or "
                f"Pipeline(...).execute(until={stage!r})."
            )
        return WorkerState(plan.inputs(stage, keys))

    def _check_slide(self, plan: RunPlan) -> None:
        if not plan.slide.is_current():
            raise RunStateError(
                f"{plan.slide.path} has changed since the run {self.path} was created. "
                f"Restore the original file or start another run."
            )


def _backend(plan: RunPlan, config: Config) -> BackendRecord:
    """Return the backend of a plan for another configuration."""
    if config.segmentation == plan.config.segmentation:
        return plan.backend
    return record_backend(make_backend(config, plan.slide.shape[1:], plan.slide.mpp))
