"""Compilation of numeric kernels."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a numeric function with numba; cache it on disk and release the GIL.

    If neither the package folder nor the user's cache is writable, as in some containers,
    every process compiles again. Set `NUMBA_CACHE_DIR` to a writable folder to avoid it.
    """
    try:
        compiled = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
        compiled = numba.njit(nogil=True)(function)
    return cast("Function", compiled)
