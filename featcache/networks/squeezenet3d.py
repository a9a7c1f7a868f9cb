"""3-D SqueezeNet 1.1 with bypasses (Köpüklü et al., arXiv:1904.02422): 1,837,760 parameters.

From 16 frames of 112 pixels to 1 x 4 x 4 x 512.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.misc import Conv3dNormActivation

from featcache.networks.clip_network import StackedNetwork, scaled

STEM = 64
FIRES = ((16, 64), (32, 128), (48, 192), (64, 256))
"""Squeezed channels, and channels of either expansion, of each pair of modules; a pool goes before each pair."""
LAYERS = ("features.0", "features.3", "features.6", "features.9", "features.12")


class Fire(nn.Module):
    """A squeeze, and two expansions of it side by side; plus the input if there is a bypass."""

    def __init__(self, channels: int, squeezed: int, expanded: int, *, has_bypass: bool) -> None:
        super().__init__()
        self.has_bypass = has_bypass
        self.squeeze = Conv3dNormActivation(channels, squeezed, 1, bias=True)
        self.expand1x1 = Conv3dNormActivation(squeezed, expanded, 1, activation_layer=None, bias=True)
        self.expand3x3 = Conv3dNormActivation(squeezed, expanded, 3, activation_layer=None, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, t, h, w] to [B, D, t, h, w]."""
        squeezed = self.squeeze(x)
        y = torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], dim=1)
        return functional.relu(y + x if self.has_bypass else y, inplace=True)


def build(width: float = 1.0) -> StackedNetwork:
    """Build the network; ``width`` is a factor on the numbers of channels."""
    before = scaled(STEM, width)
    features: list[nn.Module] = [Conv3dNormActivation(3, before, 3, stride=(1, 2, 2), bias=True)]
    for squeezed, expanded in ((scaled(squeezed, width), scaled(expanded, width)) for squeezed, expanded in FIRES):
        features.append(nn.MaxPool3d(3, stride=2, padding=1))
        features.append(Fire(before, squeezed, expanded, has_bypass=False))
        before = 2 * expanded
        features.append(Fire(before, squeezed, expanded, has_bypass=True))
    network = StackedNetwork({"features": nn.Sequential(*features)}, layers=LAYERS, channels=before, width=width)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return network
