"""A run as a notebook sees it: its valid patches and their masks, read when asked for."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from codexseg.config.schema import Config
from codexseg.errors import RunStateError
from codexseg.execution.processes import executor
from codexseg.io.slides.open import open_image
from codexseg.run.directory import Run
from codexseg.stages.base import Job, Source
from codexseg.stages.chain import Chain, open_chain
from codexseg.stages.export import write_pickles
from codexseg.stages.metadata import METADATA, counts_of, metadata_rows, write_metadata
from codexseg.stages.pixels import grid_of, loaded, slide_of, valid_patches
from codexseg.stages.results import Masks, matched_masks, original_masks

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class PatchSequence(Sequence[T], Generic[T]):
    """One item for each valid patch, read from disk every time it is asked for.

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
    """The patches of a run, and what was found in them. Holds a path and nothing else.

    Every property shows the run as it is now, and needs the stages that it names.

    Parameters
    ----------
    run_path : str or Path
        A run directory.

    Raises
    ------
    RunStateError
        If there is no run; from the properties, if a stage is not done yet.

    Examples
    --------
    >>> patches = CodexPatches("slide_codexseg")  # doctest: +SKIP
    >>> patches.valid_patches[0].shape  # doctest: +SKIP
    (2252, 2252, 2)
    """

    def __init__(self, run_path: str | Path) -> None:
        self._run = Run(Path(run_path).absolute())
        open_chain(self._run)

    def __repr__(self) -> str:
        return f"CodexPatches({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._run.path

    @property
    def config(self) -> Config:
        """The configuration that the run was last executed with."""
        return open_chain(self._run).config

    @property
    def patches_metadata(self) -> "pd.DataFrame":
        """A row for each patch: statistics, flags, counts, windows, status (after flag).

        A copy: what decides which patches are informative is the section patch_qc of the
        configuration.
        """
        import pandas as pd

        job, counts = self._counted()
        rows = [
            {name: np.nan if value == "" else value for name, value in row.items()}
            for row in metadata_rows(job, counts)
        ]
        return pd.DataFrame(rows)

    @property
    def valid_patches(self) -> PatchSequence[NDArray[Any]]:
        """Pixels of the informative patches (after flag).

        Items are (y, x, 2) arrays of the outer windows: channel 0 nucleus, 1 whole cell.
        """
        job = self._job("flag")
        self._check_slide(job.source)
        grid, found, slide = grid_of(job), loaded(job), slide_of(job)

        def read(number: int) -> NDArray[Any]:
            return np.moveaxis(found.channels.read(slide, grid[number].outer), 0, -1)

        return PatchSequence(valid_patches(job), read)

    @property
    def seg_res_batch(self) -> PatchSequence[Masks]:
        """What the backend found in the valid patches (after segment).

        Items are dicts of (y, x) uint32: "cell", "nucleus", "cell_boundary",
        "nucleus_boundary", in the labels of the backend.
        """
        job = self._job("segment")
        return PatchSequence(valid_patches(job), lambda number: original_masks(job, number))

    @property
    def repaired_seg_res_batch(self) -> PatchSequence[Masks]:
        """The matched cells that each valid patch owns (after stitch).

        Items are dicts: "cell_matched_mask", "nucleus_matched_mask",
        "cell_outside_nucleus_mask", "cell_matched_boundary", "nucleus_matched_boundary",
        (y, x) uint32 in the slide's cell ids, "matched_fraction" and "matching_stats".
        """
        job = self._job("stitch")
        return PatchSequence(valid_patches(job), lambda number: matched_masks(job, number))

    def save_seg_res(self) -> list[Path]:
        """Write both pickles, with one patch in memory (after stitch).

        Returns
        -------
        list of Path
            ``original_seg_res_batch.pickle`` and ``matched_seg_res_batch.pickle``.
        """
        with self._run.locked():
            return [self.path / name for name in write_pickles(self._job("stitch"))]

    def save_metadata(self) -> Path:
        """Write ``patches_metadata.csv`` into the run directory (after flag)."""
        with self._run.locked():
            write_metadata(*self._counted())
        return self.path / METADATA

    def execute(self, config: Config | None = None, *, until: str) -> None:
        """Do the stages that are not done yet, as :meth:`Pipeline.execute` does.

        Parameters
        ----------
        config : Config, optional
            Replaces the run's, except for its data section.
        until : str
            The last stage to do.

        Raises
        ------
        RunStateError
            If the slide is not the one that the run has read.
        """
        chain = open_chain(self._run)
        self._check_slide(chain.source)
        with self._run.locked(), executor(chain.config.execution.workers) as execute:
            if config is not None:
                config = config.model_copy(update={"data": chain.config.data})
                chain = Chain(self._run, config, chain.source)
                manifest = self._run.read_manifest() | {"config": config.dump()}
                self._run.write_manifest(manifest)
            chain.execute(execute, until=until)

    def _counted(self) -> tuple[Job, Callable[[int], tuple[int, int, int]] | None]:
        """Return what the metadata are made of, with counts if cells are numbered."""
        chain = open_chain(self._run)
        done = chain.keys_done()
        last = [name for name in ("flag", "segment", "stitch") if name in done]
        job = self._job(last[-1] if last else "flag")
        return job, (lambda number: counts_of(job, number)) if "stitch" in done else None

    def _job(self, stage: str) -> Job:
        """Return a job that reads what the stages up to this one have done."""
        chain = open_chain(self._run)
        keys = chain.keys_done()
        if stage not in keys:
            status = next(s for s in chain.status() if s.stage not in keys)
            why = f" ({status.why})" if status.why else ""
            raise RunStateError(
                f"the stage {status.stage} of {self.path} is {status.state}{why}, expected "
                f"it to be done; run until {stage} first: codexseg run CONFIG --until "
                f"{stage}, or Pipeline(...).execute(until={stage!r})."
            )
        return Job(self._run, chain.config, chain.source, stage, keys)

    def _check_slide(self, source: Source) -> None:
        if open_image(source.path, source.panel).fingerprint() != source.fingerprint:
            raise RunStateError(
                f"{source.path} is not the slide any more that the run {self.path} has "
                f"read, expected the same pixels: put it back, or start another run."
            )
