"""The temporal modelling module: a small trained network over the dense maps of a frozen image backbone.

Source: AdViSe, §3.1 and Fig. 3; the block is the bottleneck of a slow pathway (Feichtenhofer et al., ICCV 2019). With
``temporal_kernel`` 1, as released, frames are combined only by the head's average: at test time any order of them gives
the same logits. The options are described in :class:`featcache.networks.settings.TmmSettings`.
"""

from functools import partial
from typing import Self

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from featcache.errors import ConfigError
from featcache.networks.settings import TmmSettings

SWIN_WINDOW = (4, 7, 7)
SWIN_HEADS = 6
TRANSFORMER_HEADS = 8
TRANSFORMER_DROPOUT = 0.1


class Bottleneck3d(nn.Module):
    """A residual bottleneck: (kt, 1, 1), (1, 3, 3), (1, 1, 1), each with BatchNorm; strides 1, no biases.

    The shortcut is the identity if the widths agree, otherwise a (1, 1, 1) convolution with BatchNorm. ReLU follows the
    first two convolutions and the sum.
    """

    def __init__(self, width_in: int, *, hidden: int, out: int, temporal_kernel: int) -> None:
        super().__init__()
        self.a = nn.Conv3d(width_in, hidden, (temporal_kernel, 1, 1), padding=(temporal_kernel // 2, 0, 0), bias=False)
        self.a_bn = nn.BatchNorm3d(hidden)
        self.b = nn.Conv3d(hidden, hidden, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.b_bn = nn.BatchNorm3d(hidden)
        self.c = nn.Conv3d(hidden, out, 1, bias=False)
        self.c_bn = nn.BatchNorm3d(out)
        self.shortcut = (
            nn.Identity()
            if width_in == out
            else nn.Sequential(nn.Conv3d(width_in, out, 1, bias=False), nn.BatchNorm3d(out))
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, out, T, H, W]."""
        branch = functional.relu(self.a_bn(self.a(maps)))
        branch = functional.relu(self.b_bn(self.b(branch)))
        return functional.relu(self.c_bn(self.c(branch)) + self.shortcut(maps))


class PlainConv3d(nn.Module):
    """Two convolutions, 3 x 3 x 3, or 1 x 1 x 1 on maps of a single position; SiLU after the first or after both."""

    def __init__(self, width_in: int, *, hidden: int, out: int, grid: int, last_activation: bool) -> None:
        super().__init__()
        self._last_activation = last_activation
        kernel = 1 if grid == 1 else 3
        self.first = nn.Conv3d(width_in, hidden, kernel, padding=kernel // 2)
        self.second = nn.Conv3d(hidden, out, kernel, padding=kernel // 2)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, out, T, H, W]."""
        convolved: Tensor = self.second(functional.silu(self.first(maps)))
        return functional.silu(convolved) if self._last_activation else convolved


class SwinStage(nn.Module):
    """One stage of Video Swin (Liu et al., CVPR 2022) with windows of 4 x 7 x 7."""

    def __init__(self, width: int, *, num_blocks: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(
                    width,
                    num_heads,
                    window_size=list(SWIN_WINDOW),
                    shift_size=[0 if index % 2 == 0 else side // 2 for side in SWIN_WINDOW],
                    attn_layer=partial(ShiftedWindowAttention3d, qkv_bias=qkv_bias),
                )
                for index in range(num_blocks)
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, T, H, W] to the same."""
        tokens: Tensor = self.blocks(maps.permute(0, 2, 3, 4, 1).contiguous())
        return tokens.permute(0, 4, 1, 2, 3)


class TransformerStage(nn.Module):
    """Pre-norm encoder layers over all T x H x W tokens with dropout 0.1 and without positions, as released."""

    def __init__(self, width: int, *, num_blocks: int, num_heads: int, mlp_hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                num_heads,
                dim_feedforward=mlp_hidden,
                dropout=TRANSFORMER_DROPOUT,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(num_blocks)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, T, H, W] to the same."""
        tokens = maps.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens.transpose(1, 2).reshape(maps.shape)


class Tmm(nn.Module):
    """The temporal module without a head.

    Attributes:
        width_in: Number of input channels.
        width_out: Number of output channels.
        blocks: The layers, in order.
    """

    def __init__(self, settings: TmmSettings, *, width_in: int, grid: int) -> None:
        super().__init__()
        self.width_in = width_in
        self.width_out = settings.out if settings.kind in ("r3d", "conv3d") else width_in
        self.blocks = nn.Sequential(*_layers(settings, width_in=width_in, grid=grid))

    def forward(self, maps: Tensor) -> Tensor:
        """Float [B, C, T, H, W] to [B, width_out, T, H, W].

        Raises:
            ConfigError: The maps have another width than those the module was made for.
        """
        if maps.shape[1] != self.width_in:
            raise ConfigError(
                f"these features have {maps.shape[1]} channels and the module was trained on {self.width_in}; choose a "
                "feature of that width, or train another module"
            )
        output: Tensor = self.blocks(maps)
        return output


class PooledMlpHead(nn.Module):
    """Average over time and space, then FC without bias, BatchNorm, ReLU, (dropout,) FC: AdViSe §3.1.

    Without a hidden width only the last FC follows the average.
    """

    def __init__(self, width_in: int, *, hidden: int | None, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Identity() if hidden is None else nn.Linear(width_in, hidden, bias=False)
        self.bn = nn.Identity() if hidden is None else nn.BatchNorm1d(hidden)
        self.activation = nn.Identity() if hidden is None else nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden or width_in, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, T, H, W] to logits [B, num_classes]."""
        pooled = maps.mean(dim=(2, 3, 4))
        logits: Tensor = self.fc2(self.dropout(self.activation(self.bn(self.fc1(pooled)))))
        return logits


class TmmClassifier(nn.Module):
    """A temporal module with its head; each task gets a new head, while the module is kept.

    Attributes:
        tmm: The module. If it is frozen, it has no gradients and stays in evaluation mode.
        head: The head.
    """

    def __init__(
        self, settings: TmmSettings, *, width_in: int, grid: int, num_classes: int, is_frozen: bool = False
    ) -> None:
        super().__init__()
        self._is_frozen = is_frozen
        self.tmm = Tmm(settings, width_in=width_in, grid=grid).requires_grad_(not is_frozen)
        self.head = PooledMlpHead(
            self.tmm.width_out, hidden=settings.head_hidden, num_classes=num_classes, dropout=settings.dropout
        )

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but never for a frozen module."""
        super().train(mode)
        if self._is_frozen:
            self.tmm.eval()
        return self

    def forward(self, maps: Tensor) -> Tensor:
        """Map stored feature maps, float [B, T, H, W, C], to logits [B, num_classes]."""
        logits: Tensor = self.head(self.tmm(maps.permute(0, 4, 1, 2, 3)))
        return logits


def _layers(settings: TmmSettings, *, width_in: int, grid: int) -> list[nn.Module]:
    if settings.kind == "r3d":
        widths = [width_in, *[settings.out] * (settings.num_blocks - 1)]
        return [
            Bottleneck3d(width, hidden=settings.hidden, out=settings.out, temporal_kernel=settings.temporal_kernel)
            for width in widths
        ]
    if settings.kind == "conv3d":
        return [
            PlainConv3d(
                width_in,
                hidden=settings.hidden,
                out=settings.out,
                grid=grid,
                last_activation=settings.last_activation,
            )
        ]
    if settings.kind == "swin":
        heads = _num_heads(settings, width_in, at_most=SWIN_HEADS)
        return [SwinStage(width_in, num_blocks=settings.num_blocks, num_heads=heads, qkv_bias=settings.qkv_bias)]
    if settings.kind == "transformer":
        heads = _num_heads(settings, width_in, at_most=TRANSFORMER_HEADS)
        mlp_hidden = settings.mlp_hidden or 4 * width_in
        return [TransformerStage(width_in, num_blocks=settings.num_blocks, num_heads=heads, mlp_hidden=mlp_hidden)]
    return []


def _num_heads(settings: TmmSettings, width: int, *, at_most: int) -> int:
    """The requested number of heads, or the largest number that divides the width and is at most ``at_most``."""
    dividing = max(heads for heads in range(1, (settings.heads or at_most) + 1) if width % heads == 0)
    if settings.heads not in (None, dividing):
        raise ConfigError(f"tmm.heads is {settings.heads}, which does not divide {width} channels; use {dividing}")
    return dividing
