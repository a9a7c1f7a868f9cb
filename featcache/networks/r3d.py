"""R3D of VCOP and PRP: a 3-D ResNet-10, 14,361,792 parameters. From 16 frames of 112 pixels to 2 x 7 x 7 x 512."""

from torch import Tensor, nn

from featcache.networks.clip_network import StackedNetwork
from featcache.networks.residual10 import Size, build_residual10, half


class WholeConv(nn.Module):
    """A convolution over time and space at once."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Size, stride: Size) -> None:
        super().__init__()
        self.temporal_spatial_conv = nn.Conv3d(
            channels_in, channels_out, kernel, stride=stride, padding=half(kernel), bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [B, C, t, h, w]."""
        y: Tensor = self.temporal_spatial_conv(x)
        return y


def build(width: float = 1.0) -> StackedNetwork:
    """Build the network; ``width`` is a factor on the numbers of channels."""
    return build_residual10(width, convolution=WholeConv)
