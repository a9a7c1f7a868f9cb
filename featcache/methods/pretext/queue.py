"""A queue of earlier keys, which serve as negatives of later queries (MoCo)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class KeyQueue(nn.Module):
    """The latest ``size`` keys; new ones take the places of the oldest, and go on at the beginning after the end.

    Attributes:
        keys: float32 [size, C], of unit length; random ones at first.
        place: int64 scalar, where the next key goes.
    """

    keys: Tensor
    place: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("keys", functional.normalize(torch.randn(size, channels), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def negatives(self) -> Tensor:
        """A copy of the keys, float32 [size, C], which a graph may keep while new ones come in."""
        return self.keys.clone()

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Put in keys [N, C]; of more than ``size``, the last ones stay."""
        size, count = len(self.keys), len(keys)
        places = (self.place + torch.arange(count, device=keys.device)) % size
        self.keys.index_copy_(0, places[-size:], keys[-size:].to(self.keys.dtype))
        self.place.copy_((self.place + count) % size)
