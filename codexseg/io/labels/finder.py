"""Find label images, and pair reference with prediction."""

import re
from collections.abc import Sequence
from pathlib import Path

from codexseg.errors import InputError
from codexseg.io.labels.reader import SUFFIXES, LabelFile, stack_length

_ZARR_FILES = (".zgroup", ".zarray", "zarr.json")
_STORE = "segmentation.ome.zarr"
_MAX_NAMED = 5


def find_labels(path: Path, compartment: str = "cell") -> list[LabelFile]:
    """List the label images at a path.

    Parameters
    ----------
    path : Path
        A file (TIFF, PNG, npy), ``file.npz:key``, the Zarr folder of a label image, a run
        directory, or a folder of files. npy and npz files may contain a stack (n, y, x).
    compartment : str
        Label image of a run: cell, nucleus, cell_original or nucleus_original.

    Returns
    -------
    list of LabelFile
        Sorted by name; one item unless the path is a folder or a stack.

    Raises
    ------
    InputError
        If there is no label image, the run is not finished, or two files have the same
        name.
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
    """Pair the label images of two paths by name.

    Raises
    ------
    InputError
        If there are no images, or some have no partner; the message lists them.
    """
    truths, preds = find_labels(truth, compartment), find_labels(pred, compartment)
    if not _is_set(truth, truths) and not _is_set(pred, preds):
        return [(truths[0], preds[0])]
    by_name = {file.name: file for file in preds}
    names = {file.name for file in truths}
    unpaired_truths = [f for f in truths if f.name not in by_name]
    unpaired_preds = [f for f in preds if f.name not in names]
    if unpaired_truths or unpaired_preds:
        raise InputError(
            f"Some images have no partner of the same name (without _masks, _labels, "
            f"_mask, _label). In {truth}: {_format_names(unpaired_truths)}; in {pred}: "
            f"{_format_names(unpaired_preds)}. Rename or remove them."
        )
    return [(file, by_name[file.name]) for file in truths]


def _images_of(file: LabelFile) -> list[LabelFile]:
    """Return the file itself, or one item per image of its stack."""
    length = stack_length(file)
    if length is None:
        return [file]
    width = len(str(length - 1))
    numbers = ((f"{index:0{width}}", index) for index in range(length))
    return [LabelFile(name, file.path, file.key, index) for name, index in numbers]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path} does not exist. Pass a label image, a folder, or a run.")
    return path


def _stem(path: Path) -> str:
    """Return a file name without suffix, .ome, and a final _masks or _labels."""
    name = re.sub(r"\.(tiff?|png|npy|npz|zarr)$", "", path.name, flags=re.IGNORECASE)
    name = re.sub(r"\.ome$", "", name, flags=re.IGNORECASE)
    return re.sub(r"(?<=.)_(masks?|labels?)$", "", name, flags=re.IGNORECASE)


def _is_set(path: Path, files: Sequence[LabelFile]) -> bool:
    """Whether a path is a folder or a stack, even with a single image."""
    return len(files) > 1 or files[0].path.parent == path


def _format_names(files: Sequence[LabelFile]) -> str:
    names = [f"[{f.name}]" if f.index is not None else f.path.name for f in files]
    more = len(names) - _MAX_NAMED
    text = ", ".join(names[:_MAX_NAMED]) or "none"
    return f"{text} and {more} more" if more > 0 else text


def _labels_of_run(path: Path, store: Path, compartment: str) -> Path:
    """Return the folder of a label image in a run or in its OME-Zarr."""
    if path is not store and not (path / "stages" / "stitch.json").exists():
        raise InputError(
            f"The labels of the run {path} are not finished. Run the same command again "
            f"to resume it (`codexseg status {path}` shows its progress)."
        )
    labels = store / "labels" / compartment
    if not labels.is_dir():
        existing = sorted(p.name for p in (store / "labels").glob("*") if p.is_dir())
        raise InputError(
            f"{store} has no labels {compartment!r}. Choose one of "
            f"{', '.join(existing) or 'none'} with --compartment."
        )
    return labels


def _files_of(folder: Path) -> list[LabelFile]:
    files: dict[str, LabelFile] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        name = _stem(path)
        if name in files:
            raise InputError(
                f"{files[name].path.name} and {path.name} in {folder} are both named "
                f"{name!r}. Keep images and labels in different folders."
            )
        files[name] = LabelFile(name, path)
    if not files:
        raise InputError(
            f"{folder} contains no label image. Expected files {', '.join(SUFFIXES)}, the "
            f"Zarr folder of a label image, or a run directory."
        )
    return list(files.values())
