"""What the 3-D networks of clips have in common: a last map, and the vector of it that heads read."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

VECTOR_CHANNELS = 512
"""Number of channels of the vector at full width."""


class ClipFeatures(NamedTuple):
    """What a network makes of a batch of clips.

    Attributes:
        map: The last map, [B, C, t, h, w].
        vector: What heads read, [B, width]: the average of the map, through a linear layer where C is another number.
    """

    map: Tensor
    vector: Tensor


class ClipNetwork(Protocol):
    """A network from clips to a map and a vector; also an ``nn.Module``.

    Attributes:
        layers: Names that :meth:`forward_layers` accepts, first to last; the last one is the last map.
        width: Number of channels of the vector.
    """

    layers: tuple[str, ...]
    width: int

    def forward(self, pixels: Tensor) -> ClipFeatures:
        """The last map and the vector of clips, float [B, 3, T, S, S], normalised."""

    def forward_layers(self, pixels: Tensor, layers: Collection[str]) -> Mapping[str, Tensor]:
        """The maps [B, C, t, h, w] of some :attr:`layers`; runs the network no further than the last of them."""

    def vector_of(self, last: Tensor) -> Tensor:
        """The vector [B, width] of the last map [B, C, t, h, w]."""


class StackedNetwork(nn.Module):
    """A :class:`ClipNetwork` whose parts run one after the other.

    Attributes:
        layers: Names of the parts, or of those inside a part, whose outputs can be read.
        width: Number of channels of the vector.
    """

    def __init__(
        self, parts: Mapping[str, nn.Module], *, layers: Sequence[str], channels: int, width: float = 1.0
    ) -> None:
        """Stack parts.

        Args:
            parts: Modules by name, in order; the members of an ``nn.Sequential`` are layers of their own.
            layers: Names of layers, e.g. ``conv2`` or ``features.3``; the last one is the last that runs.
            channels: Number of channels of the last map.
            width: Factor on the number of channels of the vector, 512.
        """
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._steps = tuple(step for name, part in parts.items() for step in _steps(name, part))
        self.layers = tuple(layers)
        assert self.layers[-1] == self._steps[-1], f"{self.layers[-1]} is not the last of {self._steps}"
        self.width = scaled(VECTOR_CHANNELS, width)
        self.projection = nn.Identity() if channels == self.width else nn.Linear(channels, self.width)

    def forward(self, pixels: Tensor) -> ClipFeatures:
        """The last map and the vector of clips, float [B, 3, T, S, S], normalised."""
        last = self.forward_layers(pixels, self.layers[-1:])[self.layers[-1]]
        return ClipFeatures(map=last, vector=self.vector_of(last))

    def forward_layers(self, pixels: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """The maps [B, C, t, h, w] of some :attr:`layers`; runs the network no further than the last of them."""
        maps: dict[str, Tensor] = {}
        x = pixels
        for step in self._steps:
            x = self.get_submodule(step)(x)
            if step in layers:
                maps[step] = x
            if len(maps) == len(layers):
                break
        return maps

    def vector_of(self, last: Tensor) -> Tensor:
        """The vector [B, width] of the last map [B, C, t, h, w]."""
        vector: Tensor = self.projection(last.mean(dim=(2, 3, 4)))
        return vector


def _steps(name: str, part: nn.Module) -> list[str]:
    """Names of what runs one after the other."""
    return [f"{name}.{place}" for place in range(len(part))] if isinstance(part, nn.Sequential) else [name]


def scaled(channels: int, width: float, *, multiple: int = 1) -> int:
    """A number of channels times ``width``, rounded to a multiple, and at least one multiple."""
    return multiple * max(1, round(channels * width / multiple))
