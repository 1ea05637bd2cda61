"""From a slide to a table of cells: python quickstart.py [FOLDER]."""

import sys
import tempfile
from pathlib import Path

import pandas as pd

from codexseg import Pipeline
from codexseg.samples.write import write_synthetic


def main(folder: Path) -> None:
    """Make a small slide, run everything on it, look at the cells."""
    # 256 um of made-up tissue, and the YAML file that says what to do with it. For a slide
    # of your own start from `codexseg config init > my.yaml`.
    sample = write_synthetic(folder, size=512)

    # Running is resuming: kill it anywhere, and the same line goes on from there.
    result = Pipeline.from_yaml(sample.config, out=folder / "run").execute()
    print(f"{result.cells} cells in {result.path}")

    cells = pd.read_parquet(result.path / "cells.parquet")  # one row per cell
    print(cells[["cell_id", "x_um", "y_um", "cell_area_um2", "CD3_cell_mean"]].head())
    print(f"{len(pd.read_csv(sample.truth))} cells were drawn.")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
