"""What a training has written of itself: one row of log.csv for each epoch."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from codexseg.run.files import replacing

Row = dict[str, float]

HELD = "val_"
"""What the names of figures of held-back images begin with."""


class History:
    """The rows of log.csv, in memory and in the file.

    The file is written whole at each epoch: an epoch that is done again after a kill
    takes the place of its first row.

    Parameters
    ----------
    path : Path
        The file; where it exists, it is read.
    epochs : int
        So many epochs are done; rows beyond are dropped.
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

    def add(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Add the row of an epoch, and write the file."""
        self.rows.append({"epoch": epoch, **{n: float(v) for n, v in figures.items()}})
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with replacing(self._path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            for row in self.rows:
                shown = {n: repr(round(v, 6)) for n, v in row.items()}
                writer.writerow({**shown, "epoch": int(row["epoch"])})

    def best(self) -> Row | None:
        """Return the row of the lowest loss of held-back images; of equals the first."""
        judged = [
            row for row in self.rows if not math.isnan(row.get(HELD + "loss", math.nan))
        ]
        return min(judged, key=lambda row: row[HELD + "loss"], default=None)

    def is_over(self, patience: int | None) -> bool:
        """Whether that loss has not fallen for `patience` epochs."""
        best = self.best()
        if patience is None or best is None:
            return False
        return self.rows[-1]["epoch"] - best["epoch"] >= patience
