"""R(2+1)D of VCOP, PRP and RSPNet: 14,365,303 parameters. From 16 frames of 112 pixels to 2 x 7 x 7 x 512.

The skeleton of :mod:`featcache.networks.r3d`, in which each convolution is one over space and then one over time. The
channels between them are as many as keep the number of weights of the whole convolution, counted for each convolution;
torchvision counts them once per block.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from featcache.networks.clip_network import StackedNetwork
from featcache.networks.residual10 import Size, build_residual10, half


class FactoredConv(nn.Module):
    """A convolution over space, BatchNorm, ReLU, a convolution over time."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Size, stride: Size) -> None:
        super().__init__()
        (time, *_), (pad_time, pad_height, pad_width) = kernel, half(kernel)
        between = channels_between(channels_in, channels_out, kernel)
        self.spatial_conv = nn.Conv3d(
            channels_in,
            between,
            (1, *kernel[1:]),
            stride=(1, *stride[1:]),
            padding=(0, pad_height, pad_width),
            bias=False,
        )
        self.bn = nn.BatchNorm3d(between)
        self.temporal_conv = nn.Conv3d(
            between, channels_out, (time, 1, 1), stride=(stride[0], 1, 1), padding=(pad_time, 0, 0), bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [B, C, t, h, w]."""
        y: Tensor = self.temporal_conv(functional.relu(self.bn(self.spatial_conv(x)), inplace=True))
        return y


def channels_between(channels_in: int, channels_out: int, kernel: Size) -> int:
    """Number of channels with which both factors together have as many weights as the whole convolution, or fewer."""
    time, height, width = kernel
    whole = math.prod(kernel) * channels_in * channels_out
    return whole // (height * width * channels_in + time * channels_out)


def build(width: float = 1.0) -> StackedNetwork:
    """Build the network; ``width`` is a factor on the numbers of channels."""
    return build_residual10(width, convolution=FactoredConv)
