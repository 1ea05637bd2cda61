"""Matched labels as pyramidal OME-TIFF."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from codexseg.exports.base import Exporter
from codexseg.exports.ome_tiff import encode_band, n_bands, write_label_ome_tiff
from codexseg.run.records import StageRecords
from codexseg.workflow.worker import WorkerState


class LabelTiff(Exporter):
    """Writes the labels of a compartment as OME-TIFF.

    Parameters
    ----------
    compartment : str
        "cell" or "nucleus".
    """

    format = "ome_tiff"

    def __init__(self, compartment: str) -> None:
        self.compartment = compartment
        self.file = f"exports/{compartment}.ome.tif"

    def pieces(self, state: WorkerState) -> Sequence[int]:
        """Return the numbers of the bands of all levels."""
        return range(len(self._bands(state)))

    def encode(self, state: WorkerState, pieces: StageRecords, piece: int) -> list[Path]:
        """Encode the tiles of a band."""
        level, band = self._bands(state)[piece]
        tiles = encode_band(state.labels.levels(self.compartment)[level], band)
        sizes = np.array([len(tile) for tile in tiles], np.int64)
        data = np.frombuffer(b"".join(tiles), np.uint8)
        pieces.write_columns(piece, {"sizes": sizes, "tiles": data})
        return []

    def write(self, state: WorkerState, pieces: StageRecords, path: Path) -> None:
        """Join the tiles of all bands."""
        write_label_ome_tiff(
            path,
            [level.shape for level in state.labels.levels(self.compartment)],
            self._tiles(state, pieces),
            name=self.compartment,
            mpp=state.inputs.slide.mpp,
            uuid_seed=state.inputs.keys["repair"],
        )

    def _bands(self, state: WorkerState) -> list[tuple[int, int]]:
        """Return level and number of every band."""
        return [
            (number, band)
            for number, level in enumerate(state.labels.levels(self.compartment))
            for band in range(n_bands(level.shape))
        ]

    def _tiles(self, state: WorkerState, pieces: StageRecords) -> Iterator[bytes]:
        for piece in self.pieces(state):
            band = pieces.read_columns(piece)
            for tile in np.split(band["tiles"], np.cumsum(band["sizes"])[:-1]):
                yield tile.tobytes()
