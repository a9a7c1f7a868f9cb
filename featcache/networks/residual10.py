"""A 3-D ResNet of one basic block per stage, with whole or factored convolutions: nine convolutions and a linear layer.

Modules have the names of VCOP's code (Xu et al., CVPR 2019), in which its own weights and those of PRP and RSPNet are
published. torchvision's ``r3d_18`` and ``r2plus1d_18`` are other networks, of two blocks per stage.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from featcache.networks.clip_network import StackedNetwork, scaled

STAGES = (64, 128, 256, 512)
LAYERS = ("relu1", "conv2", "conv3", "conv4", "conv5")

Size = tuple[int, int, int]
Convolution = Callable[[int, int, Size, Size], nn.Module]
"""Takes channels in and out, kernel and stride (t, h, w); pads to half of the kernel, and has no bias."""


class Block(nn.Module):
    """Two convolutions over 3 x 3 x 3 and a shortcut; with a stride of 2 the shortcut is a convolution as well."""

    def __init__(self, channels_in: int, channels_out: int, *, is_strided: bool, convolution: Convolution) -> None:
        super().__init__()
        stride = (2, 2, 2) if is_strided else (1, 1, 1)
        self.is_strided = is_strided
        if is_strided:
            self.downsampleconv = convolution(channels_in, channels_out, (1, 1, 1), stride)
            self.downsamplebn = nn.BatchNorm3d(channels_out)
        self.conv1 = convolution(channels_in, channels_out, (3, 3, 3), stride)
        self.bn1 = nn.BatchNorm3d(channels_out)
        self.conv2 = convolution(channels_out, channels_out, (3, 3, 3), (1, 1, 1))
        self.bn2 = nn.BatchNorm3d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, t, h, w] to [B, D, t, h, w], or half of each size, rounded up."""
        shortcut = self.downsamplebn(self.downsampleconv(x)) if self.is_strided else x
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(shortcut + self.bn2(self.conv2(x)), inplace=True)


class Stage(nn.Module):
    """One block, under the name that it has in stages of several."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block1 = block

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        y: Tensor = self.block1(x)
        return y


def build_residual10(width: float, *, convolution: Convolution) -> StackedNetwork:
    """Build the network.

    Args:
        width: Factor on the numbers of channels.
        convolution: Kind of convolution.
    """
    channels = [scaled(stage, width) for stage in STAGES]
    parts: dict[str, nn.Module] = {
        "conv1": convolution(3, channels[0], (3, 7, 7), (1, 2, 2)),
        "bn1": nn.BatchNorm3d(channels[0]),
        "relu1": nn.ReLU(inplace=True),
    }
    before = channels[0]
    for index, after in enumerate(channels):
        parts[f"conv{index + 2}"] = Stage(Block(before, after, is_strided=index > 0, convolution=convolution))
        before = after
    return StackedNetwork(parts, layers=LAYERS, channels=before, width=width)


def half(kernel: Size) -> Size:
    """The padding that keeps sizes."""
    return kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
