"""SCALE's losses as functions: contrast between clips and between sets, and two other comparisons of sets.

Source: SCALE §3.2 and §3.3, Eqs. 3, 4 and 7; :doc:`docs/scale.md` lists the differences between paper and released
code.

Where processes share a batch, each compares its own clips and sets with those of all, so that the mean over all clips
or sets is the loss of a single process; such a function is collective.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from featcache.training.contrast import CHUNK_BYTES, Contrast, contrast
from featcache.training.world import ALONE, World


def masked_clip_loss(
    predictions: Tensor,
    targets: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    symmetric: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    is_compiled: bool = False,
    world: World = ALONE,
) -> Contrast:
    """Masked clip modelling: find the vector of each masked clip among those of all clips of the batch (Eq. 4).

    Args:
        predictions: float32 [M, C], one per masked clip; with ``symmetric`` [N, C], one per clip, masked or not.
        targets: float32 [N, C], one per clip, masked or not.
        positive: int64 [M], places of the masked clips among all clips.
        temperature: Temperature by which the logits are divided.
        symmetric: Average with the other direction, each masked clip's target among the predictions of all clips
            (Eqs. 2, 3 and 6).
        chunk_bytes: Largest size of a chunk of logits.
        is_compiled: Compile what is done with a chunk.
        world: The processes that share the batch; the others' clips are compared with too.

    Returns:
        The mean over the masked clips of this process.
    """
    masked = predictions[positive] if symmetric else predictions
    compare = partial(contrast, temperature=temperature, chunk_bytes=chunk_bytes, is_compiled=is_compiled)
    keys, first = world.gather_rows(targets)
    forward = compare(masked, keys, positive + first)
    if not symmetric:
        return forward
    keys, first = world.gather_rows(predictions)
    backward = compare(targets[positive], keys, positive + first)
    return Contrast(loss=(forward.loss + backward.loss) / 2, accuracy=forward.accuracy)


def set_contrast_loss(
    first: Tensor, second: Tensor, *, temperature: float, is_compiled: bool = False, world: World = ALONE
) -> Contrast:
    """Find a video's other set among those of the batch, in both directions, averaged (Eq. 7, InfoNCE).

    Args:
        first: float32 [B, C], one set of each video.
        second: float32 [B, C], the other.
        temperature: Temperature by which the logits are divided.
        is_compiled: Compile what is done with the logits.
        world: The processes that share the batch, each with as many videos.
    """
    compare = partial(contrast, temperature=temperature, is_compiled=is_compiled)
    own = torch.arange(len(first), device=first.device) + world.rank * len(first)
    there = compare(first, world.gather_trained(second), own)
    back = compare(second, world.gather_trained(first), own)
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


def set_clustering_loss(
    first: Tensor, second: Tensor, *, temperature: float, epsilon: float, num_steps: int, world: World = ALONE
) -> Tensor:
    """Predict from one set the prototypes assigned to the other, in both directions, averaged (SwAV, Eq. 2).

    Args:
        first: float32 [B, P], cosines of one set of each video with the prototypes.
        second: float32 [B, P], those of the other set.
        temperature: Temperature by which the predicted logits are divided.
        epsilon: Temperature by which the logits of the assignment are divided.
        num_steps: Number of steps, see :func:`balanced_assignment`.
        world: The processes that share the batch, each with as many videos; assignments are balanced over all of them.
    """
    own = slice(world.rank * len(first), (world.rank + 1) * len(first))
    wanted = [
        balanced_assignment(world.gather(cosines.detach()) / epsilon, num_steps=num_steps)[own]
        for cosines in (first, second)
    ]
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
