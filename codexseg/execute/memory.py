"""Memory that large arrays leave behind goes back to the operating system."""

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_LARGE_BYTES = 1 << 20


def return_large_arrays() -> None:
    """Have glibc give freed arrays of 1 MB and more back at once; elsewhere do nothing.

    Left alone, glibc raises its threshold to 32 MB when such arrays are freed, keeps
    them on its heap from then on, and a long run grows by a third. For processes of our
    own only: it is a setting of the whole process.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
