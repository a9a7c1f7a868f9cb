"""What the 3-D networks of clips have in common: a last map, and the vector of it that heads read."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

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


class ClipNetwork(nn.Module):
    """A network from clips to a map and a vector.

    Attributes:
        layers: Names that :meth:`forward_layers` accepts, first to last; the last one is the last map.
        width: Number of channels of the vector.
        projection: From the average of the last map to the vector.
        min_frames: Number of frames of the shortest clip.
    """

    layers: tuple[str, ...]
    width: int
    projection: nn.Module
    min_frames: int = 1

    def forward(self, pixels: Tensor) -> ClipFeatures:
        """The last map and the vector of clips, float [B, 3, T, S, S], normalised."""
        last = self.layers[-1]
        found = self.forward_layers(pixels, [last])[last]
        return ClipFeatures(map=found, vector=self.vector_of(found))

    @abstractmethod
    def forward_layers(self, pixels: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """The maps [B, C, t, h, w] of some :attr:`layers`; runs the network no further than the last of them."""

    def vector_of(self, last: Tensor) -> Tensor:
        """The vector [B, width] of the last map [B, C, t, h, w]."""
        vector: Tensor = self.projection(last.mean(dim=(2, 3, 4)))
        return vector


class StackedNetwork(ClipNetwork):
    """A network whose parts run one after the other; layers are parts, or members of a part."""

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        *,
        layers: Sequence[str],
        channels: int,
        width: float,
        min_frames: int = 1,
    ) -> None:
        """Stack parts.

        Args:
            parts: Modules by name, in order; the members of a plain ``nn.Sequential`` are steps of their own.
            layers: Names of layers, e.g. ``conv2`` or ``features.3``; the last one is the last that runs.
            channels: Number of channels of the last map.
            width: Factor on the number of channels of the vector, 512.
            min_frames: Number of frames of the shortest clip.
        """
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._steps = tuple(step for name, part in parts.items() for step in _steps(name, part))
        self.layers, self.min_frames = tuple(layers), min_frames
        assert self.layers[-1] == self._steps[-1], f"{self.layers[-1]} is not the last of {self._steps}"
        self.width = scaled(VECTOR_CHANNELS, width)
        self.projection = nn.Identity() if channels == self.width else nn.Linear(channels, self.width)

    def forward_layers(self, pixels: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """See :meth:`ClipNetwork.forward_layers`."""
        return run_steps(self, pixels, self._steps, layers)


def run_steps(module: nn.Module, x: Tensor, steps: Sequence[str], wanted: Collection[str]) -> dict[str, Tensor]:
    """Run submodules one after the other, keep the outputs of the wanted ones, and stop after the last of them."""
    kept: dict[str, Tensor] = {}
    for step in steps:
        x = module.get_submodule(step)(x)
        if step in wanted:
            kept[step] = x
        if len(kept) == len(wanted):
            break
    return kept


def _steps(name: str, part: nn.Module) -> list[str]:
    """Names of what runs one after the other."""
    return [f"{name}.{place}" for place in range(len(part))] if type(part) is nn.Sequential else [name]


def scaled(channels: int, width: float, *, multiple: int = 1) -> int:
    """A number of channels times ``width``, rounded to a multiple, and at least one multiple."""
    return multiple * max(1, round(channels * width / multiple))
