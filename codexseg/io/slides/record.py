"""Description of a slide: its files, the part that is used, and its fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codexseg.errors import InputError
from codexseg.io.slides.base import SlideImage
from codexseg.io.slides.open import open_image


@dataclass(frozen=True)
class Fingerprint:
    """Identity of the files of a slide.

    Attributes
    ----------
    bytes : int
        Size of all files; of a folder, of its metadata files.
    modified_ns : int
        Latest modification time, ns since 1970.
    digest : str
        Hash of the content (:meth:`SlideImage.fingerprint`): the same wherever the files
        are, and whenever they were copied. It decides whether two slides are equal.
    """

    bytes: int
    modified_ns: int
    digest: str


@dataclass(frozen=True)
class SlideRecord:
    """A slide image, or a window of one. Small and picklable: it travels to workers.

    Attributes
    ----------
    files : tuple of str
        Absolute paths: one file, a set of files, or a folder.
    shape : (int, int, int)
        Channels, height and width, px, of the window where there is one.
    channel_names : tuple of str
        Names of the channels, in order.
    mpp : float
        Micrometres per pixel.
    dtype : str
        "uint8", "uint16" or "float32".
    fingerprint : Fingerprint
        Identity of the content.
    panel : str or None
        File with the channel names.
    image : int or None
        Number of the image within the file; None: the first.
    window : (int, int, int, int) or None
        y0, x0, height and width in px of the image; None: the whole image.
    offset_px : (float, float)
        Position y, x of the first pixel in the coordinates of the whole slide.
    """

    files: tuple[str, ...]
    shape: tuple[int, int, int]
    channel_names: tuple[str, ...]
    mpp: float
    dtype: str
    fingerprint: Fingerprint
    panel: str | None = None
    image: int | None = None
    window: tuple[int, int, int, int] | None = None
    offset_px: tuple[float, float] = (0.0, 0.0)

    @property
    def path(self) -> str:
        """The first file, or the folder."""
        return self.files[0]

    def open(self) -> SlideImage:
        """Open the slide lazily, cut to the window.

        Raises
        ------
        InputError
            If the files cannot be read, or no reader supports them.
        """
        if len(self.files) > 1 or self.image not in (None, 0):
            raise InputError(
                f"{self.path}: a set of files, or an image other than the first of a file, "
                f"cannot be read. Export one image as OME-TIFF or OME-Zarr."
            )
        return open_image(self.path, self.panel, self.window)

    def is_current(self) -> bool:
        """Return whether the files still have the recorded content.

        Raises
        ------
        InputError
            If the files cannot be read.
        """
        return self.open().fingerprint() == self.fingerprint.digest

    def describe(self) -> dict[str, Any]:
        """Return the part of the record that does not depend on the machine, for JSON."""
        return {
            "fingerprint": self.fingerprint.digest,
            "shape_cyx": list(self.shape),
            "dtype": self.dtype,
            "channel_names": list(self.channel_names),
            "mpp": self.mpp,
            "image": self.image,
            "window": None if self.window is None else list(self.window),
            "offset_px": list(self.offset_px),
        }

    def locate(self) -> dict[str, Any]:
        """Return the part of the record that depends on the machine, for JSON."""
        return {
            "files": list(self.files),
            "panel": self.panel,
            "bytes": self.fingerprint.bytes,
            "modified_ns": self.fingerprint.modified_ns,
        }

    @classmethod
    def restore(cls, content: Mapping[str, Any], place: Mapping[str, Any]) -> "SlideRecord":
        """Invert :meth:`describe` and :meth:`locate`."""
        window, (channels, height, width) = content.get("window"), content["shape_cyx"]
        y, x = content.get("offset_px", (0.0, 0.0))
        return cls(
            files=tuple(place["files"]),
            shape=(channels, height, width),
            channel_names=tuple(content["channel_names"]),
            mpp=content["mpp"],
            dtype=content["dtype"],
            fingerprint=Fingerprint(
                place.get("bytes", 0), place.get("modified_ns", 0), content["fingerprint"]
            ),
            panel=place.get("panel"),
            image=content.get("image"),
            window=None if window is None else tuple(window),
            offset_px=(y, x),
        )


def record_slide(
    path: str | Path,
    mpp: float,
    panel: str | Path | None = None,
    window: tuple[int, int, int, int] | None = None,
) -> SlideRecord:
    """Open a slide and describe it.

    Parameters
    ----------
    path : path
        A file or a folder that `open_image` reads.
    mpp : float
        Micrometres per pixel.
    panel : path, optional
        File with the channel names.
    window : (int, int, int, int), optional
        y0, x0, height and width, px: the part of the slide that is used.

    Raises
    ------
    InputError
        If the slide cannot be read, or the window is not inside it.
    """
    slide = open_image(path, panel, window)
    size, modified = _size_and_time(slide.path)
    return SlideRecord(
        files=(str(slide.path),),
        shape=slide.shape,
        channel_names=slide.channel_names,
        mpp=mpp,
        dtype=str(slide.dtype),
        fingerprint=Fingerprint(size, modified, slide.fingerprint()),
        panel=None if panel is None else str(panel),
        window=window,
        offset_px=(0.0, 0.0) if window is None else (float(window[0]), float(window[1])),
    )


def _size_and_time(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]
    stats = [file.stat() for file in files]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
