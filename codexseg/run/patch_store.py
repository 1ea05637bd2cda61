"""Labels of the patches: ``patches.zarr``.

``original`` holds the outer windows, one chunk per patch and compartment. A window that
was extended beyond the outer one is stored beside it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codexseg.arrays import Labels
from codexseg.core.grid import Window
from codexseg.errors import RunStateError

_MAX_CHUNK_PX = 4096
"""Longest side of a chunk: a codec takes at most 2 GB at once."""


@dataclass(frozen=True)
class PatchStore:
    """Reads and writes the labels of patches.

    Attributes
    ----------
    path : Path
        The folder ``patches.zarr``.
    """

    path: Path

    def create(self, n: int, shape: tuple[int, int], *, keep: bool) -> bool:
        """Create the array of labels, (patch, compartment, y, x) uint32.

        Parameters
        ----------
        n : int
            Number of patches.
        shape : (int, int)
            Height and width of the largest outer window, px.
        keep : bool
            Keep an existing array of this shape.

        Returns
        -------
        bool
            Whether the array is new.
        """
        import zarr

        full = (n, 2, *shape)
        try:
            if keep and zarr.open_array(self._array, mode="r").shape == full:
                return False
        except (OSError, ValueError):
            pass  # no array, or a damaged one
        shutil.rmtree(self.path, ignore_errors=True)
        zarr.create_array(
            self._array,
            shape=full,
            chunks=(1, *_chunks(shape)),
            dtype="uint32",
            fill_value=0,
            compressors=_compressor(),
        )
        return True

    def write(self, patch: int, labels: Labels) -> None:
        """Write the labels (2, y, x) of one patch, in chunks of its own."""
        height, width = labels.shape[1:]
        self._open("r+")[patch, :, :height, :width] = labels

    def read(self, patch: int, outer: Window, window: Window | None = None) -> Labels:
        """Read the labels (2, y, x) of a patch, or of a window inside its outer one."""
        ys, xs = (window or outer).within(outer)
        return np.asarray(self._open("r")[patch, :, ys, xs], dtype=np.uint32)

    def bytes_of(self, patch: int) -> int:
        """Return the size of the labels of a patch on disk."""
        chunks = (self._array / "c" / str(patch)).rglob("*")
        extended = self._extended(patch).rglob("*")
        return sum(p.stat().st_size for p in (*chunks, *extended) if p.is_file())

    def write_extended(self, patch: int, labels: Labels) -> None:
        """Write the labels (2, y, x) of an extended window."""
        import zarr

        zarr.create_array(
            self._extended(patch),
            data=labels,
            chunks=_chunks(labels.shape[1:]),
            compressors=_compressor(),
            overwrite=True,
        )

    def read_extended(self, patch: int, extended: Window, window: Window) -> Labels:
        """Read a window of the labels that :meth:`write_extended` wrote, (2, y, x)."""
        import zarr

        ys, xs = window.within(extended)
        array = zarr.open_array(self._extended(patch), mode="r")
        return np.asarray(array[:, ys, xs], dtype=np.uint32)

    @property
    def _array(self) -> Path:
        return self.path / "original"

    def _extended(self, patch: int) -> Path:
        return self.path / f"grown-{patch:06d}"

    def _open(self, mode: Any) -> Any:
        import zarr

        try:
            return zarr.open_array(self._array, mode=mode)
        except FileNotFoundError:
            raise RunStateError(
                f"The labels of the patches are missing: {self._array}. Recompute them "
                f"with codexseg run CONFIG --from segment."
            ) from None


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *(min(side, _MAX_CHUNK_PX) for side in shape))


def _compressor() -> Any:
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="lz4", clevel=3, shuffle="noshuffle")
