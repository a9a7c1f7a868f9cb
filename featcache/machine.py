"""The machine that a run uses: its device, its cores, its memory, its weights folder, and how it multiplies.

torch is imported only where it is needed.
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from featcache.errors import ConfigError

Matmul = Literal["highest", "high"]
"""How a GPU computes float32 products and convolutions: ``highest`` in float32, ``high`` in TF32."""


def resolve_device(name: str) -> str:
    """Resolve ``auto`` to ``cuda`` if there is a GPU, otherwise to ``cpu``; an absent device is an error.

    Raises:
        ConfigError: No such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise ConfigError(f"device is {name!r}; give auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= (num_gpus := torch.cuda.device_count()):
        raise ConfigError(f"device is {name!r} but torch sees {num_gpus} GPUs; use --device cpu")
    return name


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_MAX_INT = 2**31 - 1


def keep_freed_memory(device: str) -> bool:
    """On a CPU, let the C library keep freed memory; returns whether it does.

    By default glibc returns large blocks to the system at once, and each forward pass requests the same tensors again,
    whose pages the system has to clear: half of the time of a small network. Keeping them saves that, but the process
    then stays at its peak memory until it ends. Threads other than the main one profit only in part, unless the process
    was started with :data:`ONE_ARENA`.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None) if device == "cpu" else None
    if allocator is None:  # on a GPU torch has its own cache; other C libraries have no such setting
        return False
    return bool(allocator(_M_MMAP_MAX, 0) and allocator(_M_TRIM_THRESHOLD, _MAX_INT))


def give_back_freed_memory() -> None:
    """Return to the system what the C library holds of freed memory.

    glibc keeps freed blocks of up to 32 MiB, more or fewer of them as chance has it, which adds a tenth to the memory
    of a forward pass. One call takes milliseconds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries have no such call
        trim(0)


ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Environment of a process whose threads share the heap of the main one. Other heaps of glibc hold 64 MiB each, and are
returned to the system as soon as they are empty."""


@contextmanager
def forward_threads(count: int) -> Iterator[None]:
    """Fix the number of torch's intra-op threads, because results depend on it, and restore it afterwards."""
    import torch

    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def set_matmul(matmul: Matmul) -> None:
    """Set how a GPU computes float32 products and convolutions from now on.

    torch has separate settings for matrix products and convolutions, and lets convolutions use TF32 by default.

    Args:
        matmul: ``highest``: float32. ``high``: TF32, inputs rounded to 10 bits.
    """
    import torch

    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = matmul == "high"


_weights_folder: ContextVar[Path | None] = ContextVar("weights_folder", default=None)


@contextmanager
def using_weights_folder(folder: Path) -> Iterator[None]:
    """Search another folder for weight files within a ``with`` block.

    Raises:
        ConfigError: There is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is no folder of weights; name a folder, or NAME=FILE")
    token = _weights_folder.set(folder)
    try:
        yield
    finally:
        _weights_folder.reset(token)


def weights_folder() -> Path:
    """The folder searched for weight files: ``$FEATCACHE_WEIGHTS``, else ``~/.cache/featcache/weights``."""
    chosen = _weights_folder.get()
    if chosen is not None:
        return chosen
    named = os.environ.get("FEATCACHE_WEIGHTS")
    return Path(named) if named else Path.home() / ".cache" / "featcache" / "weights"


_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def free_memory() -> int:
    """Bytes of memory that this process may still take: of the machine, and of the cgroups that limit it.

    What a cgroup keeps of files counts as free, since the system drops it when the memory is needed.
    """
    import psutil

    return min([int(psutil.virtual_memory().available), *_free_in_cgroups()])


def _free_in_cgroups() -> Iterator[int]:
    """Free bytes of each memory cgroup of this process and those around it that has a limit."""
    for folder, is_v1 in _cgroups("memory"):
        limit, used = ("limit_in_bytes", "usage_in_bytes") if is_v1 else ("max", "current")
        try:
            most, now = (int((folder / f"memory.{name}").read_text()) for name in (limit, used))
            counts = dict(each.split() for each in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # there is no such folder, or "max"
            continue
        kept = sum(int(counts.get(name, 0)) for name in ("active_file", "inactive_file"))
        yield max(0, most - now + kept)


def num_cores() -> int:
    """Number of cores that this process may use, which may be fewer than the machine has.

    Counted are the cores that it may run on, and the share of time that cgroups leave it (``docker run --cpus``, CPU
    limits of Kubernetes), rounded up.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min([cores, *_cores_in_cgroups()])


def _cores_in_cgroups() -> Iterator[int]:
    """Cores' worth of time of each CPU cgroup of this process and those around it that has a limit."""
    for folder, is_v1 in _cgroups("cpu"):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if is_v1 else ("cpu.max",)
        try:
            quota, period = (int(word) for name in names for word in (folder / name).read_text().split())
        except (OSError, ValueError):  # there is no such folder, or "max"
            continue
        if quota > 0:  # -1 is no limit
            yield math.ceil(quota / period)


def _cgroups(controller: str) -> Iterator[tuple[Path, bool]]:
    """Folders of this process's cgroup and those around it, of which a container sees some, and which are of v1."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controller if controllers else _CGROUPS
        place = Path(own.lstrip("/"))
        for folder in (root / place, *(root / above for above in place.parents)):
            yield folder, bool(controllers)
