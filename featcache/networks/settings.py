"""Shapes of set predictors, without torch."""

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from featcache.errors import ConfigError
from featcache.recipes import PositionForm

NUM_NUMBERS: dict[PositionForm, int] = {"box6": 6, "code7": 7}
HEAD_WIDTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPredictorSettings:
    """A transformer over a set of clips with coordinates (SCALE §3.1; the defaults are the released ones).

    Attributes:
        width: Width of a token.
        depth: Blocks.
        heads: Attention heads; ``None``: width / 32.
        mlp_ratio: Hidden width of a block's MLP over ``width``.
        dropout: On attention, its output and the MLP.
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
        """Attention heads."""
        if self.heads is not None:
            return self.heads
        return self.width // HEAD_WIDTH if self.width % HEAD_WIDTH == 0 else 0
