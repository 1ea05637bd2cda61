"""How processes of ours get memory for large arrays, and give it back.

Fresh memory comes from the system page by page and costs more than what is computed in
it; memory that is kept adds up over many workers. Between the two lies what is set here.
For processes of our own only: these are settings of a whole process.
"""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES = 8 << 20
_KEPT_IN_ALL_BYTES = 32 << 20
_HUGE_PAGES = "glibc.malloc.hugetlb=1"  # where the system grants them, glibc >= 2.35


def prepare_process() -> None:
    """Keep what chunks need, return what patches need, and decode a chunk at a time.

    Left alone, glibc raises its threshold to 32 MB when such arrays are freed, keeps them
    on its heap from then on, and a long run grows by a third. zarr would hold ten decoded
    chunks at once, on ten threads; a worker is meant to keep one core busy.
    """
    import zarr

    zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_IN_ALL_BYTES)


def ask_for_huge_pages() -> None:
    """Have processes that are started from now on take large arrays in huge pages.

    A setting of the user's stays.
    """
    os.environ.setdefault("GLIBC_TUNABLES", _HUGE_PAGES)
