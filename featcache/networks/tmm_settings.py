"""Shapes of temporal modules, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from featcache.errors import ConfigError

Kind = Literal["r3d", "conv3d", "swin", "transformer", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TmmSettings:
    """A temporal modelling module and its head (AdViSe §3.1).

    Attributes:
        kind: ``r3d``: bottleneck residual blocks. ``conv3d``: two plain 3 x 3 x 3 convolutions with SiLU. ``swin``: one
            Video-Swin stage. ``transformer``: one pre-norm encoder layer over all T x H x W tokens. ``skip``: nothing,
            so that the head sees averaged features.
        hidden: Channels inside an r3d block.
        out: Channels that come out; ``swin``, ``transformer`` and ``skip`` keep those that go in.
        num_blocks: r3d blocks, or layers of ``swin`` and ``transformer``.
        temporal_kernel: Frames that the first convolution of an r3d block sees. 1, as released, mixes no frames: the
            module is then blind to their order. 3 is the usual form of a slow pathway's later stages.
        head_hidden: Width between the head's two layers.
        dropout: Before the head's last layer.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Kind = "r3d"
    hidden: int = 256
    out: int = 512
    num_blocks: int = 4
    temporal_kernel: int = 1
    head_hidden: int = 1024
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"tmm.kind is {self.kind!r}; choose from {', '.join(get_args(Kind))}")
        for name in ("hidden", "out", "num_blocks", "head_hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tmm.{name} is {getattr(self, name)}; it must be at least 1")
        if self.temporal_kernel < 1 or self.temporal_kernel % 2 == 0:
            raise ConfigError(f"tmm.temporal_kernel is {self.temporal_kernel}; it must be odd: 1, 3, 5")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"tmm.dropout is {self.dropout}; it must be in [0, 1)")


PRESETS: Mapping[str, TmmSettings] = {
    "ablation-256": TmmSettings(hidden=256, out=1024, num_blocks=1, head_hidden=2048),
    "ablation-2048": TmmSettings(hidden=2048, out=1024, num_blocks=1, head_hidden=2048),
    "release": TmmSettings(hidden=256, out=512, num_blocks=4, head_hidden=1024),
}
"""AdViSe's own sizes: Table 3, Fig. 6 and Table 6 (``ablation-256``), Tables 1 and 2 and Fig. 4 (``ablation-2048``),
Table 8 and the released configuration (``release``)."""
