"""Small CSV tables, written row by row."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codexseg.run.files import replacing


def write_csv_rows(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    line_end: str = "\r\n",
) -> None:
    r"""Write a header and rows; the file appears complete or not at all.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    columns : sequence of str
        Names of the columns.
    rows : iterable of mappings
        Values by column. Missing values become empty fields; other names than those in
        `columns` raise ValueError. Numbers are written with `str`.
    line_end : {"\r\n", "\n"}
        End of each line.
    """
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator=line_end)
        writer.writeheader()
        writer.writerows(rows)
