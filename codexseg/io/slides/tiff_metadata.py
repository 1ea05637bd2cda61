"""Channel names and pixel sizes in the metadata of TIFF files."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from codexseg.errors import InputError
from codexseg.io.slides.units import square_pixels, to_micrometres

Names = tuple[str | None, ...]

# Pixel sizes of microscopes; a default resolution tag of 72 dpi is 353 um.
_PLAUSIBLE_MPP: Final = (0.05, 20.0)


def ome_metadata(
    xml: str, shape: tuple[int, int], path: Path
) -> tuple[Names | None, float | None]:
    """Read channel names and pixel size from OME-XML.

    Parameters
    ----------
    xml : str
        The OME-XML of the file.
    shape : (int, int)
        Height and width of the image, px.

    Returns
    -------
    names : tuple or None
        One entry per <Channel>, None for a channel without a name. None as a whole if
        samples are interleaved in a channel.
    mpp : float or None
        Micrometres per pixel (PhysicalSizeX and Y; any unit of length).
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise InputError(
            f"{path} has OME-XML that cannot be read ({error}). Export it again."
        ) from error
    for pixels in _elements(root, "Pixels"):
        if (pixels.get("SizeY"), pixels.get("SizeX")) == (str(shape[0]), str(shape[1])):
            break
    else:
        raise InputError(
            f"{path} has an image of height, width = {shape} that is not in its OME-XML. "
            f"Export it again."
        )
    channels = list(_elements(pixels, "Channel"))
    sampled = any(int(channel.get("SamplesPerPixel", 1)) > 1 for channel in channels)
    names = None if sampled or not channels else tuple(c.get("Name") for c in channels)
    y, x = (_physical_size(pixels, axis, path) for axis in "YX")
    return names, square_pixels(y, x, path)


def qpi_names(descriptions: Iterable[str]) -> Names | None:
    """Read channel names from the page descriptions of a qptiff.

    The name is the biomarker of the page (PhenoCycler) or else its channel name.
    """
    names: list[str | None] = []
    for text in descriptions:
        try:
            root = ElementTree.fromstring(text.lstrip("\ufeff").strip("\0 \n\r\t"))
        except ElementTree.ParseError:
            return None
        texts = (root.findtext(tag, "").strip() for tag in ("Biomarker", "Name"))
        names.append(next((text for text in texts if text), None))
    return tuple(names)


def imagej_names(metadata: dict[str, Any], count: int) -> Names | None:
    """Read channel names from ImageJ's slice labels, if there is one per channel."""
    labels = metadata.get("Labels")
    if isinstance(labels, str):
        labels = [labels]
    if not labels or len(labels) != count:
        return None
    return tuple(str(label).strip() or None for label in labels)


def imagej_mpp(metadata: dict[str, Any], page: Any, path: Path) -> float | None:
    """Read the pixel size of an ImageJ file from its unit and resolution tags."""
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ")
    return square_pixels(*_tag_sizes(page, unit), path)


def tag_mpp(page: Any, path: Path) -> float | None:
    """Read the pixel size from the resolution tags; None if implausible for microscopes."""
    unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", 1)), "")
    sizes = _tag_sizes(page, unit)
    low, high = _PLAUSIBLE_MPP
    if any(size is None or not low <= size <= high for size in sizes):
        return None
    return square_pixels(*sizes, path)


def qpi_mpp(page: Any, path: Path) -> float | None:
    """Read the pixel size of a qptiff: the resolution tags, else the scan profile."""
    size = tag_mpp(page, path)
    match = re.search(r"<PixelSizeMicrons>\s*([\d.eE+-]+)\s*<", page.description)
    return to_micrometres(float(match[1]), "um") if size is None and match else size


def _physical_size(pixels: ElementTree.Element, axis: str, path: Path) -> float | None:
    text = pixels.get(f"PhysicalSize{axis}")
    if text is None:
        return None
    try:
        return to_micrometres(float(text), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    except ValueError as error:
        raise InputError(
            f"{path} has PhysicalSize{axis}={text!r}, expected a number. Correct its "
            f"OME-XML."
        ) from error


def _tag_sizes(page: Any, unit: str) -> tuple[float | None, float | None]:
    """Return the micrometres per pixel in y and x by the resolution tags."""

    def size(tag: str) -> float | None:
        pixels, units = page.tags.valueof(tag, (0, 1))
        return to_micrometres(1 / (pixels / units), unit) if pixels and units else None

    return size("YResolution"), size("XResolution")


def _elements(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Iterate over the elements of a name in any version of the OME schema."""
    return (e for e in root.iter() if e.tag.rpartition("}")[2] == name)
