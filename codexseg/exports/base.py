"""An output format of a run: one file, written from artifacts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from codexseg.config.schema import Config
from codexseg.run.records import StageRecords
from codexseg.workflow.stage import StageInputs
from codexseg.workflow.worker import WorkerState


class Exporter(ABC):
    """Writes one file of a run.

    Workers encode the pieces of a file, in any order. Then one worker joins them.

    Attributes
    ----------
    file : str
        Path in the run directory.
    format : str or None
        Word in `export.formats` that asks for the file; None: it is always written.
    """

    file: str
    format: str | None = None

    @property
    def part(self) -> str:
        """Name of the pass that encodes the pieces."""
        return Path(self.file).name.replace(".", "_")

    def is_enabled(self, config: Config) -> bool:
        """Return whether the configuration asks for the file."""
        return self.format is None or self.format in config.export.formats

    def pieces(self, state: WorkerState) -> Sequence[int]:
        """Return the numbers of the pieces; none by default."""
        del state
        return ()

    def encode(self, state: WorkerState, pieces: StageRecords, piece: int) -> list[Path]:
        """Encode a piece. Runs in a worker.

        Parameters
        ----------
        state : WorkerState
            The run.
        pieces : StageRecords
            Where the pieces are stored.
        piece : int
            Number of the piece.

        Returns
        -------
        list of Path
            Files that were written, other than the columns of `pieces`.
        """
        raise NotImplementedError

    @abstractmethod
    def write(self, state: WorkerState, pieces: StageRecords, path: Path) -> None:
        """Write the file. Runs in a worker.

        Parameters
        ----------
        state : WorkerState
            The run. `workflow.measurements.cell_table` returns its table of cells.
        pieces : StageRecords
            The encoded pieces.
        path : Path
            The file.
        """


def file_metadata(inputs: StageInputs) -> dict[str, str]:
    """Return the text that files of cells carry: contents, sample, slide, pixel size."""
    return {
        "codexseg": "cells",
        "mpp": repr(inputs.slide.mpp),
        "slide": inputs.slide.fingerprint.digest,
        "sample": inputs.config.sample_name,
    }
