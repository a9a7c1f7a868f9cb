"""Memory of training on a CPU: tensors that go leave their place to those that come."""

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_MAX_INT = 2**31 - 1


def keep_freed_memory(device: torch.device) -> bool:
    """On a CPU, have the C library keep what is freed; returns whether it does.

    By default glibc hands large blocks back to the system at once, and each step asks for the same tensors again, whose
    pages the system clears anew. Kept, that time is spared, and the process
    stays at its peak of memory until it ends.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None) if device.type == "cpu" else None
    if allocator is None:  # a GPU has torch's own cache; other C libraries have no such setting
        return False
    return bool(allocator(_M_MMAP_MAX, 0) and allocator(_M_TRIM_THRESHOLD, _MAX_INT))
