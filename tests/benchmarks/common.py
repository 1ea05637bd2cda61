"""What the benchmarks share."""

import os
from pathlib import Path


def shared() -> Path:
    """Return the folder of shared data, or end with the reason why there is none."""
    beside = Path(__file__).parents[3] / "shared"
    folder = Path(os.environ.get("CODEXSEG_SHARED", beside))
    if not (folder / "data").is_dir():
        raise SystemExit(
            f"this benchmark needs the shared data, and {folder} has none: "
            f"set CODEXSEG_SHARED to the folder that holds data/."
        )
    return folder
