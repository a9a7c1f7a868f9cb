"""3-D MobileNetV2 1.0x (Köpüklü et al., arXiv:1904.02422): 2,354,048 parameters and the projection.

From 16 frames of 112 pixels to 1 x 4 x 4 x 1280, and a vector of 512 by a linear layer.
"""

from torch import Tensor, nn
from torchvision.ops.misc import Conv3dNormActivation

from featcache.networks.clip_network import StackedNetwork, scaled

STEM, LAST = 32, 1280
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, number of units and stride of each stage."""
LAYERS = ("features.0", "features.3", "features.6", "features.10", "features.17", "features.18")


class InvertedResidual(nn.Module):
    """Expansion, a convolution of each channel, a linear projection; plus the input where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        between = channels_in * expansion
        parts: list[nn.Module] = []
        if expansion != 1:
            parts.append(_conv(channels_in, between, kernel=1))
        parts.append(_conv(between, between, kernel=3, stride=(stride, stride, stride), groups=between))
        parts.append(Conv3dNormActivation(between, channels_out, 1, activation_layer=None))
        self.conv = nn.Sequential(*parts)
        self.is_residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, t, h, w] to [B, D, t, h, w], or half of each size, rounded up."""
        y: Tensor = self.conv(x)
        return x + y if self.is_residual else y


def build(width: float = 1.0) -> StackedNetwork:
    """Build the network; ``width`` is a factor on the numbers of channels."""
    before = scaled(STEM, width)
    features: list[nn.Module] = [_conv(3, before, kernel=3, stride=(1, 2, 2))]
    for expansion, channels, num_units, stride in STAGES:
        after = scaled(channels, width)
        for index in range(num_units):
            features.append(InvertedResidual(before, after, expansion=expansion, stride=1 if index else stride))
            before = after
    last = scaled(LAST, width)
    features.append(_conv(before, last, kernel=1))
    network = StackedNetwork({"features": nn.Sequential(*features)}, layers=LAYERS, channels=last, width=width)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _conv(
    channels_in: int, channels_out: int, *, kernel: int, stride: tuple[int, int, int] = (1, 1, 1), groups: int = 1
) -> nn.Module:
    """Convolution, BatchNorm, ReLU6."""
    unit: nn.Module = Conv3dNormActivation(
        channels_in, channels_out, kernel, stride=stride, groups=groups, activation_layer=nn.ReLU6
    )
    return unit
