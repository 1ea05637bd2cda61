"""Label images as tiled, pyramidal OME-TIFF, for QuPath, Fiji and napari.

Many processes encode bands of tiles; one process writes them into the file.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from codexseg.arrays import Labels
from codexseg.core.grid import Window
from codexseg.exports.deflate import deflate
from codexseg.io.tiff_writer import TILE_PX, ome_fields, pad_tile, write_tiled_tiff

_BAND_PX = 1024
"""Height of a band: two rows of tiles, and a common height of chunks."""
_BLOCK_PX = 4096


class LevelSource(Protocol):
    """One pyramid level of a label image, read window by window."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px of this level."""
        ...

    def read(self, window: Window) -> Labels:
        """Return the labels in a window, px of this level."""
        ...


def n_bands(shape: tuple[int, int]) -> int:
    """Return the number of bands of a level; each is at most 1024 px high."""
    return -(-shape[0] // _BAND_PX)


def encode_band(level: LevelSource, band: int) -> list[bytes]:
    """Encode the tiles of one band of a level.

    Parameters
    ----------
    level : LevelSource
        (y, x) uint32; read in windows of at most 1024 x 4096 px.
    band : int
        Index of the band, from the top.

    Returns
    -------
    list of bytes
        Tiles of 512 x 512 px in zlib format, padded with 0, row by row.
    """
    height, width = level.shape
    y0, y1 = band * _BAND_PX, min(height, (band + 1) * _BAND_PX)
    rows: list[list[bytes]] = [[] for _ in range(y0, y1, TILE_PX)]
    for x in range(0, width, _BLOCK_PX):
        block = level.read(Window(y0, x, y1, min(width, x + _BLOCK_PX)))
        for row, encoded in enumerate(rows):
            for column in range(0, block.shape[1], TILE_PX):
                top = row * TILE_PX
                part = block[top : top + TILE_PX, column : column + TILE_PX]
                # No predictor: label numbers repeat, their differences repeat less.
                encoded.append(deflate(pad_tile(part)))
    return [tile for encoded in rows for tile in encoded]


def write_label_ome_tiff(
    path: Path,
    shapes: Sequence[tuple[int, int]],
    tiles: Iterable[bytes],
    *,
    name: str,
    mpp: float,
    uuid_seed: str,
) -> None:
    """Write a label image and its pyramid; equal input gives equal bytes.

    The file appears complete or not at all. One tile is in memory.

    Parameters
    ----------
    path : Path
        The file to write or to replace; its folder is created.
    shapes : sequence of (int, int)
        Shape of each level, full resolution first; each level is half the size of the
        level before.
    tiles : iterable of bytes
        Results of :func:`encode_band` for each band of each level, in order.
    name : str
        Name of the image in viewers.
    mpp : float
        Micrometres per pixel of the full resolution.
    uuid_seed : str
        Seed of the file's UUID, such as the key of the stage.
    """
    ome = ome_fields("YX", mpp, f"{uuid_seed}:{name}", Name=name)
    write_tiled_tiff(path, shapes, tiles, np.uint32, mpp=mpp, ome=ome)
