"""Slow R50: the slow pathway of SlowFast alone (Feichtenhofer et al., arXiv:1812.03982), named as in PySlowFast.

A ResNet-50 in which the first convolution of each bottleneck of the last two stages spans three frames. It is the
network of rho-BYOL (Feichtenhofer et al., arXiv:2104.14558) and AdViSe's R3D-50.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from featcache.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowR50Config:
    """Sizes of the network.

    Attributes:
        width: Number of channels of the stem; the stages have 4, 8, 16 and 32 times as many.
        depths: Numbers of blocks of the four stages.
        stem_kernel: Number of frames that the stem spans, odd.
        temporal_kernels: Number of frames that the first convolution of a block spans in each stage, odd.
    """

    width: int = 64
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    stem_kernel: int = 1
    temporal_kernels: tuple[int, int, int, int] = (1, 1, 3, 3)

    def __post_init__(self) -> None:
        for kernel in (self.stem_kernel, *self.temporal_kernels):
            if kernel < 1 or kernel % 2 == 0:
                raise ConfigError(f"temporal kernel {kernel} is not odd and positive; use 1, 3 or 5")


class Stem(nn.Module):
    """Convolution, batch norm, ReLU and max pool: [B, 3, T, H, W] to [B, C, T, ceil(H / 4), ceil(W / 4)]."""

    def __init__(self, width: int, *, kernel: int) -> None:
        super().__init__()
        self.conv = _conv(3, width, (kernel, 7, 7), stride=2)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stem."""
        x = functional.relu(self.bn(self.conv(x)), inplace=True)
        return functional.max_pool3d(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))


class Bottleneck(nn.Module):
    """Kernels (k, 1, 1), (1, 3, 3) and (1, 1, 1), each with batch norm, ReLU between; the second has the stride."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        inner = out_channels // 4
        self.a = _conv(in_channels, inner, (kernel, 1, 1))
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = _conv(inner, inner, (1, 3, 3), stride=stride)
        self.b_bn = nn.BatchNorm3d(inner)
        self.c = _conv(inner, out_channels, (1, 1, 1))
        self.c_bn = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, D, T, ceil(H / s), ceil(W / s)], without the residual."""
        x = functional.relu(self.a_bn(self.a(x)), inplace=True)
        x = functional.relu(self.b_bn(self.b(x)), inplace=True)
        y: Tensor = self.c_bn(self.c(x))
        return y


class ResidualBlock(nn.Module):
    """A bottleneck plus the identity, or plus a 1 x 1 x 1 projection if the bottleneck changes the shape."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.is_projected = in_channels != out_channels or stride != 1
        if self.is_projected:
            self.branch1 = _conv(in_channels, out_channels, (1, 1, 1), stride=stride)
            self.branch1_bn = nn.BatchNorm3d(out_channels)
        self.branch2 = Bottleneck(in_channels, out_channels, kernel=kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, D, T, ceil(H / s), ceil(W / s)]."""
        shortcut = self.branch1_bn(self.branch1(x)) if self.is_projected else x
        return functional.relu(shortcut + self.branch2(x), inplace=True)


class SlowR50(nn.Module):
    """The network without a head; 31,634,496 parameters.

    Args:
        config: Sizes of the network.

    Attributes:
        stages: Names that :meth:`forward_stages` accepts: ``s2`` to ``s5`` (res2 to res5).
        width: Number of channels of the last stage.
    """

    def __init__(self, config: SlowR50Config | None = None) -> None:
        super().__init__()
        self.config = config or SlowR50Config()
        self.s1 = nn.Sequential(OrderedDict(pathway0_stem=Stem(self.config.width, kernel=self.config.stem_kernel)))
        self.stages = ("s2", "s3", "s4", "s5")
        channels = self.config.width
        for index, (name, depth) in enumerate(zip(self.stages, self.config.depths, strict=True)):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            out_channels = self.config.width * 4 * 2**index
            for block in range(depth):
                blocks[f"pathway0_res{block}"] = ResidualBlock(
                    channels,
                    out_channels,
                    kernel=self.config.temporal_kernels[index],
                    stride=2 if index and not block else 1,
                )
                channels = out_channels
            self.add_module(name, nn.Sequential(blocks))
        self.width = channels
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> Tensor:
        """The average of the last stage over time and space, float [B, 32 * width] (2048).

        Args:
            clip: float [B, T, 3, H, W], normalised, of any size.
        """
        return self.forward_stages(clip, ["s5"])["s5"].mean(dim=(1, 2, 3))

    def forward_stages(self, clip: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Run the network up to the last of ``names``.

        Args:
            clip: float [B, T, 3, H, W], normalised, of any size.
            names: Some of :attr:`stages`.

        Returns:
            The output of each as [B, T, h, w, C]: C is 256, 512, 1024, 2048 and h is ceil(H / 4), / 8, / 16, / 32.
        """
        outputs: dict[str, Tensor] = {}
        x: Tensor = self.s1(clip.transpose(1, 2).contiguous())
        for name in self.stages:
            if len(outputs) == len(set(names)):
                break
            x = self.get_submodule(name)(x)
            if name in names:
                outputs[name] = x.permute(0, 2, 3, 4, 1)
        return outputs


def _conv(in_channels: int, out_channels: int, kernel: tuple[int, int, int], *, stride: int = 1) -> nn.Conv3d:
    """A convolution without bias, padded to keep the size; the stride applies to space."""
    time, height, width = (size // 2 for size in kernel)
    return nn.Conv3d(
        in_channels, out_channels, kernel, stride=(1, stride, stride), padding=(time, height, width), bias=False
    )
