"""How processes of ours get memory for large arrays, and give it back."""

import ctypes
import os
import sys

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_LARGE_BYTES = 1 << 20
_HUGE_PAGES = "glibc.malloc.hugetlb=1"  # as far as the system grants them, glibc >= 2.35


def ask_for_huge_pages() -> None:
    """Have processes that are started from now on take large arrays in huge pages.

    Fresh memory comes page by page, at 1 ms and more for each MB of small ones, which is
    a third of the time of stages that only move labels. A setting of the user's stays.
    """
    os.environ.setdefault("GLIBC_TUNABLES", _HUGE_PAGES)


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
