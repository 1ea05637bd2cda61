"""Pairs of images and labels as a source of examples for the panoptic network.

Images are read when they are drawn and kept up to a memory limit, so a folder may be larger
than memory.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from codexseg.backends.networks.contract import NETWORK_MPP
from codexseg.training.augmentation.presets import AUGMENTATIONS
from codexseg.training.data.examples import Example, Rng, draw_window, scale_to_bright
from codexseg.training.data.pairs import Pair, require_channels, split_pairs
from codexseg.training.data.resize import resize_image, resize_labels

MAX_KEPT_BYTES = 2**29
"""Limit of the memory used for images that were read."""
_SAME_MPP = 0.01
_TRIES = 4
_WINDOW_PX = max(int(preset.max_px / preset.scales[0]) for preset in AUGMENTATIONS.values())

Kept = TypeVar("Kept")


class RecentlyUsed(Generic[Kept]):
    """Recently used items up to a limit of memory; the oldest are dropped first."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._items: dict[Hashable, tuple[Kept, int]] = {}  # the latest is the last

    def get(self, key: Hashable, make: Callable[[], tuple[Kept, int]]) -> Kept:
        """Return the item of a key; `make` returns a missing item and its size in bytes."""
        kept = self._items.pop(key, None) or make()
        self._items[key] = kept
        total = sum(size for _, size in self._items.values())
        while total > self._max_bytes and len(self._items) > 1:
            _, dropped = self._items.pop(next(iter(self._items)))
            total -= dropped
        return kept[0]


class Pairs:
    """Images with labels, resampled to 0.5 um per px.

    Parameters
    ----------
    pairs : sequence of Pair
        Images and labels.
    nucleus : int
        The nuclear channel.
    membranes : sequence of int, optional
        The membrane channels; None: all others.
    mpp : float
        Micrometres per pixel of the images.

    Raises
    ------
    InputError
        If an image lacks one of the channels.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        nucleus: int,
        membranes: Sequence[int] | None,
        mpp: float,
    ) -> None:
        self.pairs = list(pairs)
        self._nucleus, self._membranes, self._mpp = nucleus, membranes, mpp
        self._recent: RecentlyUsed[Example] = RecentlyUsed()
        highest = max(nucleus, *(membranes or (0,)))
        require_channels(pairs, highest, "nucleus_channel and membrane_channels")

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, rng: Rng) -> Example:
        """Return a random window of a random image; windows with labels are preferred."""
        example = self._at(int(rng.integers(len(self.pairs))))
        for _ in range(_TRIES):
            window = _cut(example, rng)
            if any(labels is not None and labels.any() for labels in window.labels):
                break
        return window

    def every(self) -> Iterator[Example]:
        """Yield all images, whole and in order."""
        return (self._at(number) for number in range(len(self.pairs)))

    def split(self, share: float, seed: int) -> "tuple[Pairs, Pairs]":
        """Split the images into training and validation images."""
        train, validation = split_pairs(self.pairs, share, seed)
        rest = self._nucleus, self._membranes, self._mpp
        return Pairs(train, *rest), Pairs(validation, *rest)

    def _at(self, number: int) -> Example:
        return self._recent.get(number, lambda: self._read(self.pairs[number]))

    def _read(self, pair: Pair) -> tuple[Example, int]:
        image, labels = pair.read()
        membranes = self._membranes
        if membranes is None:
            membranes = [c for c in range(len(image)) if c != self._nucleus]
        factor = self._mpp / NETWORK_MPP
        shape = image.shape[1:]
        if abs(factor - 1) > _SAME_MPP:
            shape = tuple(max(1, round(side * factor)) for side in shape)
        channels = (image[channel] for channel in (self._nucleus, *membranes))
        pixels = np.stack([resize_image(scale_to_bright(c), shape) for c in channels])
        planes = {name: resize_labels(plane, shape) for name, plane in labels.items()}
        example = Example(pixels[0], pixels[1:], planes.get("cells"), planes.get("nuclei"))
        return example, pixels.nbytes + sum(plane.nbytes for plane in planes.values())


def _cut(example: Example, rng: Rng) -> Example:
    """Cut out a random window, as large as an augmented image needs at most."""
    window = (..., *draw_window(example.nucleus.shape, _WINDOW_PX, rng))
    cells, nuclei = (None if plane is None else plane[window] for plane in example.labels)
    return Example(example.nucleus[window], example.markers[window], cells, nuclei)
