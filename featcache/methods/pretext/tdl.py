"""TDL: which clip shows the same moment of a video, and not another one of it?

Source: Wang et al. 2020 (VTDL), as released: anchor and positive begin at the same frame, the negative at another one
of the same video. A little of one of its own frames is mixed into all frames of the anchor. The positive passes a key
network, the negative the trained one; earlier positives of other videos are in a queue. The paper of the benchmark has
a queue of 500.

Differs: the amount that is mixed in is drawn for each clip, the authors draw it for a batch; mixed pixels are whole
numbers. A video must have nine places for a clip, so that the authors' rule leads to a negative of another moment.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from featcache.loaders.looks import LookSettings, draw_look
from featcache.loaders.views import ClipShape, strided_view
from featcache.methods.pretext.bench import BENCH_LOOK
from featcache.methods.pretext.info_nce import info_nce
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.task import Draw, Follow, Footage, PretextTask
from featcache.training.objective import Loss

PLACES = 9


class Tdl(PretextTask):
    """Which clip shows the same moment of a video, and not another one of it?"""

    name: Literal["tdl"] = "tdl"
    """The task."""
    stride: int = Field(default=4, ge=1)
    """Distance of a clip's frames, in frames of the video."""
    mix: float = Field(default=0.1, ge=0, le=1)
    """Largest share of one of its own frames that is mixed into an anchor."""
    channels: int = Field(default=128, ge=1)
    """Number of channels that are compared."""
    temperature: float = Field(default=0.07, gt=0)
    """Temperature by which cosines are divided."""
    queue: int = Field(default=500, ge=1)
    """Number of earlier keys."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """Share of the key network's weights that a step keeps."""
    key_splits: int = Field(default=2, ge=1)
    """Number of parts in which the keys of a batch pass the key network, whose BatchNorms see one part at a time."""
    look: LookSettings = BENCH_LOOK
    """How each clip is cut, mirrored and coloured; drawn for each."""

    @property
    def follows(self) -> Follow:
        """A key network for the positive."""
        return Follow(momentum=self.momentum)

    @property
    def queues(self) -> Mapping[str, tuple[int, int]]:
        """Earlier positives."""
        return {"moment": (self.queue, self.channels)}

    def min_frames(self, shape: ClipShape) -> int:
        """Number of frames that a clip spans at nine places."""
        return (shape.num_frames - 1) * self.stride + PLACES

    def draw(self, footage: Footage, shape: ClipShape, rng: np.random.Generator) -> Draw:
        """The anchor, the positive and the negative, and which frame of the anchor is mixed in, and how much of it."""
        num_starts = footage.num_frames - (shape.num_frames - 1) * self.stride
        start, other = (int(place) for place in rng.integers(num_starts, size=2))
        starts = (start, start, moved_away(other, start, num_starts=num_starts))
        views = tuple(
            strided_view(
                each, self.stride, shape, draw_look(self.look, rng, height=footage.height, width=footage.width)
            )
            for each in starts
        )
        frame, share = int(rng.integers(shape.num_frames)), float(rng.uniform(0, self.mix))
        return Draw(views=views, targets={"mixed_frame": frame, "mixed_share": share})

    def heads(self, width: int) -> Mapping[str, nn.Module]:
        """One linear layer."""
        return {"moment": nn.Linear(width, self.channels)}

    def loss(self, module: PretextModule, clips: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> Loss:
        """Cross-entropy of the positive among the queue and the negative."""
        anchor = mixed(clips[0], targets["mixed_frame"], targets["mixed_share"])
        queries, negatives = (module.projected(clip)["moment"] for clip in (anchor, clips[2]))
        keys = module.keys(clips[1], splits=self.key_splits)["moment"]
        loss = info_nce(
            queries, keys, module.negatives("moment"), temperature=self.temperature, own_negatives=negatives
        )
        module.push("moment", keys)
        return loss


def moved_away(place: int, start: int, *, num_starts: int) -> int:
    """The start of a negative: if it is too near, a third of all places further on, and from the beginning again."""
    return (place + num_starts // 3) % num_starts if abs(place - start) < 2 else place


def mixed(clips: Tensor, frame: Tensor, share: Tensor) -> Tensor:
    """Clips with a share of one of their own frames in all frames, uint8 [B, T, 3, S, S].

    Args:
        clips: uint8 [B, T, 3, S, S].
        frame: int64 [B], number of the frame.
        share: floating [B], its share.
    """
    still = clips[torch.arange(len(clips), device=clips.device), frame][:, None]
    part = share.float().view(-1, 1, 1, 1, 1)
    return torch.lerp(clips.float(), still.float(), part).round().to(clips.dtype)
