"""R3D-50: the Slow R50 with a pooled two-layer head, from pixels to logits; AdViSe's end-to-end baseline."""

import torch
from torch import Tensor, nn

from featcache.networks.slow_r50 import SlowR50, SlowR50Config
from featcache.networks.tmm import PooledMlpHead

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class R3d50(nn.Module):
    """The network of AdViSe's Table 6, last row; the head is that of a temporal module.

    Attributes:
        network: The Slow R50, temporal kernels of 3 in the first convolutions of the last two stages.
        head: Pool, FC, BatchNorm, ReLU, dropout, FC.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, num_classes: int, width: int = 64, head_hidden: int = 4096, dropout: float = 0.2) -> None:
        super().__init__()
        self.network = SlowR50(SlowR50Config(width=width))
        self.head = PooledMlpHead(self.network.width, hidden=head_hidden, num_classes=num_classes, dropout=dropout)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Map RGB clips, float [B, T, H, W, 3] in [0, 255], to logits [B, num_classes]."""
        pixels = (clips / 255 - self.mean) / self.std
        maps = self.network.forward_stages(pixels.permute(0, 1, 4, 2, 3), ["s5"])["s5"]
        logits: Tensor = self.head(maps.permute(0, 4, 1, 2, 3))
        return logits
