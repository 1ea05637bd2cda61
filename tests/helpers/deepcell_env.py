"""The Python 3.10 environment with deepcell that live tests use."""

import os
from functools import cache
from pathlib import Path

import pytest

from codexseg.backends.deepcell.environment import find_deepcell
from codexseg.errors import BackendUnavailable


@cache
def _find_python(_configured: str | None) -> Path | str:
    """Return the interpreter, or the reason why there is none."""
    try:
        return find_deepcell()
    except BackendUnavailable as error:
        return str(error)


def deepcell_python() -> Path:
    """Return the interpreter of $CODEXSEG_PYTHON310 or of the cache; skip without one."""
    python = _find_python(os.environ.get("CODEXSEG_PYTHON310"))
    if isinstance(python, str):
        pytest.skip(f"no deepcell to compare with: {python}")
    return python
