"""Counts parameters and operations of a network without running it on real data."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(modules: Iterable[nn.Module] | nn.Module, *, of: tuple[type[nn.Module], ...] | None = None) -> int:
    """Number of parameters of a module, or only of its submodules of some types (e.g. convolutions)."""
    roots = [modules] if isinstance(modules, nn.Module) else list(modules)
    if of is None:
        return sum(parameter.numel() for root in roots for parameter in root.parameters())
    return sum(
        parameter.numel()
        for root in roots
        for module in root.modules()
        if isinstance(module, of)
        for parameter in module.parameters(recurse=False)
    )


def count_trained(module: nn.Module) -> int:
    """Number of parameters that get gradients."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@dataclass(slots=True)
class Macs:
    """Number of multiply-accumulates that ran inside the counting block."""

    total: int = 0


@contextmanager
def counting_macs() -> Iterator[Macs]:
    """Count the multiply-accumulates of a ``with`` block: convolutions, matrix products and attention.

    The result is half of the operations that torch's counter gives. It depends only on shapes, not on values or device.
    """
    macs = Macs()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not support the fused attention of inference
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            yield macs
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    macs.total = counter.get_total_flops() // 2


def count_macs(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of one forward pass; inputs and module may be on the ``meta`` device."""
    with counting_macs() as macs:
        module(*inputs)
    return macs.total
