"""The table of cells as AnnData, for scanpy, squidpy and their like, written in pieces.

The layout is that of AnnData's on-disk format (anndata 0.8 and later): `array`, `dict`,
`dataframe`, `string`, `string-array`, each with its version in the attributes. It is
written with h5py, because anndata's own writer takes the whole table at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codexseg.errors import InputError
from codexseg.exports.tables import (
    Columns,
    begin_pieces,
    intensity_column,
    is_plain,
    unique_names,
)
from codexseg.run.files import replacing

if TYPE_CHECKING:
    import h5py

_LAYERS = {"X": "cell", "layers/nucleus": "nucleus", "layers/cytoplasm": "cytoplasm"}


def write_h5ad(
    path: Path,
    pieces: Iterable[Columns],
    rows: int,
    channel_names: Sequence[str],
    mpp: float,
    uns: Mapping[str, Any] | None = None,
    *,
    position: tuple[str, str] = ("y", "x"),
) -> None:
    """Write a table of cells as AnnData.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    pieces : iterable of mappings of name to (n,) array
        The cells: `cell_id`, the two columns of `position`, and for each channel the
        means :func:`intensity_column` names, in cell, nucleus and cytoplasm.
    rows : int
        Number of cells in all pieces.
    channel_names : sequence of str
        The channels in order. Where a name stands twice, its columns go by the names
        that :func:`unique_names` gives.
    mpp : float
        Micrometres per pixel.
    uns : mapping, optional
        A few words on the whole: strings, numbers, or mappings of these.
    position : (str, str)
        The columns that hold the centroid's row and column, px.

    Raises
    ------
    InputError
        If a column is missing, the columns are not of one length, or the pieces do not
        hold `rows` cells.

    Notes
    -----
    `X` holds the means of the whole cells, (cell, channel) float32, the layers `nucleus`
    and `cytoplasm` the others, `obsm["spatial"]` (x, y) in micrometres, `obs` all other
    columns under the cell ids as strings (a slash in their names, which AnnData does not
    take, becomes a dash).
    """
    import h5py

    channels = unique_names(channel_names)
    first, tables = begin_pieces(pieces)
    names = {
        place: [intensity_column(channel, part) for channel in channels]
        for place, part in _LAYERS.items()
    }
    means = {name for listed in names.values() for name in listed}
    _require(first, ["cell_id", *position, *sorted(means)])
    rest = [name for name in first if name not in means]
    obs = dict(zip(rest, unique_names([n.replace("/", "-") for n in rest]), strict=True))
    with replacing(path) as part, h5py.File(part, "w") as file:
        _write_frame(file, channels, uns or {})
        _create_arrays(file, first, rows, len(channels), obs)
        at = 0
        for table in tables:
            stop = at + len(table["cell_id"])
            if stop > rows:
                raise _wrong_count(stop, rows)
            place = slice(at, stop)
            for name, written in obs.items():
                file["obs"][written][place] = table[name]
            file["obs/_index"][place] = table["cell_id"].astype(str).astype(object)
            y, x = (table[name] * mpp for name in position)
            file["obsm/spatial"][place] = np.stack([x, y], axis=1)
            for layer, columns in names.items():
                file[layer][place] = _matrix(table, columns)
            at = stop
        if at < rows:
            raise _wrong_count(at, rows)


def _require(columns: Columns, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in columns]:
        raise InputError(
            f"the table of cells lacks {', '.join(map(repr, missing))}, expected cell_id, "
            f"its position and each channel's mean in cell, nucleus and cytoplasm: "
            f"profile.statistics must hold mean."
        )


def _wrong_count(found: int, rows: int) -> InputError:
    return InputError(
        f"the pieces of the table hold {found} cells or more, expected {rows}."
    )


def _matrix(columns: Columns, names: Sequence[str]) -> NDArray[np.float32]:
    matrix = np.empty((len(columns["cell_id"]), len(names)), np.float32)
    for i, name in enumerate(names):
        matrix[:, i] = columns[name]
    return matrix


# -- AnnData's format ----------------------------------------------------------------------


def _write_frame(
    file: "h5py.File", channels: Sequence[str], uns: Mapping[str, Any]
) -> None:
    """Write all that does not grow with the cells."""
    _mark(file, "anndata", "0.1.0")
    for name in ("layers", "obsm", "obsp", "varm", "varp"):
        _mark(file.create_group(name), "dict", "0.1.0")
    _mark_frame(file.create_group("var"), [])
    _mark(_strings(file["var"], "_index", len(channels)), "string-array", "0.2.0")
    file["var/_index"][:] = np.array(channels, object)
    _write_words(file.create_group("uns"), uns)


def _create_arrays(
    file: "h5py.File", first: Columns, rows: int, n_channels: int, obs: Mapping[str, str]
) -> None:
    """Lay out all that grows with the cells, to be filled."""
    frame = file.create_group("obs")
    _mark_frame(frame, list(obs.values()))
    _mark(_strings(frame, "_index", rows), "string-array", "0.2.0")
    for name, written in obs.items():
        if is_plain(first[name]):
            column = frame.create_dataset(written, (rows,), first[name].dtype)
            _mark(column, "array", "0.2.0")
        else:
            _mark(_strings(frame, written, rows), "string-array", "0.2.0")
    for place in _LAYERS:
        layer = file.create_dataset(place, (rows, n_channels), np.float32)
        _mark(layer, "array", "0.2.0")
    spatial = file["obsm"].create_dataset("spatial", (rows, 2), np.float64)
    _mark(spatial, "array", "0.2.0")


def _mark(node: "h5py.HLObject", encoding: str, version: str) -> None:
    node.attrs["encoding-type"], node.attrs["encoding-version"] = encoding, version


def _mark_frame(group: "h5py.Group", columns: Sequence[str]) -> None:
    import h5py

    _mark(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    order = np.array(columns, object)
    group.attrs.create("column-order", order, dtype=h5py.string_dtype())


def _strings(group: "h5py.Group", name: str, length: int) -> "h5py.Dataset":
    import h5py

    return group.create_dataset(name, (length,), h5py.string_dtype())


def _write_words(group: "h5py.Group", words: Mapping[str, Any]) -> None:
    _mark(group, "dict", "0.1.0")
    for name, value in words.items():
        if isinstance(value, Mapping):
            _write_words(group.create_group(name), value)
        elif isinstance(value, str):
            _mark(group.create_dataset(name, data=value), "string", "0.2.0")
        else:
            _mark(group.create_dataset(name, data=value), "numeric-scalar", "0.2.0")
