"""Shapes of set predictors, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from featcache.errors import ConfigError
from featcache.recipes import PositionForm

Kind = Literal["r3d", "conv3d", "swin", "transformer", "skip"]

NUM_NUMBERS: dict[PositionForm, int] = {"box6": 6, "code7": 7}
HEAD_WIDTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPredictorSettings:
    """A transformer over a set of clips with coordinates (SCALE §3.1; the defaults are the released ones).

    Attributes:
        width: Width of a token.
        depth: Number of blocks.
        heads: Number of attention heads; ``None``: width / 32.
        mlp_ratio: Hidden width of a block's MLP as a multiple of ``width``.
        dropout: Dropout rate on attention weights, attention output and MLP.
        position: ``box6``: the six numbers of Eq. 5. ``code7``: the released code's seven.
        position_hidden: Hidden width of the MLP over a position.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    width: int = 256
    depth: int = 2
    heads: int | None = None
    mlp_ratio: float = 2.0
    dropout: float = 0.1
    position: PositionForm = "box6"
    position_hidden: int = 512

    def __post_init__(self) -> None:
        if self.position not in get_args(PositionForm):
            raise ConfigError(
                f"predictor.position is {self.position!r}; choose from {', '.join(get_args(PositionForm))}"
            )
        for name in ("width", "depth", "position_hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"predictor.{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_heads < 1 or self.width % self.num_heads:
            wanted = f"a multiple of {HEAD_WIDTH}" if self.heads is None else f"a multiple of {self.heads} heads"
            raise ConfigError(f"predictor.width is {self.width}; it must be {wanted}")
        if not self.mlp_ratio * self.width >= 1:
            raise ConfigError(f"predictor.mlp_ratio is {self.mlp_ratio}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"predictor.dropout is {self.dropout}; it must be in [0, 1)")

    @property
    def num_heads(self) -> int:
        """Number of attention heads."""
        if self.heads is not None:
            return self.heads
        return self.width // HEAD_WIDTH if self.width % HEAD_WIDTH == 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TmmSettings:
    """A temporal modelling module and its head (AdViSe §3.1).

    Attributes:
        kind: ``r3d``: bottleneck residual blocks. ``conv3d``: two plain 3 x 3 x 3 convolutions with SiLU. ``swin``: one
            Video-Swin stage. ``transformer``: pre-norm encoder layers over all T x H x W tokens. ``skip``: no module,
            so that the head reads averaged features.
        hidden: Number of channels inside an r3d block.
        out: Number of output channels; ``swin``, ``transformer`` and ``skip`` keep the number of input channels.
        num_blocks: Number of r3d blocks, or of layers of ``swin`` and ``transformer``.
        temporal_kernel: Temporal kernel size of the first convolution of an r3d block. With 1, as released, frames are
            not mixed and the module ignores their order. 3 is the usual size in the later stages of a slow pathway.
        last_activation: Whether SiLU follows the second convolution of ``conv3d``, too; false as released.
        heads: Number of attention heads of ``swin`` and ``transformer``, 6 as released; ``None``: the largest number
            that divides the channels, at most 6 for ``swin`` and 8 for ``transformer``.
        mlp_hidden: Hidden width of the MLP of a ``transformer`` layer, 256 as released; ``None``: four times the
            channels.
        qkv_bias: Whether queries, keys and values of ``swin`` have biases; false as released.
        head_hidden: Width between the head's two layers; ``None``: the head is a single linear layer.
        dropout: Dropout rate before the head's last layer.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Kind = "r3d"
    hidden: int = 256
    out: int = 512
    num_blocks: int = 4
    temporal_kernel: int = 1
    last_activation: bool = True
    heads: int | None = None
    mlp_hidden: int | None = None
    qkv_bias: bool = True
    head_hidden: int | None = 1024
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"tmm.kind is {self.kind!r}; choose from {', '.join(get_args(Kind))}")
        for name in ("hidden", "out", "num_blocks", "heads", "mlp_hidden", "head_hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"tmm.{name} is {value}; it must be at least 1")
        if self.temporal_kernel < 1 or self.temporal_kernel % 2 == 0:
            raise ConfigError(f"tmm.temporal_kernel is {self.temporal_kernel}; it must be odd: 1, 3, 5")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"tmm.dropout is {self.dropout}; it must be in [0, 1)")


PRESETS: Mapping[str, TmmSettings] = {
    "ablation-256": TmmSettings(hidden=256, out=1024, num_blocks=1, head_hidden=2048),
    "ablation-2048": TmmSettings(hidden=2048, out=1024, num_blocks=1, head_hidden=2048),
    "release": TmmSettings(hidden=256, out=512, num_blocks=4, head_hidden=1024),
    "release-conv3d": TmmSettings(kind="conv3d", hidden=256, out=512, last_activation=False, head_hidden=1024),
    "release-swin": TmmSettings(kind="swin", num_blocks=4, heads=6, qkv_bias=False, head_hidden=1024),
    "release-transformer": TmmSettings(kind="transformer", num_blocks=1, heads=6, mlp_hidden=256, head_hidden=1024),
}
"""AdViSe's own modules: Table 3, Fig. 6 and Table 6 (``ablation-256``), Tables 1 and 2 and Fig. 4 (``ablation-2048``),
Table 8 and the released configuration (``release``), and the other kinds as the released code builds them with that
configuration."""
