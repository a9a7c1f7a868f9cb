"""The machine that a run uses: its device, its cores, and how it multiplies; torch is imported only where needed."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from featcache.errors import ConfigError

Matmul = Literal["highest", "high"]
"""How a GPU multiplies float32: ``highest`` in float32, ``high`` in TF32; convolutions too."""


def resolve_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where there is a GPU, else ``cpu``; an absent device is an error.

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


@contextmanager
def forward_threads(count: int) -> Iterator[None]:
    """Fix torch's intra-op threads, because results depend on their number; restores the former value."""
    import torch

    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def set_matmul(matmul: Matmul) -> None:
    """How products of float32 are computed on a GPU from now on.

    torch keeps matrix products and convolutions apart, and lets convolutions use TF32 unless it is told not to.

    Args:
        matmul: ``highest``: float32. ``high``: TF32, inputs rounded to 10 bits.
    """
    import torch

    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = matmul == "high"


def num_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
