"""Large blocks of a CPU's memory go back to the system as soon as they are free.

glibc raises the size from which a block is mapped by itself whenever such a block is freed, up to 32 MB. What is
smaller then comes from a heap, whose holes between tensors of many sizes stay with the process: on a step of 16,384
tokens they were a quarter of its peak. A fixed threshold turns that off (mallopt(3), M_MMAP_THRESHOLD). The price is
fresh pages for every large tensor, which long rows hide behind their attention.
"""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3
THRESHOLD = 2**20
"""Bytes from which a block is mapped by itself."""


def return_large_blocks(threshold: int = THRESHOLD) -> bool:
    """Fix glibc's threshold for this process, for good; False where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, threshold))
