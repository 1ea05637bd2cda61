"""Matched labels as tiled, pyramidal OME-TIFF, for QuPath, Fiji and napari.

Workers encode bands of tiles; one worker joins them.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from codexseg.core.grid import PatchGrid, Window
from codexseg.exports.base import Exporter
from codexseg.exports.deflate import deflate
from codexseg.io.labels.store import LabelLevel
from codexseg.io.tiff_writer import TILE_PX, ome_fields, split_tiles, write_tiled_tiff
from codexseg.run.records import StageRecords
from codexseg.workflow.worker import WorkerState

_BAND_PX = 1024
"""Height of a band: two rows of tiles, and a common height of chunks."""
_BLOCK_PX = 4096
"""Width of the blocks in which a band is read; a multiple of the tile."""


class LabelTiff(Exporter):
    """Writes the labels of a compartment as OME-TIFF; equal labels give equal bytes.

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
        """Encode the tiles of a band, row by row, padded with 0."""
        level, band = self._bands(state)[piece]
        rows: list[list[bytes]] = [[] for _ in range(band.y0, band.y1, TILE_PX)]
        for x in range(0, band.x1, _BLOCK_PX):
            block = level.read(Window(band.y0, x, band.y1, min(band.x1, x + _BLOCK_PX)))
            for row, encoded in enumerate(rows):
                strip = block[row * TILE_PX : (row + 1) * TILE_PX]
                # No predictor: label numbers repeat, their differences repeat less.
                encoded += map(deflate, split_tiles(strip))
        tiles = list(chain.from_iterable(rows))
        sizes = np.array([len(tile) for tile in tiles], np.int64)
        data = np.frombuffer(b"".join(tiles), np.uint8)
        pieces.write_columns(piece, {"sizes": sizes, "tiles": data})
        return []

    def write(self, state: WorkerState, pieces: StageRecords, path: Path) -> None:
        """Join the tiles of all bands."""
        shapes = [level.shape for level in state.labels.levels(self.compartment)]
        tiles, mpp = self._tiles(state, pieces), state.inputs.slide.mpp
        uuid_name = f"{state.inputs.keys['repair']}:{self.compartment}"
        ome = ome_fields("YX", mpp, uuid_name, Name=self.compartment)
        write_tiled_tiff(path, shapes, tiles, np.uint32, mpp=mpp, ome=ome)

    def _bands(self, state: WorkerState) -> list[tuple[LabelLevel, Window]]:
        """Return the bands of all levels, full resolution first."""
        return [
            (level, patch.core)
            for level in state.labels.levels(self.compartment)
            for patch in PatchGrid(level.shape, (_BAND_PX, level.shape[1]), (0, 0))
        ]

    def _tiles(self, state: WorkerState, pieces: StageRecords) -> Iterator[bytes]:
        for piece in self.pieces(state):
            band = pieces.read_columns(piece)
            for tile in np.split(band["tiles"], np.cumsum(band["sizes"])[:-1]):
                yield tile.tobytes()
