"""The contrast of two views of each video with the views of all others (NT-Xent, SimCLR)."""

import torch
from torch import Tensor
from torch.nn import functional

from featcache.training.objective import Loss
from featcache.training.world import World


def nt_xent(ones: Tensor, others: Tensor, *, temperature: float, world: World) -> Loss:
    """Cross-entropy of each view's own other view, the sum of both sides, with the mean accuracy as a metric.

    A view is compared with all other views of all processes, its own side's too; these get gradients as well.

    Args:
        ones: float32 [B, C], one view of each video of this process, of unit length.
        others: float32 [B, C], the other view of each.
        temperature: Temperature by which cosines are divided.
        world: The processes that share a batch.
    """
    all_ones, all_others = world.gather_trained(ones), world.gather_trained(others)
    own = torch.arange(len(ones), device=ones.device) + world.rank * len(ones)
    itself = functional.one_hot(own, len(all_ones)).bool()
    sides = ((ones, all_ones, all_others), (others, all_others, all_ones))
    total, num_right = ones.new_zeros(()), ones.new_zeros(())
    for queries, same, opposite in sides:
        with torch.autocast(queries.device.type, enabled=False):
            alike = (queries @ same.T).masked_fill(itself, -torch.inf)
            logits = torch.cat([queries @ opposite.T, alike], dim=1) / temperature
        total = total + functional.cross_entropy(logits, own)
        num_right += (logits.detach().argmax(dim=1) == own).sum()
    return Loss(total=total, metrics={"accuracy": num_right / (2 * len(ones))})
