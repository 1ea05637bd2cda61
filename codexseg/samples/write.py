"""Demo slides: synthetic tissue with its true labels, and a lung tumour."""

import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from codexseg.arrays import Pixels
from codexseg.core.grid import PatchGrid
from codexseg.errors import InputError, SampleUnavailable
from codexseg.io.csv_writer import write_csv_rows
from codexseg.io.tiff_writer import TILE_PX, ome_fields, split_tiles, write_tiled_tiff
from codexseg.run.files import cache_dir, replacing, sha256_of, write_atomic
from codexseg.samples.download import RegistryUnavailable, download

_BLOCK_PX = 1024
_DEFLATE_LEVEL = 6

_NSCLC_PROJECT = "napari-prism"
_NSCLC_SDIST = "napari_prism-0.1.7.tar.gz"
_NSCLC_SHA256 = "2dbb6552064bca40db3eb6c2c4bf79b35708985157a15e785da154ce8ac28271"
_NSCLC_TAR = "/datasets/nsclc4301_truncated.zarr.tar"
_NSCLC_LEVEL = "nsclc4301_truncated.zarr/images/NSCLC4301/0/"
_NSCLC_CHUNK = "0/0/0"  # the array is one chunk
_NSCLC_SHAPE = (6, 2638, 5431)
_NSCLC_CHANNELS = ("DAPI", "E-cadherin", "Vimentin", "Pan-Cytokeratin", "CD20", "CD4")
_NSCLC_MPP = 0.5  # assumed: the source has no pixel size
_NSCLC_CACHE = "nsclc-1.ome.tif"  # count up when its content changes


@dataclass(frozen=True)
class SamplePaths:
    """Files of a demo slide; None where it has no truth.

    Attributes
    ----------
    image : Path
        OME-TIFF (c, y, x) with channel names and pixel size.
    config : Path
        YAML for `codexseg run`.
    cells, nuclei : Path or None
        True labels (y, x) uint32, 0 is background; see `tissue.RenderedWindow`.
    truth : Path or None
        CSV with one row per cell: id, y, x (px), kind, n_nuclei, positive_<marker>.
    """

    image: Path
    config: Path
    cells: Path | None = None
    nuclei: Path | None = None
    truth: Path | None = None


def write_synthetic(out_dir: Path, size: int = 2048, seed: int = 0) -> SamplePaths:
    """Write synthetic tissue, its truth and a config; equal arguments give equal bytes.

    Memory is bounded by a block of 1024 px and the table of cells. Temporary files need
    as much disk space as the compressed image.

    Parameters
    ----------
    out_dir : Path
        The folder; it is created if needed. Files of the same names are replaced.
    size : int
        Side of the square slide, px of 0.5 um.
    seed : int
        Seed of the tissue.

    Raises
    ------
    InputError
        If size or seed is out of range.
    """
    # imported here because numba takes a second to import
    from codexseg.samples.tissue import CHANNELS, Tissue

    tissue, stem = Tissue((size, size), seed), f"synthetic_{size}"
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = SamplePaths(  # _cells.tif and _nuclei.tif would be outputs of predict
        image=out_dir / f"{stem}.ome.tif",
        config=out_dir / f"{stem}.yaml",
        cells=out_dir / f"{stem}_truth_cells.tif",
        nuclei=out_dir / f"{stem}_truth_nuclei.tif",
        truth=out_dir / f"{stem}_truth.csv",
    )
    ome = _ome_fields(CHANNELS, tissue.mpp, f"synthetic:{size}:{seed}")
    shape = tissue.size
    with ExitStack() as stack:
        spools = [
            _Spool(stack.enter_context(TemporaryFile(dir=out_dir)))
            for _ in ("cells", "nuclei", *CHANNELS)
        ]
        cells, nuclei, *planes = spools
        grid = PatchGrid(shape, (_BLOCK_PX, _BLOCK_PX), (0, 0))
        for block in tqdm(grid, desc=stem, unit="block", disable=None, leave=False):
            rendered = tissue.render(block.core)
            images = (rendered.cells, rendered.nuclei, *rendered.pixels)
            for spool, pixels in zip(spools, images, strict=True):
                spool.add(pixels, block.core.y0, block.core.x0)
        for path, spool in ((paths.cells, cells), (paths.nuclei, nuclei)):
            if path is not None:
                write_tiled_tiff(path, [shape], spool.tiles(), np.uint32)
        tiles = (tile for spool in planes for tile in spool.tiles())
        levels = [(len(CHANNELS), *shape)]
        write_tiled_tiff(paths.image, levels, tiles, np.uint16, ome=ome)
    _write_truth(out_dir / f"{stem}_truth.csv", tissue.table())
    note = f"Synthetic tissue, seed {seed}; the true labels are in the same folder."
    _write_config(paths, note, "DAPI", ("PANCK", "CD45", "VIM"))
    return paths


def write_nsclc(out_dir: Path) -> SamplePaths:
    """Write the lung tumour (two TMA cores) and a config.

    The image (6 channels, 2638 x 5431 px, uint8, MIT licence) is downloaded once (89 MB)
    from the package index that pip uses, and kept in `cache_dir()` (29 MB).

    Parameters
    ----------
    out_dir : Path
        The folder; it is created if needed. Files of the same names are replaced.

    Raises
    ------
    SampleUnavailable
        If the image is not in the cache and cannot be downloaded, or $CODEXSEG_OFFLINE is
        set.
    InputError
        If the downloaded file has another hash, or the cache cannot be written.
    """
    paths = SamplePaths(out_dir / "nsclc.ome.tif", out_dir / "nsclc.yaml")
    cached = _cached_nsclc()
    with replacing(paths.image) as part:
        shutil.copyfile(cached, part)
    note = "A lung tumour: two cores of a tissue microarray. The mpp, 0.5 um, is assumed."
    wholecell = ("Pan-Cytokeratin", "E-cadherin", "Vimentin", "CD20", "CD4")
    _write_config(paths, note, "DAPI", wholecell)
    return paths


def _cached_nsclc() -> Path:
    """Return the image in the cache; download it if it is missing or damaged."""
    image = cache_dir() / _NSCLC_CACHE
    checksum = image.with_suffix(".sha256")  # written last, marks a complete image
    if (
        image.is_file()
        and checksum.is_file()
        and sha256_of(image) == checksum.read_text(encoding="utf-8").strip()
    ):
        return image
    if os.environ.get("CODEXSEG_OFFLINE"):
        raise SampleUnavailable(
            "The sample nsclc is not in the cache and CODEXSEG_OFFLINE is set. Unset it to "
            "download 89 MB, or use the sample synthetic."
        )
    try:
        image.parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=".nsclc-", dir=image.parent)
    except OSError as error:
        raise InputError(
            f"The cache folder {image.parent} cannot be written ({error.strerror}). Set "
            "CODEXSEG_CACHE to a writable folder."
        ) from error
    with folder as name:
        sdist = Path(name) / _NSCLC_SDIST
        try:
            download(_NSCLC_PROJECT, _NSCLC_SDIST, _NSCLC_SHA256, sdist)
        except RegistryUnavailable as error:
            raise SampleUnavailable(
                f"The sample nsclc is not available. {error}"
            ) from error
        planes = read_nsclc_sdist(sdist)
    ome = _ome_fields(_NSCLC_CHANNELS, _NSCLC_MPP, "nsclc")
    tiles = (tile for plane in planes for tile in _encode_tiles(plane))
    write_tiled_tiff(image, [planes.shape], tiles, planes.dtype, ome=ome)
    write_atomic(checksum, sha256_of(image) + "\n")
    return image


def read_nsclc_sdist(sdist: Path) -> NDArray[np.uint8]:
    """Read the full-resolution image from the source distribution.

    The image is a zarr array in a tar archive in the source distribution. Only its
    metadata and its single chunk are extracted, under fixed names.

    Parameters
    ----------
    sdist : Path
        The source distribution.

    Returns
    -------
    (6, 2638, 5431) uint8

    Raises
    ------
    InputError
        If the archive does not contain the array.
    """
    import zarr

    wanted = {_NSCLC_LEVEL + name: name for name in (".zarray", _NSCLC_CHUNK)}
    with TemporaryDirectory(prefix=".zarr-", dir=sdist.parent) as name:
        folder = Path(name)
        for member, content in _nested_members(sdist, _NSCLC_TAR):
            if (inside := wanted.pop(member, None)) is not None:
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file)
            if not wanted:
                break
        if wanted:
            raise InputError(f"{sdist.name} does not contain {', '.join(wanted)}.")
        array = zarr.open_array(folder, mode="r", zarr_format=2)
        if array.shape != _NSCLC_SHAPE or array.dtype != np.uint8:
            raise InputError(
                f"{sdist.name} contains an image of {array.shape} {array.dtype}, expected "
                f"{_NSCLC_SHAPE} uint8."
            )
        return np.asarray(array[:], dtype=np.uint8)


def _nested_members(archive: Path, suffix: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the files of a tar archive inside a tar archive, without extracting it."""
    with tarfile.open(archive, "r|*") as outer:
        for member in outer:
            if member.isfile() and member.name.endswith(suffix):
                with tarfile.open(fileobj=outer.extractfile(member), mode="r|*") as inner:
                    for entry in inner:
                        content = inner.extractfile(entry) if entry.isfile() else None
                        if content is not None:
                            yield entry.name, content
                return


@dataclass
class _Spool:
    """Encoded tiles of one plane in a temporary file: added in any order, read by row."""

    file: IO[bytes]
    places: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def add(self, block: Pixels, y0: int, x0: int) -> None:
        """Add a block; its corner must be the corner of a tile."""
        columns = -(-block.shape[1] // TILE_PX)
        for number, tile in enumerate(_encode_tiles(block)):
            row, column = divmod(number, columns)
            key = y0 // TILE_PX + row, x0 // TILE_PX + column
            self.places[key] = self.file.tell(), len(tile)
            self.file.write(tile)

    def tiles(self) -> Iterator[bytes]:
        for key in sorted(self.places):
            offset, size = self.places[key]
            self.file.seek(offset)
            yield self.file.read(size)


def _encode_tiles(plane: Pixels) -> Iterator[bytes]:
    """Yield the tiles of a plane row by row, in zlib format."""
    import imagecodecs

    for tile in split_tiles(plane):
        # libdeflate: zlib's format in a fifth of the time
        yield bytes(imagecodecs.deflate_encode(tile.tobytes(), _DEFLATE_LEVEL))


def _ome_fields(channels: Sequence[str], mpp: float, sample: str) -> dict[str, Any]:
    names = {"Name": list(channels)}
    return ome_fields("CYX", mpp, f"sample:{sample}", Channel=names)


def _write_truth(path: Path, rows: NDArray[np.void]) -> None:
    from codexseg.samples.tissue import KINDS

    columns = rows.dtype.names or ()
    cells = (dict(zip(columns, row, strict=True)) for row in rows.tolist())
    formatted = (
        cell
        | {"kind": KINDS[cell["kind"]], "y": round(cell["y"], 2), "x": round(cell["x"], 2)}
        for cell in cells
    )
    write_csv_rows(path, columns, formatted, line_end="\n")


def _write_config(
    paths: SamplePaths, note: str, nucleus: str, wholecell: Sequence[str]
) -> None:
    write_atomic(
        paths.config,
        f"# {note}\n"
        "data:\n"
        f"  file_name: {paths.image.name}\n"
        "channels:\n"
        f"  nuclear_channel: {nucleus}\n"
        f"  wholecell_channel: [{', '.join(wholecell)}]\n"
        "  wholecell_merge: scaled  # each marker by its own brightness\n",
    )
