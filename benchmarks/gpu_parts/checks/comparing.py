"""Limits for the difference between the results of a device and those of the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Check: TypeAlias = Callable[[str, Path], str]
"""Takes a device and an empty folder; returns in a few words what was compared and how large the difference was.

Raises:
    AssertionError: The difference is too large.
    SkippedError: It cannot be checked on this machine.
"""

FLOAT32 = 1e-4
"""Relative distance in float32: the order of sums differs, through dozens of layers."""
FLOAT16 = 5e-3
"""In float16 and TF32, which both round inputs to 10 bits; on a CPU at most 0.001 was seen in float16."""
BFLOAT16 = 4e-2
"""In bfloat16, with 7 bits; on a CPU at most 0.016 was seen."""
LOSSES = 1e-3
"""Relative distance of a loss after a few steps, in which rounding grows."""


def distance(mine: Tensor | npt.NDArray[Any], theirs: Tensor | npt.NDArray[Any]) -> float:
    """Norm of the difference over the norm of ``theirs``; both in float64 on the CPU."""
    one, other = (torch.as_tensor(values).detach().double().cpu() for values in (mine, theirs))
    assert one.shape == other.shape, f"shapes differ: {tuple(one.shape)} and {tuple(other.shape)}"
    assert bool(other.isfinite().all()), "the CPU's values are not finite"
    assert bool(one.isfinite().all()), "values are not finite"
    return float((one - other).norm() / other.norm().clamp_min(torch.finfo(torch.float64).tiny))


def within(found: float, limit: float, what: str) -> str:
    """``what`` with the measured distance; an error if it exceeds the limit."""
    assert found <= limit, f"{what}: {found:.2g} from the CPU's, more than {limit:g}"
    return f"{what} {found:.1g}"


def same(mine: npt.NDArray[Any], theirs: npt.NDArray[Any], what: str) -> str:
    """``what``, after checking equality to the bit."""
    assert mine.dtype == theirs.dtype, f"{what}: {mine.dtype} instead of {theirs.dtype}"
    assert np.array_equal(mine, theirs), f"{what}: not equal"
    return f"{what} equal"
