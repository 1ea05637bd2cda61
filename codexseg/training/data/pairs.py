"""Pairs of images and labels, matched by name and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codexseg.arrays import Labels, Pixels
from codexseg.errors import InputError
from codexseg.training.data.image_files import ImageFile, abbreviate, list_images

COMPARTMENTS = ("cells", "nuclei")
_IMAGE_KEYS = ("images", "image", "X")
_LABEL_KEYS = {name: (name, "labels", "masks", "y") for name in COMPARTMENTS}


@dataclass(frozen=True)
class Pair:
    """An image and its labels, read on demand.

    Attributes
    ----------
    image : ImageFile
    labels : dict of ImageFile
        By compartment: cells, nuclei, or both.
    """

    image: ImageFile
    labels: Mapping[str, ImageFile]

    @property
    def name(self) -> str:
        """The common name of image and labels."""
        return self.image.name

    def read(self) -> tuple[Pixels, dict[str, Labels]]:
        """Read the image, (c, y, x), and the labels, (y, x) uint32 each.

        Raises
        ------
        InputError
            If a file is unreadable, or has the wrong content.
        """
        labels = {name: file.labels() for name, file in self.labels.items()}
        return self.image.pixels(), labels


def find_pairs(images: Path, labels: Mapping[str, Path]) -> list[Pair]:
    """Match images and labels by name, and check that they fit.

    Parameters
    ----------
    images : Path
        See :func:`codexseg.training.data.image_files.list_images`.
    labels : mapping of str to Path
        The same for cells, nuclei or both. Names are compared without suffixes, and those
        of labels without _masks, _mask, _labels or _label at the end.

    Returns
    -------
    list of Pair
        Sorted by name.

    Raises
    ------
    InputError
        If there are no images or labels, files have no partner, an image and its labels
        differ in shape, or labels are not integers. The message lists the files.
    """
    if not labels:
        raise InputError(
            f"There are no labels for the images in {images}, expected cells, nuclei or "
            f"both. Name them in the recipe."
        )
    files = list_images(images, _IMAGE_KEYS, labels=False)
    partners: dict[str, dict[str, ImageFile]] = {}
    for name, path in labels.items():
        listed = list_images(path, _LABEL_KEYS[name], labels=True)
        partners[name] = {file.name: file for file in listed}
        _check_partners(images, files, path, partners[name])
    pairs = [
        Pair(image, {name: partners[name][image.name] for name in labels})
        for image in files
    ]
    _check_headers(pairs)
    return pairs


def require_channels(pairs: Sequence[Pair], highest: int, keys: str) -> None:
    """Check that all images have the channels that a recipe names.

    Parameters
    ----------
    pairs : sequence of Pair
        Images and labels.
    highest : int
        The highest of the channels.
    keys : str
        The keys of the recipe, for the message.

    Raises
    ------
    InputError
        If an image has fewer channels.
    """
    for pair in pairs:
        count = pair.image.header().shape[0]
        if count <= highest:
            raise InputError(
                f"{pair.image} has {count} channels, but the recipe names channel "
                f"{highest} (the first is 0). Correct {keys}."
            )


def split_pairs(
    pairs: Sequence[Pair], share: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Split pairs randomly into training and validation pairs, at least one each.

    A share of 0 gives no validation pairs.

    Raises
    ------
    InputError
        If there is only one pair.
    """
    if share == 0:
        return list(pairs), []
    if len(pairs) < 2:
        raise InputError(
            f"There is only 1 pair of image and labels ({pairs[0].name}), expected at "
            f"least 2 for a split. Add images, or set split to 0."
        )
    count = min(len(pairs) - 1, max(1, round(share * len(pairs))))
    order = np.random.default_rng([seed, len(pairs)]).permutation(len(pairs))
    validation = set(order[:count].tolist())
    return (
        [pair for i, pair in enumerate(pairs) if i not in validation],
        [pair for i, pair in enumerate(pairs) if i in validation],
    )


def _check_partners(
    images: Path, files: Sequence[ImageFile], path: Path, partners: Mapping[str, ImageFile]
) -> None:
    names = {file.name for file in files}
    alone = [file.short for file in files if file.name not in partners]
    unknown = [f.short for name, f in partners.items() if name not in names]
    if alone or unknown:
        raise InputError(
            f"Files without a partner in {images}: {abbreviate(alone)}; in {path}: "
            f"{abbreviate(unknown)}. Give each image labels of the same name, which may "
            f"end in _masks, _mask, _labels or _label."
        )


def _check_headers(pairs: Sequence[Pair]) -> None:
    """Check shapes and dtypes of all files before training, from their headers."""
    wrong_shape, wrong_dtype = [], []
    for pair in pairs:
        shape = pair.image.header().shape
        for file in pair.labels.values():
            header = file.header()
            if header.shape != (1, *shape[1:]):
                wrong_shape.append(f"{file.short} {header.shape} for image {shape}")
            elif header.dtype.kind not in "iub":
                wrong_dtype.append(f"{file.short} ({header.dtype})")
    if wrong_shape:
        raise InputError(
            f"Labels must be one plane (1, y, x) of the size of their image (c, y, x). "
            f"{len(wrong_shape)} are not: {abbreviate(wrong_shape)}. Export them again."
        )
    if wrong_dtype:
        raise InputError(
            f"Labels must be integers, one number per object, 0 for the background. "
            f"{len(wrong_dtype)} are not: {abbreviate(wrong_dtype)}. Export them as "
            f"integers."
        )
