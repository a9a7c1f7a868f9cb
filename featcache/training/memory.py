"""Memory of training on a CPU: lets new tensors reuse the memory of freed ones."""

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_MAX_INT = 2**31 - 1


def keep_freed_memory(device: torch.device) -> bool:
    """On a CPU, let the C library keep freed memory; returns whether it does.

    By default glibc returns large blocks to the system at once, and each step requests the same tensors again, whose
    pages the system has to clear. Keeping them saves that time, but the process then stays at its peak memory until it
    ends.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None) if device.type == "cpu" else None
    if allocator is None:  # on a GPU torch has its own cache; other C libraries have no such setting
        return False
    return bool(allocator(_M_MMAP_MAX, 0) and allocator(_M_TRIM_THRESHOLD, _MAX_INT))
