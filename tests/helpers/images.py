"""Writers of small slides in every format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

QPI_XML = (
    '<?xml version="1.0" encoding="utf-16"?>\r\n<PerkinElmer-QPI-ImageDescription>'
    "<DescriptionVersion>4</DescriptionVersion><ImageType>{kind}</ImageType>"
    "<Name>{name}</Name>{biomarker}</PerkinElmer-QPI-ImageDescription>"
)


def pixels(
    shape: tuple[int, int, int] = (3, 150, 170), dtype: Any = np.uint16, seed: int = 0
) -> NDArray[Any]:
    """Return (c, y, x) noise over the whole range of the dtype."""
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(100, 30, shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def write_ome_tiff(
    path: Path,
    array: NDArray[Any],
    names: Sequence[str] | None = None,
    mpp: float | tuple[float, float] | None = None,
    *,
    axes: str = "CYX",
    unit: str = "µm",
    levels: int = 0,
    **options: Any,
) -> Path:
    """Write an OME-TIFF: `levels` halved sub-resolutions; `options` go to tifffile."""
    metadata: dict[str, Any] = {"axes": axes}
    if names is not None:
        metadata["Channel"] = {"Name": list(names)}
    if mpp is not None:
        y, x = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        metadata |= {"PhysicalSizeY": y, "PhysicalSizeX": x}
        metadata |= {"PhysicalSizeYUnit": unit, "PhysicalSizeXUnit": unit}
    bigtiff, byteorder = options.pop("bigtiff", False), options.pop("byteorder", None)
    options.setdefault("photometric", "minisblack")
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder, ome=True) as tif:
        tif.write(array, subifds=levels, metadata=metadata, **options)
        for level in range(1, levels + 1):
            step = 2**level
            tif.write(array[..., ::step, ::step], subfiletype=1, **options)
    return path


def write_qptiff(
    path: Path,
    array: NDArray[Any],
    names: Sequence[str],
    mpp: float | None = 0.5,
    *,
    levels: int = 1,
    biomarkers: bool = True,
    tile: tuple[int, int] = (64, 64),
    compression: str | None = "lzw",
    software: str = "PerkinElmer-QPI",
) -> Path:
    """Write the pages of Akoya's scanners: full, thumbnail, coarser levels, label image."""
    resolution = (1e4 / mpp, 1e4 / mpp) if mpp else None
    unit = "CENTIMETER" if mpp else None
    common: dict[str, Any] = {
        "software": software,
        "metadata": None,
        "resolution": resolution,
        "resolutionunit": unit,
    }

    def describe(kind: str, number: int) -> str:
        biomarker = f"<Biomarker>{names[number]}</Biomarker>" if biomarkers else ""
        name = f"Dye {number}" if biomarkers else names[number]
        return QPI_XML.format(kind=kind, name=name, biomarker=biomarker)

    def page(tif: Any, plane: NDArray[Any], kind: str, number: int) -> None:
        tif.write(
            plane,
            photometric="minisblack",
            tile=tile,
            compression=compression,
            description=describe(kind, number),
            subfiletype=0 if kind == "FullResolution" else 1,
            **common,
        )

    with tifffile.TiffWriter(path) as tif:
        for number, plane in enumerate(array):
            page(tif, plane, "FullResolution", number)
        thumbnail = np.zeros((20, 30, 3), np.uint8)
        tif.write(thumbnail, photometric="rgb", description="<Thumbnail/>", **common)
        for level in range(1, levels + 1):
            step = 2**level
            shape = (array.shape[1] // step, array.shape[2] // step)
            for number, plane in enumerate(array):
                coarse = plane[::step, ::step][: shape[0], : shape[1]]
                page(tif, coarse, "ReducedResolution", number)
        tif.write(thumbnail[:10], photometric="rgb", description="<Label/>", **common)
    return path


def write_tiff(path: Path, array: NDArray[Any], **options: Any) -> Path:
    """Write a plain multi-page TIFF with one page per channel and no names."""
    options = {"photometric": "minisblack", "metadata": None} | options
    with tifffile.TiffWriter(path, byteorder=options.pop("byteorder", None)) as tif:
        for plane in array:
            tif.write(plane, **options)
    return path


def write_ome_zarr(
    path: Path,
    array: NDArray[Any],
    names: Sequence[str] | None = None,
    mpp: float | None = None,
    *,
    version: str = "0.4",
    axes: str = "cyx",
    unit: str | None = "micrometer",
    levels: int = 0,
    chunk: int = 64,
) -> Path:
    """Write an OME-Zarr image: NGFF 0.4 in zarr 2, 0.5 in zarr 3."""
    root = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for level in range(levels + 1):
        step = 2**level
        data = array[tuple(slice(None, None, step if a in "yx" else 1) for a in axes)]
        chunks = tuple(
            min(chunk, n) if a in "yx" else 1 for a, n in zip(axes, data.shape, strict=True)
        )
        root.create_array(str(level), shape=data.shape, dtype=data.dtype, chunks=chunks)[
            :
        ] = data
        scale = [step * (mpp or 1.0) if a in "yx" else 1.0 for a in axes]
        transform = {"type": "scale", "scale": scale}
        datasets.append({"path": str(level), "coordinateTransformations": [transform]})
    kinds = {"c": "channel", "t": "time"}
    described = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    for axis in described:
        if axis["type"] == "space" and mpp and unit:
            axis["unit"] = unit
    metadata: dict[str, Any] = {
        "multiscales": [{"version": version, "axes": described, "datasets": datasets}]
    }
    if names is not None:
        metadata["omero"] = {"channels": [{"label": name} for name in names]}
    root.attrs.update(
        {"ome": {"version": version} | metadata} if version == "0.5" else metadata
    )
    return path
