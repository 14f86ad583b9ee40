"""The process' memory over long runs."""

from __future__ import annotations

import ctypes
import sys


def give_back_freed() -> None:
    """Give memory that nothing uses any more back to the system, where the C library can: glibc.

    Images of many sizes leave holes of as many sizes on the heap, which the process would keep.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
