"""Logits of a query's own key among other keys (InfoNCE with a queue)."""

import torch
from torch import Tensor

from featcache.training.objective import Loss, class_loss


def info_nce(
    queries: Tensor, keys: Tensor, negatives: Tensor, *, temperature: float, own_negatives: Tensor | None = None
) -> Loss:
    """Cross-entropy of each query's own key, with the accuracy as a metric.

    The logits of a query are those of its own key, of the common negatives, and of its own negative, in this order.

    Args:
        queries: float32 [B, C], of unit length.
        keys: float32 [B, C], the own key of each query, of unit length.
        negatives: float32 [K, C], of unit length.
        temperature: Temperature by which cosines are divided.
        own_negatives: float32 [B, C], a further negative of each query, if there are any.
    """
    with torch.autocast(queries.device.type, enabled=False):
        parts = [_cosines(queries, keys), queries @ negatives.T]
        if own_negatives is not None:
            parts.append(_cosines(queries, own_negatives))
        logits = torch.cat(parts, dim=1) / temperature
    return class_loss(logits, torch.zeros(len(queries), dtype=torch.int64, device=queries.device))


def _cosines(queries: Tensor, others: Tensor) -> Tensor:
    """Cosine of each query and its own other vector, [B, 1]."""
    return (queries * others).sum(dim=1, keepdim=True)
