"""VCOP: in which order were the clips of a video?

Source: Xu et al., CVPR 2019, as released: clips of consecutive frames with gaps of 8, each cut at a place of its own;
their order is one of all permutations in lexicographic order. The features of each two clips pass a common layer.

Differs: the authors draw the start from the sample's index when they validate; here every draw is a training draw.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from featcache.loaders.looks import LookSettings, draw_look
from featcache.loaders.views import ClipShape, strided_view
from featcache.methods.pretext.bench import BENCH_LOOK, Complexity
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.task import Draw, Footage, PretextTask, Seen
from featcache.training.objective import Loss, class_loss

CLIPS: Mapping[Complexity, int] = {"c1": 3, "c2": 4, "c3": 5}


class PairHead(nn.Module):
    """Logits of all orders of some clips, from their features; those of each two are looked at together."""

    def __init__(self, width: int, num_clips: int, *, dropout: float) -> None:
        super().__init__()
        self.pairs = tuple(itertools.combinations(range(num_clips), 2))
        num_orders = len(list(itertools.permutations(range(num_clips))))
        self.pair = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU())
        self.order = nn.Sequential(nn.Dropout(dropout), nn.Linear(width * len(self.pairs), num_orders))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits [B, orders] of the features [B, C] of each clip."""
        pairs = [self.pair(torch.cat([features[one], features[other]], dim=1)) for one, other in self.pairs]
        logits: Tensor = self.order(torch.cat(pairs, dim=1))
        return logits


class Vcop(PretextTask):
    """In which order were the clips of a video?"""

    name: Literal["vcop"] = "vcop"
    """The task."""
    complexity: Complexity = "c1"
    """``c1``: 3 clips, ``c2``: 4, ``c3``: 5."""
    stride: int = Field(default=1, ge=1)
    """Distance of a clip's frames, in frames of the video."""
    gap: int = Field(default=8, ge=0)
    """Number of frames between clips."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout before the last layer."""
    look: LookSettings = BENCH_LOOK
    """How each clip is cut, mirrored and coloured; drawn for each."""

    @property
    def chance(self) -> float:
        """One of the orders."""
        return 1 / len(self._orders)

    @property
    def _orders(self) -> list[tuple[int, ...]]:
        return list(itertools.permutations(range(CLIPS[self.complexity])))

    def min_frames(self, shape: ClipShape) -> int:
        """Number of frames from the first clip's start to the last one's end."""
        return self._distance(shape) * CLIPS[self.complexity] - self.gap

    def draw(self, footage: Footage, shape: ClipShape, rng: np.random.Generator) -> Draw:
        """The clips in one of their orders."""
        start = int(rng.integers(footage.num_frames - self.min_frames(shape) + 1))
        answer = int(rng.integers(len(self._orders)))
        views = [
            strided_view(
                start + place * self._distance(shape),
                self.stride,
                shape,
                draw_look(self.look, rng, height=footage.height, width=footage.width),
            )
            for place in self._orders[answer]
        ]
        return Draw(views=tuple(views), targets={"order": answer})

    def _distance(self, shape: ClipShape) -> int:
        """From the start of a clip to that of the next one, in frames."""
        return (shape.num_frames - 1) * self.stride + 1 + self.gap

    def heads(self, width: int) -> Mapping[str, nn.Module]:
        """The layer of each two clips, and that of all of them."""
        return {"order": PairHead(width, CLIPS[self.complexity], dropout=self.dropout)}

    def loss(self, module: PretextModule, clips: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> Loss:
        """Cross-entropy over the orders."""
        return class_loss(module.heads["order"]([module.features(clip) for clip in clips]), targets["order"])

    def label_of(self, seen: tuple[Seen, ...]) -> Mapping[str, int]:
        """The order that the numbers of the first frames show."""
        starts = [each.frames[0] for each in seen]
        return {"order": self._orders.index(tuple(sorted(starts).index(start) for start in starts))}
