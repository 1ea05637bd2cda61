"""Cell tables as parquet and CSV, written piece by piece.

A table is a mapping of column names to arrays of equal length. It is passed as one or
more pieces, which are tables with the same columns. Equal tables give equal bytes for any
division into pieces. A file appears complete or not at all.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Columns
from codexseg.errors import InputError
from codexseg.run.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 65536
"""Number of rows that are converted, compressed and written together."""


def write_parquet(
    path: Path, pieces: Iterable[Columns], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a table as parquet, in row groups of 65536 rows.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    pieces : iterable of mappings of name to (n,) array
        Numbers, bools or strings; dtypes and NaN are kept.
    metadata : mapping of str to str, optional
        Metadata of the file, read by `pyarrow.parquet.read_schema(path).metadata`.

    Raises
    ------
    InputError
        If columns differ in length or between pieces, or have another dtype.
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
            writer.write_table(pa.Table.from_pydict(table, schema=schema))


def write_csv(path: Path, pieces: Iterable[Columns]) -> None:
    """Write a table as CSV: a header, then numbers in their shortest exact form.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    pieces : iterable of mappings of name to (n,) array
        Numbers, bools (true, false) or strings (in quotes); NaN becomes an empty field.

    Raises
    ------
    InputError
        If columns differ in length or between pieces, or have another dtype.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    first, rows = begin_pieces(pieces)
    schema = _schema(first)
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(first)
    # pyarrow would quote every name in the header
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
    """Check the pieces of a table, and regroup them to 65536 rows each.

    Returns
    -------
    first : mapping
        The first piece, for names and dtypes of the columns.
    rows : iterator of mappings
        The rows of all pieces; every item but the last has 65536.

    Raises
    ------
    InputError
        If there are no pieces, or a piece is not a table or has other columns than the
        first.
    """
    iterator = iter(pieces)
    first = next(iterator, None)
    if first is None:
        raise InputError("A table needs at least one piece, which may be empty. Got none.")
    _length(first)
    return first, _regrouped(first, chain([first], iterator))


def _regrouped(first: Columns, pieces: Iterable[Columns]) -> Iterator[Columns]:
    waiting: list[Columns] = []
    n_rows = 0
    for piece in pieces:
        if list(piece) != list(first):
            raise InputError(
                f"The pieces of a table must have the same columns. Got {list(piece)} "
                f"after {list(first)}."
            )
        waiting.append(piece)
        n_rows += _length(piece)
        if n_rows >= _ROWS:
            table = _concatenate(waiting)
            full = n_rows - n_rows % _ROWS
            for start in range(0, full, _ROWS):
                yield {name: c[start : start + _ROWS] for name, c in table.items()}
            waiting = [{name: c[full:] for name, c in table.items()}]
            n_rows -= full
    if n_rows:
        yield _concatenate(waiting)


def _concatenate(pieces: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def is_plain(values: NDArray[Any]) -> bool:
    """Whether a column contains numbers or bools; other columns contain strings."""
    return values.dtype.kind in "biuf"


def _length(columns: Columns) -> int:
    """Return the number of rows; raise InputError if the columns are not a table."""
    lengths = {values.shape for values in columns.values()}
    if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
        shapes = {name: values.shape for name, values in columns.items()}
        raise InputError(f"The columns of a table must have equal lengths. Got {shapes}.")
    for name, values in columns.items():
        if values.dtype.kind not in "biufOUT":
            raise InputError(
                f"Column {name!r} has dtype {values.dtype}. Expected numbers, bools or "
                f"strings."
            )
    return max((len(values) for values in columns.values()), default=0)


def _schema(columns: Columns) -> "pa.Schema":
    """Return the pyarrow schema of the columns."""
    import pyarrow as pa

    return pa.schema(
        [
            (name, pa.from_numpy_dtype(values.dtype) if is_plain(values) else pa.string())
            for name, values in columns.items()
        ]
    )
