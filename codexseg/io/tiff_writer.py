"""Tiled TIFF and OME-TIFF files, written tile by tile."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import ceil, prod
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import DTypeLike

from codexseg.arrays import Pixels
from codexseg.run.files import replacing

TILE_PX = 512
_MAX_CLASSIC_BYTES = 3_500_000_000
"""Files above 4 GB need BigTIFF; this limit of the pixels leaves room for the rest."""


def split_tiles(plane: Pixels) -> Iterator[Pixels]:
    """Yield the tiles of a (y, x) plane row by row, 512 x 512 px, padded with 0."""
    height, width = plane.shape
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            yield pad_tile(plane[y : y + TILE_PX, x : x + TILE_PX])


def pad_tile(block: Pixels) -> Pixels:
    """Return a (y, x) block as a tile of 512 x 512 px, padded with 0."""
    height, width = block.shape
    return np.pad(block, ((0, TILE_PX - height), (0, TILE_PX - width)))


def ome_fields(axes: str, mpp: float, uuid_name: str, **fields: Any) -> dict[str, Any]:
    """Return the OME metadata of an image, for tifffile.

    Parameters
    ----------
    axes : str
        Axes of the image, for example "CYX".
    mpp : float
        Micrometres per pixel.
    uuid_name : str
        Seed of the UUID: equal names give equal UUIDs.
    **fields
        Further metadata, such as Name and Channel.
    """
    return {
        "axes": axes,
        **fields,
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
        "UUID": str(uuid5(NAMESPACE_URL, f"codexseg:{uuid_name}")),
        "Creator": "codexseg",
    }


def write_tiled_tiff(
    path: Path,
    shapes: Sequence[tuple[int, ...]],
    tiles: Iterable[bytes],
    dtype: DTypeLike,
    *,
    mpp: float | None = None,
    ome: dict[str, Any] | None = None,
) -> None:
    """Write encoded tiles as a TIFF; equal input gives equal bytes.

    The file appears complete or not at all. One tile is in memory.

    Parameters
    ----------
    path : Path
        The file to write or to replace; its folder is created.
    shapes : sequence of (int, ...)
        Shape (y, x) or (c, y, x) of each pyramid level, full resolution first; each level
        is half the size of the level before.
    tiles : iterable of bytes
        All tiles of 512 x 512 px in zlib format: level by level, channel by channel, row
        by row.
    dtype : dtype
        Type of the pixels.
    mpp : float, optional
        Micrometres per pixel of the full resolution, for the resolution tags.
    ome : dict, optional
        Metadata of an OME-TIFF, see `ome_fields`. The default is a plain TIFF.
    """
    import tifffile

    dtype = np.dtype(dtype)
    encoded = iter(tiles)
    big = sum(prod(shape) for shape in shapes) * dtype.itemsize > _MAX_CLASSIC_BYTES
    with (
        replacing(path) as part,
        tifffile.TiffWriter(part, ome=ome is not None, bigtiff=big) as tiff,
    ):
        for level, shape in enumerate(shapes):
            n_tiles = prod(shape[:-2]) * prod(ceil(n / TILE_PX) for n in shape[-2:])
            per_cm = 10_000 / (mpp * 2**level) if mpp else None
            tiff.write(
                islice(encoded, n_tiles),
                shape=shape,
                dtype=dtype,
                tile=(TILE_PX, TILE_PX),
                photometric="minisblack",
                compression="zlib",
                resolution=(per_cm, per_cm) if per_cm else None,
                resolutionunit="CENTIMETER" if per_cm else None,
                software="codexseg",
                subifds=len(shapes) - 1 if level == 0 else None,
                subfiletype=1 if level else None,
                metadata=None if level else ome,
            )
