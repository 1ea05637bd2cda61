"""TIFF slides: OME-TIFF, qptiff, ImageJ, plain multi-page TIFF, and colour pictures.

tifffile reads the directory once. Windows are then read tile by tile (or strip by strip),
or from a memory map if the pixels are contiguous and uncompressed. The file is open only
while a window is read, so that threads and forked workers share no handle.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile

from codexseg.arrays import Int64, Pixels
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides import tiff_metadata
from codexseg.io.slides.base import COLOURS, SlideImage, SlideInfo, channel_axis, reading

# A compressed strip is decoded as a whole: a strip per plane prevents lazy reading.
MAX_SEGMENT_BYTES: Final = 2**29
_CHANNEL_AXES: Final = "CSIQ"
# MINISBLACK; PALETTE as written by ImageJ: grey values and a colour map
_GREY: Final = (1, 3)
_COLOUR: Final = (2, 6)  # RGB; YCBCR, which the jpeg decoder converts to RGB
_WHITE_IS_ZERO: Final = 0
_ALPHA: Final = (1, 2)  # types of extra samples with the transparency


@dataclass(frozen=True)
class _Run:
    """One plane of a contiguous, uncompressed array with any axes."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    y: int
    x: int
    index: tuple[int, ...]  # position of the plane along all axes; ignored at y and x

    @property
    def end(self) -> int:
        return self.offset + prod(self.shape) * self.dtype.itemsize

    def read(self, path: Path, window: Window, dtype: np.dtype[Any]) -> Pixels:
        # A new map for every window: pages do not stay in resident memory.
        pixels = np.memmap(path, self.dtype, "r", offset=self.offset, shape=self.shape)
        index: list[int | slice] = list(self.index)
        index[self.y], index[self.x] = window.slices
        plane = pixels[tuple(index)]
        return np.array(plane if self.y < self.x else plane.T, dtype, order="C")


@dataclass(frozen=True)
class _Segments:
    """One plane in tiles or strips; `first` and `sample` are its position in the page."""

    offsets: Int64
    counts: Int64
    decode: Callable[..., Any]
    jpeg: dict[str, bytes | None]
    tile: tuple[int, int]
    columns: int
    first: int
    sample: int
    nodata: float

    @property
    def end(self) -> int:
        return int((self.offsets + self.counts)[self.counts > 0].max(initial=0))

    def read(self, path: Path, window: Window, dtype: np.dtype[Any]) -> Pixels:
        out = np.full(window.shape, self.nodata, dtype)
        (height, width) = self.tile
        with path.open("rb", buffering=0) as file:
            for row in range(window.y0 // height, (window.y1 - 1) // height + 1):
                for column in range(window.x0 // width, (window.x1 - 1) // width + 1):
                    number = self.first + row * self.columns + column
                    count = int(self.counts[number])
                    if count == 0:  # sparse file: not stored
                        continue
                    file.seek(int(self.offsets[number]))
                    data = file.read(count)
                    if len(data) < count:
                        raise EOFError(f"tile {number} has {len(data)} of {count} bytes")
                    self._paste(number, data, window, out)
        return out

    def _paste(self, number: int, data: bytes, window: Window, out: Pixels) -> None:
        """Decode one tile and copy its pixels in the window."""
        pixels, (_, _, y, x, _), _ = self.decode(data, number, **self.jpeg)
        height, width = pixels.shape[1:3]
        tile = Window(y, x, y + height, x + width)
        common = tile.intersection(window)
        if common is not None:
            out[common.within(window)] = pixels[0, ..., self.sample][common.within(tile)]


_Plane = _Run | _Segments


class TiffImage(SlideImage):
    """A TIFF of any flavour; see `SlideImage` and `codexseg.io.slides.open.open_image`."""

    def __init__(self, path: Path, panel_file: Path | None) -> None:
        with reading(path, "TIFF", tifffile.TiffFileError), tifffile.TiffFile(path) as tif:
            _check_chain(tif, path)
            series = _main_series(tif, path)
            colours, alpha = _colours(series, series.keyframe, path)
            planes: list[list[_Plane]] = []
            shapes: list[tuple[int, int]] = []
            for level in series.levels:
                level_planes, shape = _planes(tif, level, path)
                level_planes = level_planes[: len(level_planes) - alpha]
                if not shapes or len(level_planes) == len(planes[0]):  # else not a level
                    planes.append(level_planes)
                    shapes.append(shape)
            _check_complete(planes[0], path)
            kind, names, mpp = _metadata(tif, series, shapes[0], len(planes[0]), path)
            if colours and (names is None or len(names) != len(COLOURS)):
                names = COLOURS
            info = SlideInfo(
                path=path,
                format=kind,
                shape=(len(planes[0]), *shapes[0]),
                dtype=series.dtype,
                levels=tuple(shapes),
                names=names,
                mpp=mpp,
            )
            super().__init__(info, panel_file)
        self._planes = planes

    def _read(self, channel: int, window: Window, level: int) -> Pixels:
        try:
            return self._planes[level][channel].read(self.path, window, self.dtype)
        except tifffile.TiffFileError as error:  # no builtin type in older releases
            raise ValueError(str(error)) from error


def _check_chain(tif: tifffile.TiffFile, path: Path) -> None:
    """Raise InputError if the list of pages is truncated."""
    pages, first, file = len(tif.pages), tif.pages.first, tif.filehandle
    file.seek(tif.pages.next_page_offset or 0)
    link = file.read(tif.tiff.offsetsize)
    if len(link) < tif.tiff.offsetsize or any(link):
        raise _truncated(path, f"the page after page {pages} is missing")
    # tifffile ignores tags with a value beyond the end of the file. Without its
    # description, an OME-TIFF would be read as a plain TIFF.
    file.seek(first.offset)
    (count,) = struct.unpack(tif.tiff.tagnoformat, file.read(tif.tiff.tagnosize))
    tags = file.read(count * tif.tiff.tagsize)
    codes = struct.iter_unpack(f"{tif.byteorder}H{tif.tiff.tagsize - 2}x", tags)
    if (270,) in codes and "ImageDescription" not in first.tags:
        raise _truncated(path, "its description is missing")


def _main_series(tif: Any, path: Path) -> Any:
    """Return the slide among the images of a file; raise InputError if ambiguous."""
    if not tif.series:
        raise InputError(f"{path} contains no image. Export it again.")
    if tif.is_qpi:
        return tif.series[0]  # the others are thumbnail, label and macro image
    series = max(tif.series, key=lambda s: s.size)
    if (tif.is_ome and series.kind == "generic") or (
        tif.is_imagej and series.kind in ("generic", "uniform")
    ):
        raise InputError(
            f"{path} has {'OME' if tif.is_ome else 'ImageJ'} metadata that do not fit its "
            f"pages. It is truncated or damaged. Copy or export it again."
        )
    further = [s for s in tif.series if s is not series]
    if series.kind == "ome":  # label and thumbnail images are much smaller
        further = [s for s in further if 2 * s.size >= series.size]
    else:
        further = [s for s in further if not s.keyframe.is_reduced]
    if further:
        shapes = ", ".join(str(s.shape) for s in (series, *further))
        raise InputError(
            f"{path} has several images, or pages that differ in shape: {shapes}. Export "
            f"one image, every page a channel of the same size."
        )
    if series.kind == "uniform":  # tifffile checks only some of the pages
        for page in series.pages:
            shape = page.aspage().shape
            if shape != series.keyframe.shape:
                raise InputError(
                    f"{path} has pages that differ in shape: {series.keyframe.shape}, "
                    f"{shape}. Export it with every page a channel of the same size."
                )
    return series


def _colours(series: Any, page: Any, path: Path) -> tuple[bool, int]:
    """Return whether the channels are colours, and the number of alpha samples.

    Raises
    ------
    InputError
        If the pixels are not intensities.
    """
    photometric = int(page.photometric)
    if photometric == _WHITE_IS_ZERO:
        raise InputError(
            f"{path} stores white as zero. Invert it, and export it with black as zero."
        )
    samples, extra = page.samplesperpixel, tuple(map(int, page.extrasamples))
    if photometric in _COLOUR and samples in (3, 4) and series.size % samples == 0:
        return True, samples - 3
    if photometric not in _GREY:
        raise InputError(
            f"{path} has pixels of {page.photometric.name} with {samples} samples. Export "
            f"it in grey levels with one page per marker, or as a picture in red, green "
            f"and blue."
        )
    return False, 1 if samples == 2 and len(extra) == 1 and extra[0] in _ALPHA else 0


def _planes(
    tif: tifffile.TiffFile, series: Any, path: Path
) -> tuple[list[_Plane], tuple[int, int]]:
    """Return the location of each channel of a pyramid level, and the level's shape."""
    axes, shape = series.axes.upper(), series.shape
    at = channel_axis(axes, shape, _CHANNEL_AXES, path)
    y, x, count = axes.index("Y"), axes.index("X"), 1 if at < 0 else shape[at]
    size = (shape[y], shape[x])
    pages = list(series.pages)
    if any(page is None for page in pages):
        raise InputError(
            f"{path} has OME-XML with pages that are not in the file. Export it again."
        )
    if any(page.parent is not tif for page in pages):
        raise InputError(
            f"{path} is one of several files of an OME-TIFF. Export it as a single file."
        )
    if series.dataoffset is not None:
        dtype = series.dtype.newbyteorder(tif.byteorder)
        indexes = (
            tuple(c if i == at else 0 for i in range(len(axes))) for c in range(count)
        )
        return [_Run(series.dataoffset, shape, dtype, y, x, i) for i in indexes], size

    key = series.keyframe
    samples = key.shaped[0] * key.shaped[4]
    if (key.imagelength, key.imagewidth) == size and y < x:
        if len(pages) == count and samples == 1:
            return [_plane(page, 0, path) for page in pages], size
        if len(pages) == 1 and samples == count:
            return [_plane(pages[0], sample, path) for sample in range(count)], size
    raise InputError(
        f"{path} has axes {axes} of {shape} in {len(pages)} compressed pages of "
        f"{key.shape}, expected one page per channel. Export it with axes (c, y, x)."
    )


def _plane(page: Any, sample: int, path: Path) -> _Plane:
    """Return the location of one sample of a page."""
    key = page.keyframe
    offsets = np.array(page.dataoffsets, np.int64)
    counts = np.array(page.databytecounts, np.int64)
    separate, contig = (sample, 0) if key.shaped[0] > 1 else (0, sample)
    if key.is_final and np.all(offsets[:-1] + counts[:-1] == offsets[1:]):
        dtype = key.dtype.newbyteorder(page.parent.byteorder)
        return _Run(int(offsets[0]), key.shaped, dtype, 2, 3, (separate, 0, 0, 0, contig))

    if key.compression not in tifffile.TIFF.DECOMPRESSORS and key.compression != 1:
        raise InputError(
            f"{path} is compressed with {key.compression!r}, which imagecodecs cannot "
            f"decode. Install a full imagecodecs, or export it with deflate or LZW."
        )
    if key.is_tiled:
        tile = (key.tilelength, key.tilewidth)
    else:
        tile = (min(key.rowsperstrip, key.imagelength), key.imagewidth)
    if prod(tile) * key.shaped[4] * key.dtype.itemsize > MAX_SEGMENT_BYTES:
        raise InputError(
            f"{path} has compressed tiles of {tile[0]} x {tile[1]} px, too large to read "
            f"lazily. Export it with tiles of 512 px, or uncompressed."
        )
    rows, columns = -(-key.imagelength // tile[0]), -(-key.imagewidth // tile[1])
    return _Segments(
        offsets=offsets,
        counts=counts,
        decode=key.decode,
        jpeg={"jpegtables": page.jpegtables, "jpegheader": key.jpegheader},
        tile=tile,
        columns=columns,
        first=separate * rows * columns,
        sample=contig,
        nodata=key.nodata,
    )


def _check_complete(planes: Sequence[_Plane], path: Path) -> None:
    """Raise InputError if the file ends before its last pixel."""
    end, size = max(plane.end for plane in planes), path.stat().st_size
    if end > size:
        raise _truncated(path, f"its pixels end at byte {end:,}, the file at {size:,}")


def _truncated(path: Path, fact: str) -> InputError:
    return InputError(f"{path} is truncated: {fact}. Copy or export it again.")


def _metadata(
    tif: tifffile.TiffFile, series: Any, shape: tuple[int, int], count: int, path: Path
) -> tuple[str, tiff_metadata.Names | None, float | None]:
    """Return format, channel names and micrometres per pixel."""
    page = tif.pages.first
    if tif.is_qpi:
        names = tiff_metadata.qpi_names(p.aspage().description for p in series.pages)
        return "qptiff", names, tiff_metadata.qpi_mpp(page, path)
    if tif.is_ome:
        xml = tif.ome_metadata or ""
        return "OME-TIFF", *tiff_metadata.ome_metadata(xml, shape, path)
    if tif.is_imagej:
        meta = tif.imagej_metadata or {}
        mpp = tiff_metadata.imagej_mpp(meta, page, path)
        return "TIFF", tiff_metadata.imagej_names(meta, count), mpp
    return "TIFF", None, tiff_metadata.tag_mpp(page, path)
