"""An objective's loss whose gradients are means over all processes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from featcache.training.objective import Loss, Objective
from featcache.training.world import World

B = TypeVar("B")


class SharedLoss(Generic[B]):
    """The loss of an objective; with a single process it is nothing more.

    With several processes, each begins with the first one's parameters and follows its buffers, and after the backward
    pass of the last part of a step each has the mean of all processes' gradients.

    Args:
        objective: The task.
        world: The processes that share it.
        has_unused: Whether some trained parameters take no part in the loss, which has to be searched for them.
    """

    def __init__(self, objective: Objective[B], world: World, *, has_unused: bool = False) -> None:
        self._objective = objective
        self._parallel: DistributedDataParallel | None = None
        if world.size > 1:
            self._parallel = DistributedDataParallel(_Forward(objective), find_unused_parameters=has_unused)

    def __call__(self, part: B) -> Loss:
        """Compute the loss of one part."""
        if self._parallel is None:
            return self._objective.loss(part)
        loss: Loss = self._parallel(part)
        return loss

    def passing(self, *, is_last: bool) -> AbstractContextManager[None]:
        """A ``with`` block for one part's forward and backward pass; only the last part of a step sends gradients."""
        return nullcontext() if self._parallel is None or is_last else self._parallel.no_sync()


class _Forward(nn.Module, Generic[B]):
    """A loss as the forward pass of a module, in which torch looks for parameters."""

    def __init__(self, objective: Objective[B]) -> None:
        super().__init__()
        self.module = objective.module
        self._loss = objective.loss

    def forward(self, part: B) -> Loss:
        """The objective's loss."""
        return self._loss(part)
