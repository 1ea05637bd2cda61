"""Open slide images of any supported format.

`open_image` chooses the reader by the content of the file: `codexseg.io.slides.tiff`,
`codexseg.io.slides.ome_zarr` or `codexseg.io.slides.pictures`. The result is a
`SlideImage`: small, immutable, shared safely between threads, pickled as its path.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from codexseg.errors import InputError
from codexseg.io.slides.base import SlideImage
from codexseg.io.slides.window import crop_slide

_TIFF_MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ZARR_FILES: Final = (".zattrs", ".zgroup", ".zarray", "zarr.json")


def open_image(
    path: str | Path,
    panel_file: str | Path | None = None,
    window: Sequence[int] | None = None,
) -> SlideImage:
    """Open a slide lazily; an unchanged file is opened once per process.

    Parameters
    ----------
    path : str or Path
        OME-TIFF, qptiff, multi-page TIFF, folder of an OME-Zarr image, or a picture (png,
        jpg, bmp, colour TIFF).
    panel_file : str or Path, optional
        File with channel names, see `codexseg.io.slides.panel.read_panel`. It overrides
        the names in the image.
    window : (int, int, int, int), optional
        First row, first column, height and width (px) of the part to open; see
        `codexseg.io.slides.window.crop_slide`. The default is the whole slide.

    Raises
    ------
    InputError
        If the path does not exist or is not a supported image (other format or dtype,
        3-D stack, truncated), if names and channels differ in number, or if the window is
        not inside the slide.
    """
    path = Path(path).absolute()
    panel = None if panel_file is None else Path(panel_file).absolute()
    slide = _open(path, panel, _stamp(path), None if panel is None else _stamp(panel))
    return slide if window is None else crop_slide(slide, window)


@lru_cache(maxsize=8)
def _open(path: Path, panel: Path | None, *stamps: tuple[int, ...] | None) -> SlideImage:
    """Open a path; `stamps` distinguish a changed file from the cached one."""
    if path.is_dir():
        if not any((path / name).exists() for name in _ZARR_FILES):
            raise InputError(
                f"{path} is a folder but not an OME-Zarr image (it contains none of "
                f"{', '.join(_ZARR_FILES)}). Pass the .zarr folder or an image file."
            )
        # Importing tifffile and zarr is slow: each reader is imported when needed.
        from codexseg.io.slides.ome_zarr import ZarrImage

        return ZarrImage(path, panel)
    with path.open("rb") as file:
        start = file.read(4)
    from codexseg.io.slides.pictures import PictureImage, is_picture

    if is_picture(start):
        return PictureImage(path, panel)
    if start not in _TIFF_MAGIC:
        raise InputError(
            f"Unsupported file type: {path} "
            f"({f'starts with {start!r}' if start else 'is empty'}). Expected an OME-TIFF, "
            f"a qptiff, a TIFF, an OME-Zarr folder, or a png, jpg or bmp."
        )
    from codexseg.io.slides.tiff import TiffImage

    return TiffImage(path, panel)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return inodes, sizes and times of a file or of the metadata of a zarr folder."""
    try:
        stats = [path.stat()]
        if path.is_dir():
            files = (path / name for name in _ZARR_FILES)
            stats += [file.stat() for file in files if file.exists()]
        else:
            path.open("rb").close()  # raises if the file is not readable
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened: {error.strerror or error}. Pass the path of an "
            f"existing, readable file."
        ) from error
    return tuple(n for s in stats for n in (s.st_ino, s.st_size, s.st_mtime_ns))
