"""Label images as OME-TIFF: tiled, pyramidal, opened by QuPath, Fiji and napari.

Bands of tiles are encoded apart, by many processes; one puts them into the file.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.exports.deflate import deflate
from codexseg.run.files import replacing

_TILE_PX = 512
_BAND_PX = 1024
"""Height of a band: of the tiles, and often of the chunks that are read for them."""
_BLOCK_PX = 4096
_CLASSIC_LIMIT = 3_500_000_000


class LevelSource(Protocol):
    """One level of a pyramid of labels, read window by window."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px of this level."""
        ...

    def read(self, window: Window) -> NDArray[np.uint32]:
        """Return the labels of a window, in pixels of this level."""
        ...


def n_bands(shape: tuple[int, int]) -> int:
    """Count the bands of a level, from the top: each at most 1024 px high."""
    return -(-shape[0] // _BAND_PX)


def encode_band(level: LevelSource, band: int) -> list[bytes]:
    """Encode the tiles of one band of a level.

    Parameters
    ----------
    level : LevelSource
        (y, x) uint32; read in windows of at most 1024 x 4096 px.
    band : int
        Which one, from the top.

    Returns
    -------
    list of bytes
        Tiles of 512 x 512 px, zero beyond the image, deflated, row by row.
    """
    height, width = level.shape
    y0, y1 = band * _BAND_PX, min(height, (band + 1) * _BAND_PX)
    rows: list[list[bytes]] = [[] for _ in range(y0, y1, _TILE_PX)]
    for x in range(0, width, _BLOCK_PX):
        block = level.read(Window(y0, x, y1, min(width, x + _BLOCK_PX)))
        for row, encoded in enumerate(rows):
            for column in range(0, block.shape[1], _TILE_PX):
                top = row * _TILE_PX
                part = block[top : top + _TILE_PX, column : column + _TILE_PX]
                encoded.append(_encode(part))
    return [tile for encoded in rows for tile in encoded]


def _encode(part: NDArray[np.uint32]) -> bytes:
    # No predictor: label numbers repeat, their differences repeat less.
    if part.shape == (_TILE_PX, _TILE_PX):
        return deflate(part)
    tile = np.zeros((_TILE_PX, _TILE_PX), np.uint32)
    tile[: part.shape[0], : part.shape[1]] = part
    return deflate(tile)


def write_label_ome_tiff(
    path: Path,
    shapes: Sequence[tuple[int, int]],
    tiles: Iterable[bytes],
    *,
    name: str,
    mpp: float,
    uuid_seed: str,
) -> None:
    """Write a label image with its pyramid; equal input gives equal bytes.

    The file appears complete or not at all; one tile is in memory.

    Parameters
    ----------
    path : Path
        The file; its folder is made where it is missing.
    shapes : sequence of (int, int)
        Of the levels, the full size first; each half the size of the one before.
    tiles : iterable of bytes
        What :func:`encode_band` gives for each band of each level, in order.
    name : str
        Of the image, as viewers show it.
    mpp : float
        Micrometres per pixel of the full size.
    uuid_seed : str
        What the file's UUID is derived from, such as the key of the stage.
    """
    pixels = sum(height * width for height, width in shapes)
    metadata = {
        "axes": "YX",
        "Name": name,
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
        "UUID": str(uuid5(NAMESPACE_URL, f"codexseg:{uuid_seed}:{name}")),
        "Creator": "codexseg",
    }
    encoded = iter(tiles)
    with (
        replacing(path) as part,
        tifffile.TiffWriter(part, ome=True, bigtiff=4 * pixels > _CLASSIC_LIMIT) as tiff,
    ):
        for k, (height, width) in enumerate(shapes):
            first: dict[str, Any] = {"subifds": len(shapes) - 1, "metadata": metadata}
            per_cm = 10_000 / (mpp * 2**k)
            count = -(-height // _TILE_PX) * -(-width // _TILE_PX)
            tiff.write(
                islice(encoded, count),
                shape=(height, width),
                dtype=np.uint32,
                tile=(_TILE_PX, _TILE_PX),
                photometric="minisblack",
                compression="zlib",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                software="codexseg",
                **(first if k == 0 else {"subfiletype": 1, "metadata": None}),
            )
