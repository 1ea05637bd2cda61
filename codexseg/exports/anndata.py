"""Cell tables as AnnData for scanpy and squidpy, written piece by piece.

The layout is AnnData's on-disk format (anndata 0.8 and later): `array`, `dict`,
`dataframe`, `string`, `string-array`, each with its version in the attributes. The file is
written with h5py because anndata's own writer needs the whole table in memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from codexseg.arrays import Columns
from codexseg.artifacts.columns import intensity_column, unique_names
from codexseg.errors import InputError
from codexseg.exports.tables import begin_pieces, is_plain
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
    """Write a cell table as AnnData.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    pieces : iterable of mappings of name to (n,) array
        Columns `cell_id`, the two of `position`, and for each channel the mean
        intensities in cell, nucleus and cytoplasm, see :func:`intensity_column`.
    rows : int
        Number of cells in all pieces.
    channel_names : sequence of str
        The channels in order. The columns of duplicate names have the suffixes of
        :func:`unique_names`.
    mpp : float
        Micrometres per pixel.
    uns : mapping, optional
        Metadata of the table: strings, numbers, or mappings of these.
    position : (str, str)
        Columns with the row and column of the centroid, px.

    Raises
    ------
    InputError
        If a column is missing, columns differ in length, or the pieces have more or fewer
        than `rows` cells.

    Notes
    -----
    `X` contains the means in whole cells, (cell, channel) float32; the layers `nucleus`
    and `cytoplasm` contain those in the compartments. `obsm["spatial"]` is (x, y) in
    micrometres. `obs` contains all other columns, indexed by the cell ids as strings. A
    slash in a column name, which AnnData does not support, becomes a dash.
    """
    import h5py

    channels = unique_names(channel_names)
    first, tables = begin_pieces(pieces)
    names = {
        layer: [intensity_column(channel, compartment) for channel in channels]
        for layer, compartment in _LAYERS.items()
    }
    means = {name for columns in names.values() for name in columns}
    _require(first, ["cell_id", *position, *sorted(means)])
    rest = [name for name in first if name not in means]
    obs = dict(zip(rest, unique_names([n.replace("/", "-") for n in rest]), strict=True))
    with replacing(path) as part, h5py.File(part, "w") as file:
        _write_frame(file, channels, uns or {})
        _create_arrays(file, first, rows, len(channels), obs)
        start = stop = 0
        for table in tables:
            start, stop = stop, stop + len(table["cell_id"])
            if stop > rows:
                break
            block = slice(start, stop)
            for name, obs_name in obs.items():
                file["obs"][obs_name][block] = table[name]
            file["obs/_index"][block] = table["cell_id"].astype(str).astype(object)
            y, x = (table[name] * mpp for name in position)
            file["obsm/spatial"][block] = np.stack([x, y], axis=1)
            for layer, columns in names.items():
                matrix = np.array([table[name] for name in columns], np.float32)
                file[layer][block] = matrix.reshape(len(columns), stop - start).T
        if stop != rows:
            more = " or more" if stop > rows else ""
            raise InputError(
                f"The pieces of the table have {stop} cells{more}, expected {rows}."
            )


def _require(columns: Columns, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in columns]:
        raise InputError(
            f"The cell table lacks {', '.join(map(repr, missing))}. AnnData needs cell_id, "
            f"the position, and the mean of each channel in cell, nucleus and cytoplasm. "
            f"Add mean to profile.statistics."
        )


# -- AnnData's format ----------------------------------------------------------------------


def _write_frame(
    file: "h5py.File", channels: Sequence[str], uns: Mapping[str, Any]
) -> None:
    """Write the parts with a size independent of the number of cells."""
    _mark(file, "anndata", "0.1.0")
    for name in ("layers", "obsm", "obsp", "varm", "varp"):
        _mark(file.create_group(name), "dict", "0.1.0")
    _create_frame(file, "var", [], len(channels))
    file["var/_index"][:] = np.array(channels, object)
    _write_dict(file.create_group("uns"), uns)


def _create_arrays(
    file: "h5py.File", first: Columns, rows: int, n_channels: int, obs: Mapping[str, str]
) -> None:
    """Create the arrays with one row per cell."""
    _create_frame(file, "obs", list(obs.values()), rows)
    for name, obs_name in obs.items():
        dtype = first[name].dtype if is_plain(first[name]) else None
        _create(file["obs"], obs_name, (rows,), dtype)
    for layer in _LAYERS:
        _create(file, layer, (rows, n_channels), np.float32)
    _create(file, "obsm/spatial", (rows, 2), np.float64)


def _mark(node: "h5py.HLObject", encoding: str, version: str) -> None:
    node.attrs["encoding-type"], node.attrs["encoding-version"] = encoding, version


def _create_frame(file: "h5py.File", name: str, columns: Sequence[str], rows: int) -> None:
    """Create a data frame with its index, but without the columns."""
    import h5py

    group = file.create_group(name)
    _mark(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    order = np.array(columns, object)
    group.attrs.create("column-order", order, dtype=h5py.string_dtype())
    _create(group, "_index", (rows,))


def _create(
    group: "h5py.Group", name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None
) -> None:
    """Create an array; without a dtype it is one of strings."""
    import h5py

    is_text = dtype is None
    array = group.create_dataset(name, shape, h5py.string_dtype() if is_text else dtype)
    _mark(array, "string-array" if is_text else "array", "0.2.0")


def _write_dict(group: "h5py.Group", values: Mapping[str, Any]) -> None:
    _mark(group, "dict", "0.1.0")
    for name, value in values.items():
        if isinstance(value, Mapping):
            _write_dict(group.create_group(name), value)
        elif isinstance(value, str):
            _mark(group.create_dataset(name, data=value), "string", "0.2.0")
        else:
            _mark(group.create_dataset(name, data=value), "numeric-scalar", "0.2.0")
