"""Training history: log.csv, one row per epoch."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from codexseg.io.csv_writer import write_csv_rows

Row = dict[str, float]

VALIDATION = "val_"
"""Prefix of the metrics of the validation images."""


class History:
    """Rows of log.csv, in memory and in the file.

    The whole file is written at each epoch, so an epoch that is repeated after a kill
    replaces its first row.

    Parameters
    ----------
    path : Path
        The file; it is read if it exists.
    epochs : int
        Number of completed epochs; later rows are dropped.
    """

    def __init__(self, path: Path, epochs: int) -> None:
        self._path = path
        self.rows: list[Row] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                read = [
                    {name: float(value) for name, value in row.items() if name and value}
                    for row in csv.DictReader(file)
                ]
            self.rows = [row for row in read if row.get("epoch", epochs) < epochs]

    def add(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Add the row of an epoch, and write the file."""
        self.rows.append({"epoch": epoch, **{n: float(v) for n, v in metrics.items()}})
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        rounded = [{n: round(v, 6) for n, v in row.items()} for row in self.rows]
        rows = ({**row, "epoch": int(row["epoch"])} for row in rounded)
        write_csv_rows(self._path, names, rows)

    def best(self) -> Row | None:
        """Return the row with the lowest validation loss, the first of equal ones."""
        loss = VALIDATION + "loss"
        validated = [row for row in self.rows if not math.isnan(row.get(loss, math.nan))]
        return min(validated, key=lambda row: row[loss], default=None)

    def is_over(self, patience: int | None) -> bool:
        """Whether the validation loss has not decreased for `patience` epochs."""
        best = self.best()
        if patience is None or best is None:
            return False
        return self.rows[-1]["epoch"] - best["epoch"] >= patience
