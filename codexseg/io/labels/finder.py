"""Which label images there are, and which belong together.

`find_labels` lists what a path holds, `pair_files` what two paths hold together.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from codexseg.errors import InputError
from codexseg.io.labels.reader import SUFFIXES, LabelFile, stack_length

_ZARR_FILES = (".zgroup", ".zarray", "zarr.json")
_STORE = "segmentation.ome.zarr"
_NAMED_AT_MOST = 5


def find_labels(path: Path, compartment: str = "cell") -> list[LabelFile]:
    """List the label images of a path.

    Parameters
    ----------
    path : Path
        A file (TIFF, PNG, npy), ``file.npz:key``, the Zarr folder of a label image, a run
        directory, or a folder of files. npy and npz may hold a stack (n, y, x).
    compartment : str
        Which labels of a run: cell, nucleus, cell_original or nucleus_original.

    Returns
    -------
    list of LabelFile
        In the order of the names; one unless the path is a folder or a stack.

    Raises
    ------
    InputError
        If there is nothing, the run is not finished, or two files have one name.
    """
    file, colon, key = str(path).rpartition(".npz:")
    if colon:
        return _images_of(LabelFile(key, _existing(Path(f"{file}.npz")), key))
    path = _existing(path)
    if path.is_file():
        return _images_of(LabelFile(_stem(path), path))
    is_zarr = any((path / name).exists() for name in _ZARR_FILES)
    store = path if is_zarr and (path / "labels").is_dir() else path / _STORE
    if store.is_dir():
        return [LabelFile(path.name, _labels_of_run(path, store, compartment))]
    return [LabelFile(_stem(path), path)] if is_zarr else _files_of(path)


def pair_files(
    truth: Path, pred: Path, compartment: str = "cell"
) -> list[tuple[LabelFile, LabelFile]]:
    """Find the images of two paths, and which belongs to which.

    Raises
    ------
    InputError
        If there are none, or some have no partner: they are named.
    """
    truths, preds = find_labels(truth, compartment), find_labels(pred, compartment)
    if not _is_set(truth, truths) and not _is_set(pred, preds):
        return [(truths[0], preds[0])]
    by_name = {file.name: file for file in preds}
    alone = [f for f in truths if f.name not in by_name]
    names = {file.name for file in truths}
    strangers = [f for f in preds if f.name not in names]
    if alone or strangers:
        raise InputError(
            f"every image needs a partner of the same name (without _masks, _labels, "
            f"_mask, _label). Without one are, in {truth}: {_listed(alone)}; in {pred}: "
            f"{_listed(strangers)}."
        )
    return [(file, by_name[file.name]) for file in truths]


def _images_of(file: LabelFile) -> list[LabelFile]:
    """Return a file, or each image of the stack that it holds."""
    length = stack_length(file)
    if length is None:
        return [file]
    width = len(str(length - 1))
    numbers = ((f"{index:0{width}}", index) for index in range(length))
    return [LabelFile(name, file.path, file.key, index) for name, index in numbers]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError(
            f"{path} does not exist: give a label image, a folder of them, or a run."
        )
    return path


def _stem(path: Path) -> str:
    """Return a name without its suffix, a trailing .ome, and what says "labels"."""
    name = re.sub(r"\.(tiff?|png|npy|npz|zarr)$", "", path.name, flags=re.IGNORECASE)
    name = re.sub(r"\.ome$", "", name, flags=re.IGNORECASE)
    return re.sub(r"(?<=.)_(masks?|labels?)$", "", name, flags=re.IGNORECASE)


def _is_set(path: Path, files: Sequence[LabelFile]) -> bool:
    """Say whether a path stands for several images, even if it holds but one."""
    return len(files) > 1 or files[0].path.parent == path


def _listed(files: Sequence[LabelFile]) -> str:
    names = [f"[{f.name}]" if f.index is not None else f.path.name for f in files]
    more = len(names) - _NAMED_AT_MOST
    listed = ", ".join(names[:_NAMED_AT_MOST]) or "none"
    return f"{listed} and {more} more" if more > 0 else listed


def _labels_of_run(path: Path, store: Path, compartment: str) -> Path:
    """Find a label image of a run, or of the OME-Zarr that a run wrote."""
    if path is not store and not (path / "stages" / "stitch.json").exists():
        raise InputError(
            f"{path} is a run whose labels are not finished: run the same command as "
            f"before, it goes on (codexseg status {path} says where it stands)."
        )
    labels = store / "labels" / compartment
    if not labels.is_dir():
        there = sorted(p.name for p in (store / "labels").glob("*") if p.is_dir())
        raise InputError(
            f"{store} has no labels {compartment!r}: choose one of "
            f"{', '.join(there) or 'none'} with --compartment."
        )
    return labels


def _files_of(folder: Path) -> list[LabelFile]:
    found: dict[str, LabelFile] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        name = _stem(path)
        if name in found:
            raise InputError(
                f"{found[name].path.name} and {path.name} in {folder} are both {name!r}, "
                f"expected one label image each: keep images and labels apart."
            )
        found[name] = LabelFile(name, path)
    if not found:
        raise InputError(
            f"{folder} holds no label image: expected files {', '.join(SUFFIXES)}, the "
            f"Zarr folder of a label image, or a run directory."
        )
    return list(found.values())
