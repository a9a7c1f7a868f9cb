"""The loss of a student: cross-entropy, and the divergence from each teacher's softened classes, weighed three ways."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from featcache.methods.distill.min_norm import smallest_combination
from featcache.methods.distill.settings import Mode

Mean = Callable[[Tensor], Tensor]
"""From a tensor of this process to its mean over all processes."""


def divergence(logits: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of softened classes times the squared temperature, averaged over a batch: a scalar.

    The factor keeps gradients as large as those of cross-entropy, whatever the temperature (Hinton et al., 2015).

    Args:
        logits: float32 [B, C], of the student.
        teacher: float32 [B, C], without a gradient.
        temperature: What logits are divided by.
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    target = functional.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, target, reduction="batchmean", log_target=True)


def mean_gradients(logits: Tensor, teachers: Tensor, *, temperature: float) -> Tensor:
    """For each teacher the gradient of its divergence with respect to the student's logits, averaged over a batch.

    It is T (softmax(z / T) - softmax(t / T)) in closed form, so that no backward pass is needed.

    Args:
        logits: float32 [B, C], of the student.
        teachers: float32 [m, B, C].
        temperature: What logits are divided by.

    Returns:
        float32 [m, C], without a gradient.
    """
    student = functional.softmax(logits.detach() / temperature, dim=-1)
    targets = functional.softmax(teachers / temperature, dim=-1)
    return temperature * (student - targets).mean(dim=1)


def teacher_weights(
    mode: Mode, logits: Tensor, teachers: Tensor, *, temperature: float, largest: float, mean: Mean
) -> Tensor:
    """Weights of the teachers in the loss of a batch.

    Args:
        mode: ``sum``: 1 each. ``mean``: 1 / m each. ``aekd``: those with which the mean gradients of the teachers,
            weighed and added, are shortest (AE-KD); they are not negative, add to 1, and none exceeds ``largest``.
        logits: float32 [B, C], of the student.
        teachers: float32 [m, B, C].
        temperature: What logits are divided by.
        largest: Largest weight of ``aekd``, its C; where C * m is below 1, all weights are 1 / m.
        mean: Averages over the processes that share the batch.

    Returns:
        float32 [m], on the device of the logits.
    """
    num_teachers = len(teachers)
    if mode == "sum":
        return torch.ones(num_teachers, device=logits.device)
    if mode == "mean" or num_teachers == 1:
        return torch.full((num_teachers,), 1 / num_teachers, device=logits.device)
    gradients = mean(mean_gradients(logits, teachers, temperature=temperature)).double()
    weights = smallest_combination((gradients @ gradients.T).tolist(), largest=largest)
    return torch.tensor(weights, device=logits.device)
