"""Tables of cells on disk: parquet and csv, written piece by piece.

A table is a mapping of column names to arrays of one length, or pieces of one: tables of
the same columns, at least one, of which the whole consists. Equal tables give equal bytes,
however they are cut into pieces, and a file is either absent or complete.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codexseg.errors import InputError
from codexseg.run.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

Columns = Mapping[str, NDArray[Any]]

_ROWS = 65536
"""Rows that are converted, compressed and written at a time."""


def intensity_column(channel: str, compartment: str, statistic: str = "mean") -> str:
    """Name the column of a channel's grey levels in a compartment of the cells."""
    return f"{channel}_{compartment}_{statistic}"


def unique_names(names: Sequence[str]) -> list[str]:
    """Tell channels of one name apart: CD3, CD3 become CD3, CD3-1."""
    taken, unique = set(names), list[str]()
    for name in names:
        new, count = name, 0
        while new in unique or (count and new in taken):
            count += 1
            new = f"{name}-{count}"
        unique.append(new)
    return unique


def write_parquet(
    path: Path, pieces: Iterable[Columns], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a table as parquet, in row groups of 65536 rows.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    pieces : iterable of mappings of name to (n,) array
        Numbers, bools or strings; dtypes are kept, NaN stays NaN.
    metadata : mapping of str to str, optional
        What the file says of itself; `pyarrow.parquet.read_schema(path).metadata`.

    Raises
    ------
    InputError
        If columns differ in length or from piece to piece, or hold anything else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first, rows = begin_pieces(pieces)
    schema = _schema(first).with_metadata(dict(metadata) if metadata else None)
    text = [name for name, values in first.items() if not is_plain(values)]
    with (
        replacing(path) as part,
        pq.ParquetWriter(
            part, schema, compression="zstd", use_dictionary=text or False
        ) as writer,
    ):
        for table in rows:
            arrays = [pa.array(table[field.name], field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def write_csv(path: Path, pieces: Iterable[Columns]) -> None:
    """Write a table as csv: one line of names, numbers as short as they read back.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    pieces : iterable of mappings of name to (n,) array
        Numbers, bools (true, false) or strings (in quotes); NaN is left empty.

    Raises
    ------
    InputError
        If columns differ in length or from piece to piece, or hold anything else.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    first, rows = begin_pieces(pieces)
    schema = _schema(first)
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(first)
    # pyarrow would put every name of the header in quotes
    options = arrow_csv.WriteOptions(include_header=False)
    with replacing(path) as part, part.open("wb") as file:
        file.write(header.getvalue().encode())
        with arrow_csv.CSVWriter(file, schema, write_options=options) as writer:
            for table in rows:
                arrays = [
                    pa.array(table[field.name], field.type, from_pandas=True)
                    for field in schema
                ]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def begin_pieces(pieces: Iterable[Columns]) -> tuple[Columns, Iterator[Columns]]:
    """Check pieces as they come, and bring them to 65536 rows each.

    Returns
    -------
    first : mapping
        The first piece: names and dtypes of the columns.
    rows : iterator of mappings
        The rows of all pieces; every item but the last has 65536.

    Raises
    ------
    InputError
        If there is no piece, or a piece is no table, or not of the first one's columns.
    """
    iterator = iter(pieces)
    first = next(iterator, None)
    if first is None:
        raise InputError("a table must have at least one piece, be it empty; got none.")
    _length(first)
    return first, _regrouped(first, chain([first], iterator))


def _regrouped(first: Columns, pieces: Iterable[Columns]) -> Iterator[Columns]:
    held: list[Columns] = []
    waiting = 0
    for piece in pieces:
        if list(piece) != list(first):
            raise InputError(
                f"the pieces of a table must have the same columns, got {list(piece)} "
                f"after {list(first)}."
            )
        held.append(piece)
        waiting += _length(piece)
        if waiting >= _ROWS:
            whole = _joined(held)
            full = waiting - waiting % _ROWS
            for start in range(0, full, _ROWS):
                yield {name: c[start : start + _ROWS] for name, c in whole.items()}
            held = [{name: c[full:] for name, c in whole.items()}]
            waiting -= full
    if waiting:
        yield _joined(held)


def _joined(pieces: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def is_plain(values: NDArray[Any]) -> bool:
    """Whether a column holds numbers or bools; other columns hold strings."""
    return values.dtype.kind in "biuf"


def _length(columns: Columns) -> int:
    """Return the number of rows, once the columns are known to make a table."""
    lengths = {values.shape for values in columns.values()}
    if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
        shapes = {name: values.shape for name, values in columns.items()}
        raise InputError(f"the columns of a table must be of one length, got {shapes}.")
    for name, values in columns.items():
        if values.dtype.kind not in "biufOUT":
            raise InputError(
                f"column {name!r} has dtype {values.dtype}, expected numbers, bools or "
                f"strings."
            )
    return max((len(values) for values in columns.values()), default=0)


def _schema(columns: Columns) -> "pa.Schema":
    """Describe the columns to pyarrow."""
    import pyarrow as pa

    return pa.schema(
        [
            (name, pa.from_numpy_dtype(values.dtype) if is_plain(values) else pa.string())
            for name, values in columns.items()
        ]
    )
