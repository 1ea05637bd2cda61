"""The labels that the backend gave to the patches of a run: ``patches.zarr``.

``original`` holds the outer windows, a chunk a patch; a window that grew beyond its outer
one lies beside it, whole.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.errors import RunStateError

_CHUNK_PX = 4096
"""Longest side of a chunk of patches.zarr: a codec takes at most 2 GB at once."""


class PatchLabels:
    """Writes and reads the labels of patches, below `path`."""

    path: Path

    def create_patches(self, n: int, shape: tuple[int, int], *, keep: bool) -> bool:
        """Make the array of the backend's labels, (patch, compartment, y, x) uint32.

        Returns whether it is new; with `keep`, one of this shape that is there stays.
        """
        import zarr
        from zarr.codecs import BloscCodec

        store = self.path / "patches.zarr" / "original"
        full = (n, 2, *shape)
        try:
            if keep and zarr.open_array(store, mode="r").shape == full:
                return False
        except (OSError, ValueError):
            pass  # none there, or none that can be read
        shutil.rmtree(store.parent, ignore_errors=True)
        chunks = (1, 1, min(shape[0], _CHUNK_PX), min(shape[1], _CHUNK_PX))
        zarr.create_array(
            store,
            shape=full,
            chunks=chunks,
            dtype="uint32",
            fill_value=0,
            compressors=BloscCodec(cname="lz4", clevel=3, shuffle="noshuffle"),
        )
        return True

    def write_patch(self, patch: int, labels: NDArray[np.uint32]) -> None:
        """Write the labels of one patch, (2, y, x); its chunks are its own."""
        height, width = labels.shape[1:]
        self._patches("r+")[patch, :, :height, :width] = labels

    def patch_bytes(self, patch: int) -> int:
        """Return how many bytes the labels of a patch take on disk."""
        folder = self.path / "patches.zarr"
        chunks = (folder / "original" / "c" / str(patch)).rglob("*")
        grown = (folder / f"grown-{patch:06d}").rglob("*")
        return sum(p.stat().st_size for p in (*chunks, *grown) if p.is_file())

    def read_patch(
        self, patch: int, outer: Window, window: Window | None = None
    ) -> NDArray[np.uint32]:
        """Read the labels of a patch, (2, y, x), or of a window inside its outer one."""
        ys, xs = (window or outer).within(outer)
        return np.asarray(self._patches("r")[patch, :, ys, xs], dtype=np.uint32)

    def write_grown(self, patch: int, labels: NDArray[np.uint32]) -> None:
        """Write the labels of a window that grew beyond the outer one, (2, y, x)."""
        import zarr
        from zarr.codecs import BloscCodec

        zarr.create_array(
            self.path / "patches.zarr" / f"grown-{patch:06d}",
            data=labels,
            chunks=(1, *(min(side, _CHUNK_PX) for side in labels.shape[1:])),
            compressors=BloscCodec(cname="lz4", clevel=3, shuffle="noshuffle"),
            overwrite=True,
        )

    def read_grown(self, patch: int, grown: Window, window: Window) -> NDArray[np.uint32]:
        """Read a window of the labels that :meth:`write_grown` wrote, (2, y, x)."""
        import zarr

        ys, xs = window.within(grown)
        store = self.path / "patches.zarr" / f"grown-{patch:06d}"
        return np.asarray(zarr.open_array(store, mode="r")[:, ys, xs], dtype=np.uint32)

    def _patches(self, mode: Any) -> Any:
        import zarr

        store = self.path / "patches.zarr" / "original"
        try:
            return zarr.open_array(store, mode=mode)
        except FileNotFoundError:
            raise RunStateError(
                f"{store} is missing, expected the labels of the patches; "
                f"do the stage again: codexseg run --from segment."
            ) from None
