"""Pairs of images and labels: which belong together, and whether they fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.labels.operations import Labels
from codexseg.errors import InputError
from codexseg.training.data.image_files import Picture, list_pictures, listed

COMPARTMENTS = ("cells", "nuclei")
_IMAGE_KEYS = ("images", "image", "X")
_LABEL_KEYS = {name: (name, "labels", "masks", "y") for name in COMPARTMENTS}


@dataclass(frozen=True)
class Pair:
    """An image and its labels, not read yet.

    Attributes
    ----------
    image : Picture
    labels : dict of Picture
        By compartment: cells, nuclei, or both.
    """

    image: Picture
    labels: Mapping[str, Picture]

    @property
    def name(self) -> str:
        """What image and labels are both called."""
        return self.image.name

    def read(self) -> tuple[NDArray[Any], dict[str, Labels]]:
        """Read the image, (c, y, x), and the labels, (y, x) uint32 each.

        Raises
        ------
        InputError
            If a file cannot be read or holds something else.
        """
        labels = {name: picture.labels() for name, picture in self.labels.items()}
        return self.image.pixels(), labels


def find_pairs(images: Path, labels: Mapping[str, Path]) -> list[Pair]:
    """Find images and their labels, and check that they fit.

    Parameters
    ----------
    images : Path
        A folder or zip of PNG, TIFF and OME-TIFF files, or an npz.
    labels : mapping of str to Path
        The same for cells, nuclei or both. Files are paired by name: without suffixes,
        and of labels without _masks, _mask, _labels or _label at the end.

    Returns
    -------
    list of Pair
        In the order of the names.

    Raises
    ------
    InputError
        If there are none, files have no partner, or an image and its labels differ in
        shape or the labels are no integers: all such files are named.
    """
    if not labels:
        raise InputError(
            f"there are no labels for the images in {images}, expected those of cells, "
            f"nuclei or both: name them in the recipe."
        )
    found = list_pictures(images, _IMAGE_KEYS, labels=False)
    partners = {
        name: {p.name: p for p in list_pictures(path, _LABEL_KEYS[name], labels=True)}
        for name, path in labels.items()
    }
    for name, path in labels.items():
        _check_partners(images, found, path, partners[name])
    pairs = [
        Pair(image, {name: partners[name][image.name] for name in labels})
        for image in found
    ]
    _check_headers(pairs)
    return pairs


def split(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Hold back a share of the pairs, drawn by a seed; at least one stays on each side.

    Raises
    ------
    InputError
        If there is only one pair.
    """
    if share == 0:
        return list(pairs), []
    if len(pairs) < 2:
        raise InputError(
            f"there is 1 pair of image and labels ({pairs[0].name}), of which none can be "
            f"held back: add images, or set split to 0."
        )
    count = min(len(pairs) - 1, max(1, round(share * len(pairs))))
    order = np.random.default_rng([seed, len(pairs)]).permutation(len(pairs))
    held = set(order[:count].tolist())
    return (
        [pair for i, pair in enumerate(pairs) if i not in held],
        [pair for i, pair in enumerate(pairs) if i in held],
    )


def _check_partners(
    images: Path, found: Sequence[Picture], path: Path, partners: Mapping[str, Picture]
) -> None:
    names = {picture.name for picture in found}
    alone = [picture.short for picture in found if picture.name not in partners]
    strangers = [p.short for name, p in partners.items() if name not in names]
    if alone or strangers:
        raise InputError(
            f"every image needs labels of the same name (which may end in _masks, _mask, "
            f"_labels or _label), and every label image its image. Without a partner are, "
            f"in {images}: {listed(alone)}; in {path}: {listed(strangers)}."
        )


def _check_headers(pairs: Sequence[Pair]) -> None:
    """Check shapes and types of all files before training starts, from their headers."""
    wrong_shape, no_integers = [], []
    for pair in pairs:
        shape = pair.image.header().shape
        for picture in pair.labels.values():
            header = picture.header()
            if header.shape != (1, *shape[1:]):
                wrong_shape.append(f"{picture.short} {header.shape} for image {shape}")
            elif header.dtype.kind not in "iub":
                no_integers.append(f"{picture.short} ({header.dtype})")
    if wrong_shape:
        raise InputError(
            f"labels must be one plane (1, y, x) over the pixels of their image (c, y, x). "
            f"{len(wrong_shape)} are not: {listed(wrong_shape)}. Export them again."
        )
    if no_integers:
        raise InputError(
            f"labels must be integers, one number per object, 0 for the background. "
            f"{len(no_integers)} are not: {listed(no_integers)}. Export them as integers."
        )
