"""RSPNet: which clip is as fast as this one, and which is of the same video?

Source: Chen et al., AAAI 2021, as released: of two random stretches of a video, one is the query, at one of two speeds,
the other one is shown at both speeds to a key network. The motion head ranks the key of the same speed above that of
the other speed; the appearance head finds both among earlier keys of other videos.

Differs: each video's speed is drawn on its own, the authors give each half of a batch one speed; shorter videos than a
stretch are left out, the authors loop them. A queue goes on at its beginning, whatever the batch size, and keys pass in
``key_splits`` parts, so that one process has the shuffled BatchNorm for which the authors need several.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from featcache.loaders.looks import LookSettings, draw_look
from featcache.loaders.views import ClipShape, strided_view
from featcache.methods.pretext.bench import BENCH_LOOK
from featcache.methods.pretext.info_nce import info_nce
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.task import Draw, Follow, Footage, PretextTask, Seen
from featcache.training.objective import Loss


class Rspnet(PretextTask):
    """Which clip is as fast as this one, and which is of the same video?"""

    name: Literal["rspnet"] = "rspnet"
    """The task."""
    speed: int = Field(default=2, ge=2)
    """The faster of the two speeds, in frames of the video; the other one is 1."""
    channels: int = Field(default=128, ge=1)
    """Number of channels that are compared."""
    temperature: float = Field(default=0.07, gt=0)
    """Temperature by which cosines are divided."""
    margin: float = Field(default=2.0, ge=0)
    """By how much the key of the same speed should be nearer, after the division by the temperature."""
    queue: int = Field(default=16384, ge=1)
    """Number of earlier keys."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """Share of the key network's weights that a step keeps."""
    key_splits: int = Field(default=2, ge=1)
    """Number of parts in which the keys of a batch pass the key network, whose BatchNorms see one part at a time."""
    look: LookSettings = BENCH_LOOK
    """How each stretch is cut, mirrored and coloured; drawn for each."""

    @property
    def follows(self) -> Follow:
        """A key network for the other stretch, at both speeds."""
        return Follow(momentum=self.momentum)

    @property
    def queues(self) -> Mapping[str, tuple[int, int]]:
        """Earlier keys of the other speed."""
        return {"appearance": (self.queue, self.channels)}

    @property
    def chance(self) -> float:
        """Which of two keys is as fast as the query."""
        return 0.5

    def min_frames(self, shape: ClipShape) -> int:
        """Number of frames of a stretch, from which both speeds are taken."""
        return shape.num_frames * self.speed

    def draw(self, footage: Footage, shape: ClipShape, rng: np.random.Generator) -> Draw:
        """The query, the key of the same speed, and the key at the other speed, with the look of the first key."""
        starts = rng.integers(footage.num_frames - self.min_frames(shape) + 1, size=2).tolist()
        answer = int(rng.integers(2))
        same, other = (1, self.speed)[:: 1 if answer == 0 else -1]
        query, key = (draw_look(self.look, rng, height=footage.height, width=footage.width) for _ in range(2))
        views = (
            strided_view(starts[0], same, shape, query),
            strided_view(starts[1], same, shape, key),
            strided_view(starts[1], other, shape, key),
        )
        return Draw(views=views, targets={"speed": answer})

    def heads(self, width: int) -> Mapping[str, nn.Module]:
        """A linear layer for motion, another one for appearance."""
        return {name: nn.Linear(width, self.channels) for name in ("motion", "appearance")}

    def loss(self, module: PretextModule, clips: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> Loss:
        """The ranking of speeds, and the cross-entropies of the keys of both speeds."""
        query = module.projected(clips[0])
        same, other = (module.keys(clip, splits=self.key_splits) for clip in clips[1:])
        ranking = self.ranking(query["motion"], same["motion"], other["motion"])
        appearance = [
            info_nce(query["appearance"], keys["appearance"], queue, temperature=self.temperature)
            for queue in (module.negatives("appearance"),)
            for keys in (same, other)
        ]
        module.push("appearance", other["appearance"])
        found = torch.stack([each.metrics["accuracy"] for each in appearance]).mean()
        metrics = {"ranking_loss": ranking.total.detach(), "found": found}
        return Loss(
            total=ranking.total + appearance[0].total + appearance[1].total, metrics={**ranking.metrics, **metrics}
        )

    def ranking(self, query: Tensor, same: Tensor, other: Tensor) -> Loss:
        """The key of the same speed should be nearer to the query than the other one, by the margin.

        Args:
            query: [B, C], of unit length.
            same: [B, C], keys of the same speed.
            other: [B, C], keys of the other speed.
        """
        near, far = ((query * keys).sum(dim=1) / self.temperature for keys in (same, other))
        total = functional.margin_ranking_loss(near, far, torch.ones_like(near), margin=self.margin)
        return Loss(total=total, metrics={"accuracy": (near > far).float().mean()})

    def label_of(self, seen: tuple[Seen, ...]) -> Mapping[str, int]:
        """Whether the query's frames are further apart than one."""
        return {"speed": int(seen[0].frames[1] - seen[0].frames[0] > 1)}
