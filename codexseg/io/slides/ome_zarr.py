"""OME-Zarr slides: NGFF 0.4 (zarr 2) and 0.5 (zarr 3) in a local folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from codexseg.arrays import Pixels
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides.base import (
    SlideImage,
    SlideInfo,
    channel_axis,
    hash_samples,
    reading,
)
from codexseg.io.slides.units import square_pixels, to_micrometres

Metadata = Mapping[str, Any]


class ZarrImage(SlideImage):
    """An OME-Zarr image; see `SlideImage` and `codexseg.io.slides.open.open_image`."""

    def __init__(self, path: Path, panel_file: Path | None) -> None:
        with reading(path, "OME-Zarr image (NGFF 0.4 or 0.5)"):
            group, self._metadata = _image_group(path)
            multiscales = self._metadata["multiscales"][0]
            axes, units = _axes(multiscales, path)
            datasets = multiscales["datasets"]
            self._arrays: list[Any] = [
                zarr.open_array(group.store, path=_join(group, d), mode="r")
                for d in datasets
            ]
            for array in self._arrays:
                if len(array.shape) != len(axes):
                    raise InputError(
                        f"{path} has shape {array.shape} with axes {axes}. Expected "
                        f"one length per axis. Export it again."
                    )
            shape, y, x = self._arrays[0].shape, axes.index("Y"), axes.index("X")
            at = channel_axis(axes, shape, "C", path)
            self._channel, self._y, self._x = at, y, x
            sizes = _pixel_sizes(multiscales, datasets[0], units)
            info = SlideInfo(
                path=path,
                format="OME-Zarr",
                shape=(1 if at < 0 else shape[at], shape[y], shape[x]),
                dtype=self._arrays[0].dtype,
                levels=tuple((a.shape[y], a.shape[x]) for a in self._arrays),
                names=_names(self._metadata),
                mpp=square_pixels(sizes[y], sizes[x], path),
            )
            super().__init__(info, panel_file)

    def _read(self, channel: int, window: Window, level: int) -> Pixels:
        index: list[Any] = [0] * self._arrays[level].ndim
        index[self._y], index[self._x] = window.slices
        if self._channel >= 0:
            index[self._channel] = channel
        pixels = np.asarray(read_checked(self._arrays[level], tuple(index)))
        return np.ascontiguousarray(pixels if self._y < self._x else pixels.T, self.dtype)

    def fingerprint(self) -> str:
        """Identify the content; see `SlideImage.fingerprint`."""
        folder = Path(self._arrays[0].store.root) / self._arrays[0].path
        files = sorted(
            (path.relative_to(folder).as_posix(), path.stat().st_size, path)
            for path in folder.rglob("*")
            if path.is_file() and path.name != ".zattrs"
        )
        digest = hashlib.sha256(json.dumps(self._metadata, sort_keys=True).encode())
        digest.update(json.dumps([file[:2] for file in files]).encode())
        every = max(1, len(files) // 64)
        for _, size, path in dict.fromkeys([*files[::every], files[-1]]):
            with path.open("rb") as file:
                hash_samples(digest, file, size, ends=4096, samples=2)
        return digest.hexdigest()


def _image_group(path: Path) -> tuple[Any, Metadata]:
    """Return the group of the image pyramid and its NGFF metadata."""
    root = zarr.open(path, mode="r")
    if not isinstance(root, zarr.Group):
        raise InputError(
            f"{path} is a zarr array without OME metadata. Pass the folder of the whole "
            f"image."
        )
    metadata = ngff_metadata(root)
    if metadata.get("multiscales"):
        return root, metadata
    if "plate" in metadata:
        raise InputError(
            f"{path} is a plate of many images. Pass one of them, for example {path}/A/1/0."
        )
    if "bioformats2raw.layout" in metadata:  # slide, label image, macro image
        series = sorted((k for k, _ in root.groups() if k.isdigit()), key=int)
        images = {key: ngff_metadata(root[key]) for key in series}
        areas = {k: _area(root[k], m) for k, m in images.items() if m.get("multiscales")}
        largest = [k for k, area in areas.items() if 2 * area >= max(areas.values())]
        if len(largest) == 1:
            return root[largest[0]], images[largest[0]]
        if largest:
            choices = ", ".join(f"{path}/{key}" for key in largest)
            raise InputError(f"{path} has several images. Pass one of {choices}.")
    raise InputError(
        f"{path} is not an OME-Zarr image: its attributes have no 'multiscales'. Pass the "
        f"group that has them, or export it as OME-Zarr (NGFF 0.4 or 0.5)."
    )


def ngff_metadata(group: Any) -> Metadata:
    """Return the NGFF attributes, under the key "ome" since version 0.5."""
    attributes = group.attrs.asdict()
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, dict) else {}


def _area(group: Any, metadata: Metadata) -> int:
    """Return the number of values of an image at full resolution."""
    return prod(group[metadata["multiscales"][0]["datasets"][0]["path"]].shape)


def _join(group: zarr.Group, dataset: Metadata) -> str:
    return f"{group.path}/{dataset['path']}".strip("/")


def _axes(multiscales: Metadata, path: Path) -> tuple[list[str], list[str]]:
    """Return one letter and one unit ("" for none) per axis."""
    axes = multiscales.get("axes")
    if not axes:
        raise InputError(
            f"{path} has no axes (NGFF before 0.3). Export it as NGFF 0.4 or 0.5."
        )
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in axes]
    letters = [str(axis["name"]).upper() for axis in axes]
    letters = [
        "C" if axis.get("type") == "channel" else a
        for a, axis in zip(letters, axes, strict=True)
    ]
    return letters, [str(axis.get("unit") or "") for axis in axes]


def _pixel_sizes(
    multiscales: Metadata, dataset: Metadata, units: Sequence[str]
) -> list[float | None]:
    """Return the micrometres per pixel along each axis; None without a unit."""
    scale = np.ones(len(units))
    for node in (dataset, multiscales):
        for transform in node.get("coordinateTransformations") or ():
            if transform.get("type") == "scale":
                scale = scale * np.asarray(transform["scale"], float)
    return [to_micrometres(float(s), unit) for s, unit in zip(scale, units, strict=True)]


def read_checked(array: Any, index: tuple[Any, ...]) -> Any:
    """Read a part of a zarr array, one integer or slice per axis.

    Raises
    ------
    EOFError
        If a chunk is truncated, which Blosc does not detect.
    """
    # Shards have checksums of their own.
    names = (type(codec).__name__ for codec in array.compressors)
    if array.shards is None and any("blosc" in name.lower() for name in names):
        _check_blosc(array, index)
    return array[index]


def _check_blosc(array: Any, index: tuple[Any, ...]) -> None:
    """Raise EOFError for truncated chunks, which Blosc would read beyond their end.

    Bytes 12 to 15 of a chunk are its length (Blosc 1 header).
    """
    ranges = [
        range(i // n, i // n + 1)
        if isinstance(i, int)
        else range(i.start // n, (i.stop - 1) // n + 1)
        for i, n in zip(index, array.chunks, strict=True)
    ]
    folder = Path(array.store.root) / array.path
    for chunk in product(*ranges):
        path = folder / array.metadata.encode_chunk_key(chunk)
        try:
            with path.open("rb", buffering=0) as file:
                header, size = file.read(16), path.stat().st_size
        except FileNotFoundError:  # not stored: fill value
            continue
        if size < 16 or size != int.from_bytes(header[12:], "little"):
            raise EOFError(f"chunk {path.relative_to(folder)} is truncated")


def _names(metadata: Metadata) -> tuple[str | None, ...] | None:
    """Return the labels of the omero channels."""
    channels = (metadata.get("omero") or {}).get("channels")
    if not channels:
        return None
    return tuple(str(channel.get("label") or "").strip() or None for channel in channels)
