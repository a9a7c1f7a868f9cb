"""Inception-I3D: GoogLeNet inflated to video (Carreira & Zisserman, arXiv:1705.07750).

Padding follows TensorFlow's ``SAME``, which depends on the input's size and may be uneven.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

Triple = tuple[int, int, int]

# Width of each branch: 1x1x1; 1x1x1 and 3x3x3; 1x1x1 and 3x3x3; pool and 1x1x1.
_MIXED: Mapping[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def same_padding(size: int, *, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of ``size`` so that the output has ceil(size / stride) positions."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, ReLU: [B, C, T, H, W] to [B, D, ceil(T/s), ceil(H/s), ceil(W/s)]."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        pads = [same_padding(size, kernel=self.kernel, stride=self.stride) for size in x.shape[2:]]
        if any(before != after for before, after in pads):
            x = functional.pad(x, [amount for pair in reversed(pads) for amount in pair])
            pads = [(0, 0)] * 3
        x = functional.conv3d(x, self.conv.weight, stride=self.stride, padding=[before for before, _ in pads])
        return functional.relu(self.bn(x), inplace=True)


class SamePool(nn.Module):
    """Max pool with ``SAME`` padding; inputs are not negative, so ignoring the border equals padding with zeros."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Pool [B, C, T, H, W], at least 0, to [B, C, ceil(T/s), ceil(H/s), ceil(W/s)]."""
        before = [
            same_padding(size, kernel=kernel, stride=stride)[0]
            for size, kernel, stride in zip(x.shape[2:], self.kernel, self.stride, strict=True)
        ]
        # The padding behind is the same or one more: ceil_mode lets the last window reach beyond the edge.
        return functional.max_pool3d(x, self.kernel, self.stride, padding=before, ceil_mode=True)


class Mixed(nn.Module):
    """Four parallel branches, concatenated along the channels (an Inception block)."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3 = widths
        self.b0 = ConvUnit(in_channels, b0, kernel=1)
        self.b1 = nn.Sequential(ConvUnit(in_channels, b1a, kernel=1), ConvUnit(b1a, b1b, kernel=3))
        self.b2 = nn.Sequential(ConvUnit(in_channels, b2a, kernel=1), ConvUnit(b2a, b2b, kernel=3))
        self.b3 = nn.Sequential(SamePool((3, 3, 3), (1, 1, 1)), ConvUnit(in_channels, b3, kernel=1))
        self.out_channels = b0 + b1b + b2b + b3

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, out_channels, T, H, W]."""
        return torch.cat([self.b0(x), self.b1(x), self.b2(x), self.b3(x)], dim=1)


class InceptionI3D(nn.Module):
    """The RGB network; 12,697,264 parameters for 400 classes.

    Args:
        num_classes: Number of outputs of the head.
    """

    def __init__(self, num_classes: int = 400) -> None:
        super().__init__()
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        blocks["Conv3d_1a_7x7"] = ConvUnit(3, 64, kernel=7, stride=2)
        blocks["MaxPool3d_2a_3x3"] = SamePool((1, 3, 3), (1, 2, 2))
        blocks["Conv3d_2b_1x1"] = ConvUnit(64, 64, kernel=1)
        blocks["Conv3d_2c_3x3"] = ConvUnit(64, 192, kernel=3)
        channels = 192
        pools = {
            "Mixed_3b": ("MaxPool3d_3a_3x3", SamePool((1, 3, 3), (1, 2, 2))),
            "Mixed_4b": ("MaxPool3d_4a_3x3", SamePool((3, 3, 3), (2, 2, 2))),
            "Mixed_5b": ("MaxPool3d_5a_2x2", SamePool((2, 2, 2), (2, 2, 2))),
        }
        for name, widths in _MIXED.items():
            if name in pools:
                pool_name, pool = pools[name]
                blocks[pool_name] = pool
            block = Mixed(channels, widths)
            blocks[name], channels = block, block.out_channels
        self.features = nn.Sequential(blocks)
        self.head = nn.Sequential(OrderedDict(conv=nn.Conv3d(channels, num_classes, 1)))

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Names of the layers with weights, first to last."""
        return tuple(name for name, block in self.features.named_children() if not isinstance(block, SamePool))

    def forward_endpoints(self, clip: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Run the network up to the last of ``names``.

        Args:
            clip: float [B, 3, T, H, W] in [-1, 1].
            names: Some of :attr:`endpoints`.

        Returns:
            The output of each as [B, C, t, h, w]; ``Mixed_5c`` is [B, 1024, ceil(T/8), ceil(H/32), ceil(W/32)].
        """
        outputs: dict[str, Tensor] = {}
        x = clip
        for name, block in self.features.named_children():
            x = block(x)
            if name in names:
                outputs[name] = x
            if len(outputs) == len(set(names)):
                break
        return outputs

    def forward(self, clip: Tensor) -> Tensor:
        """Class logits [B, num_classes] of clips float [B, 3, T, H, W] in [-1, 1], T >= 9 and H, W >= 193.

        The head reads an average pool of 2 x 7 x 7 positions at stride 1 and averages its logits over the remaining
        positions.
        """
        pooled = functional.avg_pool3d(self.features(clip), kernel_size=(2, 7, 7), stride=1)
        logits: Tensor = self.head(pooled)
        return logits.mean(dim=(2, 3, 4))
