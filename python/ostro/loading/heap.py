"""Memory that was freed, but that the C library keeps for later."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Give freed memory back to the system, where the C library can (glibc); elsewhere without effect.

    Reading a vocabulary needs some 15 MB for a moment. Glibc would keep them, in pieces between what stays.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim.argtypes = [ctypes.c_size_t]
            trim(0)
