"""3-D ShuffleNet V1 2.0x with 3 groups (Köpüklü et al., arXiv:1904.02422): 3,606,288 parameters and the projection.

From 16 frames of 112 pixels to 1 x 4 x 4 x 1920, and a vector of 512 by a linear layer. The first unit has groups as
well, as in the published 2.0x network.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.misc import Conv3dNormActivation

from featcache.networks.clip_network import StackedNetwork, scaled

GROUPS = 3
STEM = 48
STAGES = ((480, 4), (960, 8), (1920, 4))
"""Channels and number of units of each stage."""
LAYERS = ("conv1", "layer1.3", "layer2.7", "layer3.3")


class Unit(nn.Module):
    """Two grouped convolutions with a shuffle and a convolution of each channel between, added or joined to the input.

    With a stride of 2 the input is averaged, and the unit makes only the channels that it lacks.
    """

    def __init__(self, channels_in: int, channels_out: int, *, is_strided: bool) -> None:
        super().__init__()
        self.is_strided = is_strided
        between, made = channels_out // 4, channels_out - channels_in if is_strided else channels_out
        self.squeeze = Conv3dNormActivation(channels_in, between, 1, groups=GROUPS)
        self.depthwise = Conv3dNormActivation(
            between, between, 3, stride=2 if is_strided else 1, groups=between, activation_layer=None
        )
        self.expand = Conv3dNormActivation(between, made, 1, groups=GROUPS, activation_layer=None)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, t, h, w] to [B, D, t, h, w], or to half of each size, rounded up."""
        y = self.expand(self.depthwise(shuffled(self.squeeze(x))))
        if not self.is_strided:
            return functional.relu(y + x, inplace=True)
        if x.shape[2] % 2:  # the published network takes multiples of 16 frames; for others the last one counts twice
            x = functional.pad(x, (0, 0, 0, 0, 0, 1), mode="replicate")
        averaged = functional.avg_pool3d(x, (2, 3, 3), stride=2, padding=(0, 1, 1))
        return functional.relu(torch.cat([y, averaged], dim=1), inplace=True)


def shuffled(x: Tensor) -> Tensor:
    """The first channel of each group, then the second of each, and so on."""
    return torch.unflatten(x, 1, (GROUPS, -1)).transpose(1, 2).flatten(1, 2)


def build(width: float = 1.0) -> StackedNetwork:
    """Build the network; ``width`` is a factor on the numbers of channels."""
    before = scaled(STEM, width, multiple=GROUPS)
    parts: dict[str, nn.Module] = {
        "conv1": Conv3dNormActivation(3, before, 3, stride=(1, 2, 2)),
        "maxpool": nn.MaxPool3d(3, stride=2, padding=1),
    }
    for index, (channels, num_units) in enumerate(STAGES):
        after = scaled(channels, width, multiple=4 * GROUPS)
        units = [Unit(before, after, is_strided=True)]
        units += [Unit(after, after, is_strided=False) for _ in range(num_units - 1)]
        parts[f"layer{index + 1}"] = nn.Sequential(*units)
        before = after
    return StackedNetwork(parts, layers=LAYERS, channels=before, width=width)
