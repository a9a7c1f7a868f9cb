"""BatchNorm whose statistics are those of the batch of all processes, with gradients, on the CPU as well as on GPUs.

torch's ``SyncBatchNorm`` refuses tensors on the CPU. With statistics of its own in each process, a run would depend on
the number of processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.errors import ConfigError
from featcache.training.world import World

_OF_TORCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def share_batch_norms(module: nn.Module, world: World) -> nn.Module:
    """Let every BatchNorm in a module take its statistics from the batches of all processes; returns the module.

    Modules are changed in place, with the parameters, buffers and names that they have, so that whatever refers to one
    of them refers to the shared one. With a single process nothing is changed. In evaluation mode nothing is exchanged.
    A forward pass in training mode is collective, and so is its backward pass.

    Raises:
        ConfigError: It has a BatchNorm of another library, which may compute more than that.
    """
    if world.size == 1:
        return module
    for name, part in module.named_modules():
        if type(part) in _OF_TORCH:
            part.__class__ = SharedBatchNorm
        elif isinstance(part, _BatchNorm) and not isinstance(part, SharedBatchNorm):
            raise ConfigError(
                f"{name} is a {type(part).__name__}, whose statistics {world.size} processes cannot share; "
                "start one process, or take a network with the BatchNorm of torch"
            )
    return module


@contextmanager
def uncounted(module: nn.Module) -> Iterator[None]:
    """For a ``with`` block, leave this process's rows out of the statistics of shared BatchNorms.

    A process that has no rows of a batch of all processes passes some others, whose results it throws away: a forward
    pass is collective.
    """
    norms = [part for part in module.modules() if isinstance(part, SharedBatchNorm)]
    for norm in norms:
        norm.counts = False
    try:
        yield
    finally:
        for norm in norms:
            norm.counts = True


class SharedBatchNorm(_BatchNorm):
    """BatchNorm over the batches of all processes, [B, C] or [B, C, ...]; see :func:`share_batch_norms`.

    Attributes:
        counts: Whether this process's rows are part of the statistics.
    """

    counts = True

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  torch's name
        """Any number of axes will do."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise the batch of this process; collective in training mode."""
        if not self.training:
            normed: Tensor = super().forward(input)
            return normed
        normed, mean, var, count = _Normalise.apply(input, self.weight, self.bias, self.eps, self.counts)
        if self.track_running_stats:
            self._follow(mean, var * (count / (count - 1)))
        return normed

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor) -> None:
        """Move running statistics towards those of a batch, by ``momentum`` or as an average over all batches."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        step = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        for running, now in ((self.running_mean, mean), (self.running_var, var)):
            running += step * (now - running)


class _Normalise(torch.autograd.Function):
    """Normalised values, and mean, variance and number of values per channel over all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, counts: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = _axes(x)
        var, mean = torch.var_mean(_wide(x), axes, correction=0)
        count = mean.new_full((1,), x.numel() / x.shape[1] if counts else 0)
        mean, var, count = _combined(torch.cat([mean, var, count]))
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return functional.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        axes, shape = _axes(x), (1, -1, *[1] * (x.ndim - 2))
        deviation = (var + ctx.eps).rsqrt()
        gradient = _wide(gradients[0])
        normed = (_wide(x) - mean.view(shape)) * deviation.view(shape)
        of_bias, of_weight = gradient.sum(axes), (gradient * normed).sum(axes)
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        means = sums / count
        of_x = gradient - means[0].view(shape) - normed * means[1].view(shape)
        scale = deviation if weight is None else deviation * weight
        of_x = (of_x * scale.view(shape)).to(x.dtype)
        return of_x, *((None, None) if weight is None else (of_weight, of_bias)), None, None


def _wide(x: Tensor) -> Tensor:
    """The tensor in at least float32, so that sums over a batch in bfloat16 are exact enough."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _axes(x: Tensor) -> tuple[int, ...]:
    """All axes but the channels."""
    return 0, *range(2, x.ndim)


def _combined(mine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance [C] and number [1] of all values, of each process's in one vector [2 C + 1]."""
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    parts = torch.stack(every)
    means, variances = parts[:, :-1].chunk(2, dim=1)
    counts = parts[:, -1:]
    count = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / count
    var = (counts * (variances + (means - mean).square())).sum(dim=0) / count
    return mean, var, count
