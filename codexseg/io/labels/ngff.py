"""Arrays, metadata and image pyramids of NGFF 0.4 and 0.5.

The metadata are written here because importing ome_zarr.writer costs two CPU seconds.
The tests read them back with ome_zarr and ome_zarr_models.
"""

import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol

import numcodecs
import numpy as np
import zarr
from zarr.codecs import BloscCodec

from codexseg.arrays import Pixels
from codexseg.core.grid import Window

Version = Literal["0.4", "0.5"]
"""NGFF version: 0.4 uses Zarr format 2, 0.5 Zarr format 3."""

CHUNK_PX = 1024
_BLOCK_BYTES = 1 << 20
"""Size of the blocks that blosc compresses; with its own choice zstd takes 1.5 times as
long."""
_COARSEST_PX = 512
_COLORS = ("0000FF", "00FF00", "FF0000", "FFFFFF")


class Overview(Protocol):
    """A (c, y, x) image that returns blocks when indexed: numpy, memmap or zarr."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of channels, height and width."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Any integer or float dtype."""
        ...

    def __getitem__(self, key: Any, /) -> Any: ...


# -- arrays -------------------------------------------------------------------------------


def level_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes of a pyramid: y and x are halved (rounded up) down to 512 px."""
    shapes = [shape]
    while max(shapes[-1][-2:]) > _COARSEST_PX:
        *head, y, x = shapes[-1]
        shapes.append((*head, -(-y // 2), -(-x // 2)))
    return shapes


def blocks(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[Window]:
    """Return the (y, x) windows of the chunks of an array, row by row."""
    (height, width), (dy, dx) = shape[-2:], chunks[-2:]
    for y, x in product(range(0, height, dy), range(0, width, dx)):
        yield Window(y, x, min(height, y + dy), min(width, x + dx))


def create_group(path: Path, version: Version) -> Any:
    """Create an empty group."""
    return zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)


def create_array(
    path: Path,
    version: Version,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype[Any],
) -> Any:
    """Create an empty array of labels (y, x) or of an image (c, y, x).

    Chunks are compressed with zstd at level 1 in blocks of 1 MB: labels shrink to 3 % at
    more than 1 GB/s. Byte shuffling makes labels larger and noisy images smaller.
    """
    image = len(shape) == 3
    blosc: dict[str, Any] = {"cname": "zstd", "clevel": 1, "blocksize": _BLOCK_BYTES}
    if version == "0.4":
        codec = numcodecs.Blosc(**blosc, shuffle=int(image))
    else:
        blosc["shuffle"] = "shuffle" if image else "noshuffle"
        codec = BloscCodec(**blosc, typesize=dtype.itemsize)
    return zarr.create_array(
        path,
        shape=shape,
        chunks=tuple(map(min, chunks, shape)),
        dtype=dtype,
        fill_value=0,
        overwrite=True,
        zarr_format=2 if version == "0.4" else 3,
        compressors=codec,
        chunk_key_encoding={
            "name": "v2" if version == "0.4" else "default",
            "separator": "/",
        },
        dimension_names=None if version == "0.4" else tuple("cyx"[-len(shape) :]),
    )


def write_image_levels(path: Path, version: Version, overview: Overview) -> list[Any]:
    """Write an image as level 0 of `path`, and coarser levels as means of 2 x 2 px."""
    arrays: list[Any] = []
    for k, shape in enumerate(level_shapes(overview.shape)):
        array = create_array(
            path / str(k), version, shape, (1, CHUNK_PX, CHUNK_PX), overview.dtype
        )
        for window in blocks(shape, array.chunks):
            y, x = window.slices
            if k == 0:
                array[:, y, x] = overview[:, y, x]
            else:
                ys, xs = (slice(2 * s.start, 2 * s.stop) for s in (y, x))
                array[:, y, x] = _halve(arrays[-1][:, ys, xs])
        arrays.append(array)
    for folder in path.glob("[0-9]*"):
        if int(folder.name) >= len(arrays):  # left by a larger overview
            shutil.rmtree(folder)
    return arrays


def _halve(image: Pixels) -> Pixels:
    """Average 2 x 2 pixels; an odd last row or column is repeated."""
    channels, height, width = image.shape
    image = np.pad(image, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    pairs = image.reshape(channels, -(-height // 2), 2, -(-width // 2), 2)
    mean: Pixels = pairs.mean(axis=(2, 4))
    return (mean if image.dtype.kind == "f" else np.rint(mean)).astype(image.dtype)


# -- metadata -----------------------------------------------------------------------------


def detect_version(path: Path) -> Version:
    """Return the NGFF version of a folder."""
    return "0.5" if (path / "zarr.json").exists() else "0.4"


def write_group_metadata(path: Path, version: Version, metadata: dict[str, Any]) -> None:
    """Replace the metadata of a group; the key of the version is added."""
    group = zarr.open_group(path, mode="r+")
    if version == "0.5":
        group.attrs.put({"ome": {"version": version, **metadata}})
        return
    old: dict[str, Any] = {}
    for key, value in metadata.items():
        if key == "multiscales":
            old[key] = [{**image, "version": version} for image in value]
        else:
            old[key] = {**value, "version": version} if isinstance(value, dict) else value
    group.attrs.put(old)


def multiscales(
    name: str,
    axes: str,
    scales: Sequence[float],
    origins: Sequence[float],
    method: str,
) -> list[dict[str, Any]]:
    """Return the metadata of a pyramid.

    Parameters
    ----------
    name : str
        Name of the image.
    axes : {"yx", "cyx"}
        Axes; y and x in micrometres.
    scales, origins : sequences of float
        Micrometres per pixel of each level, and offset of the centre of its first pixel
        from that of the slide, micrometres.
    method : str
        Downsampling method.
    """
    c = [1.0] * (len(axes) - 2)
    datasets = []
    for level, (scale, origin) in enumerate(zip(scales, origins, strict=True)):
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [*c, scale, scale]}]
        if origin:
            shift = [*(0.0 for _ in c), origin, origin]
            transforms.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    kinds = {axis: {"type": "space", "unit": "micrometer"} for axis in "yx"}
    kinds["c"] = {"type": "channel"}
    described = [{"name": axis, **kinds[axis]} for axis in axes]
    return [{"name": name, "axes": described, "datasets": datasets, "type": method}]


def omero(coarsest: Pixels, names: Sequence[str]) -> dict[str, Any]:
    """Return display settings of channels: contrast from P1 to P99.8 of a level."""
    channels = []
    for k, (name, image) in enumerate(zip(names, coarsest, strict=True)):
        low, high = (float(np.percentile(image, p)) for p in (1, 99.8))
        bounds: Any = np.iinfo(image.dtype) if image.dtype.kind in "iu" else None
        window = {
            "min": float(bounds.min if bounds else image.min()),
            "max": float(bounds.max if bounds else image.max()),
            "start": low,
            "end": high if high > low else low + 1,
        }
        color = _COLORS[k % len(_COLORS)]
        channels.append({"label": name, "color": color, "active": True, "window": window})
    return {"channels": channels}
