"""A contrast of queries with keys (InfoNCE), whose logits are never in memory as a whole."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 64 << 20
"""Default size of the logits that are in memory at once."""


class Contrast(NamedTuple):
    """A contrastive loss.

    Attributes:
        loss: float32 scalar, the mean over queries; 0 with a graph if there are none.
        accuracy: float32 scalar without a graph: share of queries whose own key is the nearest one.
    """

    loss: Tensor
    accuracy: Tensor


def contrast(
    queries: Tensor,
    keys: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    chunk_bytes: int = CHUNK_BYTES,
    is_compiled: bool = False,
) -> Contrast:
    """Cross-entropy of each query's own key among all keys (InfoNCE, one direction).

    The full logits [M, N] are never in memory: rows are computed in chunks, and each chunk adds its part of the
    gradient before the next one replaces it, so that nothing is computed twice.

    Args:
        queries: float32 [M, C]; of unit length for cosines.
        keys: float32 [N, C].
        positive: int64 [M], the key of each query.
        temperature: Temperature by which the logits are divided.
        chunk_bytes: Largest size of a chunk of logits.
        is_compiled: Compile what is done with a chunk, so that a GPU passes over its logits fewer times.
    """
    rows = max(1, chunk_bytes // (4 * max(1, len(keys))))
    loss, num_right = _Contrast.apply(queries, keys, positive, 1.0 / temperature, rows, is_compiled)
    return Contrast(loss=loss, accuracy=num_right / max(1, len(queries)))


class _Contrast(torch.autograd.Function):
    """The mean cross-entropy, whose gradient is computed together with it."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, positive: Tensor, scale: float, rows: int, is_compiled: bool
    ) -> tuple[Tensor, Tensor]:
        look = _compiled_found() if is_compiled else _found
        queries, keys = _at_least_float32(queries), _at_least_float32(keys)
        wants_grad = any(ctx.needs_input_grad[:2])
        query_grad = torch.zeros_like(queries) if wants_grad else None
        key_grad = torch.zeros_like(keys) if wants_grad else None
        total = queries.new_zeros(())
        num_right = queries.new_zeros(())
        with torch.autocast(queries.device.type, enabled=False):
            for begin in range(0, len(queries), rows):
                query, own = queries[begin : begin + rows], positive[begin : begin + rows]
                found = look((query * scale) @ keys.T, own)
                num_right += found.num_right
                total += found.total
                weights, norm = found.weights, found.norm
                if query_grad is not None and key_grad is not None:
                    # gradient of softmax minus one-hot; the softmax's divisor is applied to the smaller factor
                    query_grad[begin : begin + rows] = weights @ keys / norm - keys[own]
                    key_grad.addmm_(weights.T, query / norm).index_add_(0, own, query, alpha=-1.0)
        divisor = max(1, len(queries))
        if query_grad is not None and key_grad is not None:
            ctx.save_for_backward(query_grad.mul_(scale / divisor), key_grad.mul_(scale / divisor))
        ctx.mark_non_differentiable(num_right)
        return total / divisor, num_right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, key_grad = ctx.saved_tensors
        return query_grad * grad, key_grad * grad, None, None, None, None


class _Found(NamedTuple):
    """Of a chunk: exponentials of its logits [m, N], up to a factor per row, their sums [m, 1], and two scalars."""

    weights: Tensor
    norm: Tensor
    total: Tensor
    num_right: Tensor


def _found(logits: Tensor, own: Tensor) -> _Found:
    """The softmax of logits [m, N], which it replaces, and the loss and accuracy of the keys ``own`` int64 [m]."""
    own_logit = logits.gather(1, own[:, None])
    peak = logits.amax(dim=1, keepdim=True)
    num_right = (own_logit >= peak).sum()
    weights = logits.sub_(peak).exp_()
    norm = weights.sum(dim=1, keepdim=True)
    return _Found(weights, norm, (norm.log() + peak - own_logit).sum(), num_right)


@functools.cache
def _compiled_found() -> Callable[[Tensor, Tensor], _Found]:
    """The same compiled, for any number of rows; importing the compiler takes seconds."""
    return torch.compile(_found, dynamic=True)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype.itemsize < 4 else values
