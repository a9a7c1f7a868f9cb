"""Operations on gradients between the backward pass and the step."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# As in torch's clip_grad_norm_ and DINO, to avoid dividing a gradient of zeros by zero.
_EPSILON = 1e-6


def clip_each_(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Scale each single gradient down to ``max_norm``, in place; smaller ones are not changed (DINO, train code).

    Nothing is read back, so a GPU does not have to wait. A gradient that is not finite stays so.

    Args:
        parameters: Parameters; those without a gradient are skipped.
        max_norm: Largest Euclidean norm of one gradient.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients))
    factors = (max_norm / (norms + _EPSILON)).clamp_(max=1.0)
    torch._foreach_mul_(gradients, factors.unbind())


def clipped_together(module: nn.Module) -> tuple[nn.Module, ...]:
    """The parts of a module whose gradients have one norm each: the whole, or what its ``independent`` names.

    Networks that learn side by side and share nothing are clipped as each would be alone.
    """
    parts: tuple[nn.Module, ...] = getattr(module, "independent", (module,))
    return parts


def named(module: nn.Module, prefix: str) -> list[nn.Parameter]:
    """The trained parameters whose names begin with ``prefix``.

    Raises:
        KeyError: There is no such parameter.
    """
    found = [
        parameter
        for name, parameter in module.named_parameters()
        if name.startswith(prefix) and parameter.requires_grad
    ]
    if not found:
        raise KeyError(f"no trained parameter of {type(module).__name__} begins with {prefix!r}")
    return found


def drop_gradients(parameters: Iterable[Tensor]) -> None:
    """Drop gradients: an optimiser skips such parameters, so that neither they nor their state change."""
    for parameter in parameters:
        parameter.grad = None
