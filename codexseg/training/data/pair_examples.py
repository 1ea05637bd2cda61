"""Pairs of images and labels as a source of examples for the panoptic network.

Images are read when they are drawn and kept while there is room, so that a folder may be
larger than memory.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from codexseg.backends.networks.contract import NETWORK_MPP
from codexseg.core.labels.operations import Labels
from codexseg.errors import InputError
from codexseg.training.augmentation.presets import STRENGTHS
from codexseg.training.data.examples import Example, Rng, scaled
from codexseg.training.data.pairs import Pair, split
from codexseg.training.data.resize import nearest, resized

KEPT_BYTES = 2**29
"""Images that were read are kept in memory up to this many bytes."""
_SAME_MPP = 0.01
_TRIES = 4
_WINDOW_PX = max(int(how.largest_px / how.scales[0]) for how in STRENGTHS.values())

Kept = TypeVar("Kept")


class Keep(Generic[Kept]):
    """What was read last, as long as it fits."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._items: OrderedDict[Hashable, tuple[Kept, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], tuple[Kept, int]]) -> Kept:
        """Return what is kept under a key; else make it, with its size in bytes."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key][0]
        made, size = make()
        self._items[key] = made, size
        self._bytes += size
        while self._bytes > self._limit and len(self._items) > 1:
            _, (_, gone) = self._items.popitem(last=False)
            self._bytes -= gone
        return made


class Pairs:
    """Images with labels, at 0.5 um per px.

    Parameters
    ----------
    pairs : sequence of Pair
        Which.
    nucleus : int
        The channel that shows nuclei.
    membranes : sequence of int, optional
        Those that show membranes; None: all others.
    mpp : float
        Micrometres per pixel of the images.

    Raises
    ------
    InputError
        If an image lacks a channel that is named.
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
        self._keep: Keep[Example] = Keep()
        named = (nucleus, *(membranes or ()))
        short = [p.image for p in pairs if p.image.header().shape[0] <= max(named)]
        if short:
            raise InputError(
                f"{short[0]} has {short[0].header().shape[0]} channels, and the recipe "
                f"names channel {max(named)} (they are counted from 0): correct "
                f"nucleus_channel and membrane_channels."
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, rng: Rng) -> Example:
        """Return a window of an image, one with labels where a few tries find it."""
        example = self._at(int(rng.integers(len(self.pairs))))
        for _ in range(_TRIES):
            part = _cut(example, rng)
            if any(labels is not None and labels.any() for labels in _labels(part)):
                break
        return part

    def every(self) -> Iterator[Example]:
        """Yield all images, whole and in their order."""
        return (self._at(number) for number in range(len(self.pairs)))

    def split(self, share: float, seed: int) -> "tuple[Pairs, Pairs]":
        """Hold back a share of the images."""
        taken, held = split(self.pairs, share, seed)
        rest = self._nucleus, self._membranes, self._mpp
        return Pairs(taken, *rest), Pairs(held, *rest)

    def _at(self, number: int) -> Example:
        return self._keep.get(number, lambda: self._read(self.pairs[number]))

    def _read(self, pair: Pair) -> tuple[Example, int]:
        image, labels = pair.read()
        others = self._membranes
        if others is None:
            others = [c for c in range(len(image)) if c != self._nucleus]
        factor = self._mpp / NETWORK_MPP
        shape = image.shape[1:]
        if abs(factor - 1) > _SAME_MPP:
            shape = tuple(max(1, round(side * factor)) for side in shape)
        nucleus = resized(scaled(image[self._nucleus]), shape)
        markers = np.zeros((len(others), *nucleus.shape), np.float32)
        for marker, channel in zip(markers, others, strict=True):
            marker[:] = resized(scaled(image[channel]), shape)
        found = {name: nearest(planes, shape) for name, planes in labels.items()}
        example = Example(nucleus, markers, found.get("cells"), found.get("nuclei"))
        size = nucleus.nbytes + markers.nbytes + sum(a.nbytes for a in found.values())
        return example, size


def _labels(example: Example) -> tuple[Labels | None, Labels | None]:
    return example.cells, example.nuclei


def _cut(example: Example, rng: Rng) -> Example:
    """Cut out no more than what an augmented image is made of."""
    size = [min(side, _WINDOW_PX) for side in example.nucleus.shape]
    y, x = (
        int(rng.integers(0, whole - part + 1))
        for whole, part in zip(example.nucleus.shape, size, strict=True)
    )
    place = np.s_[..., y : y + size[0], x : x + size[1]]
    cells, nuclei = (
        None if labels is None else labels[place] for labels in _labels(example)
    )
    return Example(example.nucleus[place], example.markers[place], cells, nuclei)
