"""The interface of a method to the loop: a module, batches by number, and a loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import Tensor, nn
from torch.nn import functional

B = TypeVar("B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A scalar to minimise, and metrics for the log.

    Attributes:
        total: Scalar with a graph.
        metrics: Detached scalars, averaged over the epoch for the log.
        seldom: Metrics that are costly to compute, as functions that return detached scalars. They are called only at
            steps after which a line is written to the log (``training.log_steps``, and the last of an epoch), in all
            processes, and averaged over those.
    """

    total: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    seldom: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)


def class_loss(
    logits: Tensor, labels: Tensor, *, criterion: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
) -> Loss:
    """The loss of predicted classes, in float32, with their accuracy as a metric.

    Args:
        logits: floating [B, num_classes].
        labels: int64 [B], on any device.
        criterion: The mean loss of float32 logits for labels on their device.
    """
    logits, labels = logits.float(), labels.to(logits.device, non_blocking=True)
    is_right = logits.argmax(dim=1) == labels
    return Loss(total=criterion(logits, labels), metrics={"accuracy": is_right.float().mean()})


class Objective(Protocol[B]):
    """A training task.

    A batch is a pure function of the objective's seed, the epoch and the batch's number in it. So a killed run can be
    resumed in the middle of an epoch with the same batches as without the kill, and only the module and the optimiser
    have to be saved.

    An objective whose batches can be shared is built with the :class:`featcache.training.world.World` of its process. A
    batch is then the same for any number of processes: ``parts`` gives this process's ``World.share`` of it, in as many
    parts as in the other processes, and the mean of the processes' losses is the loss of the batch. ``loss`` may be
    collective, buffers must stay the same in all processes, and trained parameters that take no part in a loss must be
    announced (``has_unused`` of :func:`featcache.training.loop.train`).

    Attributes:
        module: Everything with state: trained parameters, buffers, a teacher (``requires_grad`` off). Its
            ``state_dict`` is the checkpoint.
        num_batches: Number of batches per epoch.
        num_items: Number of items per epoch of all processes, for rates.
    """

    module: nn.Module
    num_batches: int
    num_items: int

    def parts(self, epoch: int, batch: int) -> list[B]:
        """The parts of one batch, on CPU; called ahead of time in another thread.

        Gradients of the parts are summed before the step; several parts need less memory than one.
        """

    def loss(self, part: B) -> Loss:
        """Loss of one part, which is moved to the module's device. The loss of a batch is the sum over its parts."""

    def after_step(self, progress: float) -> None:
        """Called after each step with the completed share of the run, e.g. to update a teacher."""
