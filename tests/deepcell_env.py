"""The Python 3.10 with deepcell that live tests run, where there is one."""

import os
from functools import cache
from pathlib import Path

import pytest

from codexseg.backends.deepcell.environment import find_deepcell
from codexseg.errors import BackendUnavailable


@cache
def _found(_configured: str | None) -> Path | str:
    try:
        return find_deepcell()
    except BackendUnavailable as error:
        return str(error)


def deepcell_python() -> Path:
    """Return $CODEXSEG_PYTHON310, or the environment in the cache; skip without."""
    found = _found(os.environ.get("CODEXSEG_PYTHON310"))
    if isinstance(found, str):
        pytest.skip(f"no deepcell to compare with: {found}")
    return found
