"""SCALE's losses as pure functions: contrast between clips and between sets, and two other comparisons of sets.

Source: SCALE §3.2 and §3.3, Eqs. 3, 4 and 7; :doc:`docs/scale.md` lists the differences between paper and released
code.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

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
    queries: Tensor, keys: Tensor, positive: Tensor, *, temperature: float, chunk_bytes: int = CHUNK_BYTES
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
    """
    rows = max(1, chunk_bytes // (4 * max(1, len(keys))))
    loss, num_right = _Contrast.apply(queries, keys, positive, 1.0 / temperature, rows)
    return Contrast(loss=loss, accuracy=num_right / max(1, len(queries)))


class _Contrast(torch.autograd.Function):
    """The mean cross-entropy, whose gradient is computed together with it."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, positive: Tensor, scale: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        queries, keys = _at_least_float32(queries), _at_least_float32(keys)
        wants_grad = any(ctx.needs_input_grad[:2])
        query_grad = torch.zeros_like(queries) if wants_grad else None
        key_grad = torch.zeros_like(keys) if wants_grad else None
        total = queries.new_zeros(())
        num_right = queries.new_zeros(())
        with torch.autocast(queries.device.type, enabled=False):
            for begin in range(0, len(queries), rows):
                query, own = queries[begin : begin + rows], positive[begin : begin + rows]
                logits = (query * scale) @ keys.T
                own_logit = logits.gather(1, own[:, None])
                peak = logits.amax(dim=1, keepdim=True)
                num_right += (own_logit >= peak).sum()
                weights = logits.sub_(peak).exp_()  # in place of the logits
                norm = weights.sum(dim=1, keepdim=True)
                total += (norm.log() + peak - own_logit).sum()
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
        return query_grad * grad, key_grad * grad, None, None, None


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype.itemsize < 4 else values


def masked_clip_loss(
    predictions: Tensor,
    targets: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    symmetric: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> Contrast:
    """Masked clip modelling: find the vector of each masked clip among those of all clips of the batch (Eq. 4).

    Args:
        predictions: float32 [M, C], one per masked clip.
        targets: float32 [N, C], one per clip, masked or not.
        positive: int64 [M], the target of each prediction.
        temperature: Temperature by which the logits are divided.
        symmetric: Average with the other direction, each masked clip's target among the predictions (Eq. 3).
        chunk_bytes: Largest size of a chunk of logits.
    """
    forward = contrast(predictions, targets, positive, temperature=temperature, chunk_bytes=chunk_bytes)
    if not symmetric:
        return forward
    own = torch.arange(len(predictions), device=predictions.device)
    backward = contrast(targets[positive], predictions, own, temperature=temperature, chunk_bytes=chunk_bytes)
    return Contrast(loss=(forward.loss + backward.loss) / 2, accuracy=forward.accuracy)


def set_contrast_loss(first: Tensor, second: Tensor, *, temperature: float) -> Contrast:
    """Find a video's other set among those of the batch, in both directions, averaged (Eq. 7, InfoNCE).

    Args:
        first: float32 [B, C], one set of each video.
        second: float32 [B, C], the other set.
        temperature: Temperature by which the logits are divided.
    """
    own = torch.arange(len(first), device=first.device)
    there = contrast(first, second, own, temperature=temperature)
    back = contrast(second, first, own, temperature=temperature)
    return Contrast(loss=(there.loss + back.loss) / 2, accuracy=(there.accuracy + back.accuracy) / 2)


def set_regression_loss(predicted: tuple[Tensor, Tensor], projected: tuple[Tensor, Tensor]) -> Tensor:
    """Squared distance of unit vectors between each set's prediction and the other's projection, without its gradient.

    It has the form of SimSiam (Chen & He, CVPR 2021, Eq. 4): 2 - 2 cos, averaged over both directions.

    Args:
        predicted: float32 [B, C] of each set, of unit length.
        projected: float32 [B, C] of each set, of unit length.
    """
    there = (predicted[0] - projected[1].detach()).square().sum(dim=-1).mean()
    back = (predicted[1] - projected[0].detach()).square().sum(dim=-1).mean()
    return (there + back) / 2


def set_clustering_loss(first: Tensor, second: Tensor, *, temperature: float, epsilon: float, num_steps: int) -> Tensor:
    """Predict from one set the prototypes assigned to the other, in both directions, averaged (SwAV, Eq. 2).

    Args:
        first: float32 [B, P], cosines of one set of each video with the prototypes.
        second: float32 [B, P], those of the other set.
        temperature: Temperature by which the predicted logits are divided.
        epsilon: Temperature by which the logits of the assignment are divided.
        num_steps: Number of steps, see :func:`balanced_assignment`.
    """
    wanted = [balanced_assignment(cosines.detach() / epsilon, num_steps=num_steps) for cosines in (first, second)]
    there = functional.cross_entropy(first / temperature, wanted[1])
    back = functional.cross_entropy(second / temperature, wanted[0])
    return (there + back) / 2


def balanced_assignment(logits: Tensor, *, num_steps: int) -> Tensor:
    """Assign items to prototypes such that all prototypes get about the same share: Sinkhorn-Knopp in logarithms.

    Args:
        logits: float32 [B, P].
        num_steps: Number of normalisations of prototypes, then items.

    Returns:
        float32 [B, P]; rows sum to 1.
    """
    for _ in range(num_steps):
        logits = logits - logits.logsumexp(dim=0, keepdim=True)
        logits = logits - logits.logsumexp(dim=1, keepdim=True)
    return logits.exp()
