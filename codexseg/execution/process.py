"""Settings of a whole process: threads, memory allocator, zarr, signals.

They are applied to processes that belong to codexseg (its commands and workers), never to
a process that merely imports it.
"""

import ctypes
import os
import signal
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_MMAP_BYTES = 8 << 20
_TRIM_BYTES = 32 << 20
_HUGE_PAGES = "glibc.malloc.hugetlb=1"  # glibc >= 2.35, if the kernel allows them


def prepare_process() -> None:
    """Set the memory allocator and zarr for arrays of one patch or chunk.

    By default, glibc raises its mmap threshold to 32 MB once such arrays are freed, keeps
    them on its heap, and a long run grows by a third. zarr decodes ten chunks at a time on
    ten threads; a worker keeps one core busy.
    """
    import zarr

    zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def prepare_worker(threads: int) -> None:
    """Prepare a worker process: leave Ctrl-C to its parent, limit its threads.

    Numerical libraries read OMP_NUM_THREADS when they are imported. A value that the user
    has set is kept.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    prepare_process()


def request_huge_pages() -> None:
    """Let processes started from now on use huge pages for large arrays.

    Fresh memory costs more than the computation on it if the system maps it in pages of
    4 kB. A value that the user has set is kept.
    """
    os.environ.setdefault("GLIBC_TUNABLES", _HUGE_PAGES)


def usable_cores() -> int:
    """Return the number of cores that this process may use, often fewer on a cluster."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
