"""How kernels are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a numeric function with numba, cached on disk, without the GIL.

    Where neither the package's folder nor the user's cache can be written, as in some
    containers, it is compiled anew in every process: `NUMBA_CACHE_DIR` names a folder.
    """
    try:
        compiled = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
        compiled = numba.njit(nogil=True)(function)
    return cast("Function", compiled)
