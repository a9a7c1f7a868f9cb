"""CVRL: which two clips are of one video?

Source: Qian et al., CVPR 2021, as released: the distance of the clips' starts has a linearly decreasing density, each
view is compared with all others of the batch, and the losses of both sides are added.

Differs: a video that is too short for a clip is left out; the authors loop it. Distances are whole frames.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from featcache.loaders.looks import LookSettings, draw_look
from featcache.loaders.views import ClipShape, strided_view
from featcache.loaders.windows import tis_distance
from featcache.methods.pretext.bench import CONTRAST_LOOK
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.nt_xent import nt_xent
from featcache.methods.pretext.task import Draw, Footage, PretextTask
from featcache.training.objective import Loss


class Cvrl(PretextTask):
    """Which two clips are of one video?"""

    name: Literal["cvrl"] = "cvrl"
    """The task."""
    stride: int = Field(default=2, ge=1)
    """Distance of a clip's frames, in frames of the video."""
    hidden: int = Field(default=2048, ge=1)
    """Number of channels of the head's three hidden layers."""
    channels: int = Field(default=128, ge=1)
    """Number of channels that are compared."""
    temperature: float = Field(default=0.1, gt=0)
    """Temperature by which cosines are divided."""
    look: LookSettings = CONTRAST_LOOK
    """How the first clip is cut, mirrored and coloured."""
    other_look: LookSettings = CONTRAST_LOOK
    """The same for the second clip."""

    def min_frames(self, shape: ClipShape) -> int:
        """Number of frames that a clip spans."""
        return (shape.num_frames - 1) * self.stride + 1

    def draw(self, footage: Footage, shape: ClipShape, rng: np.random.Generator) -> Draw:
        """Two clips, which are near each other more often than far apart, in either order."""
        starts = draw_starts(footage.num_frames - self.min_frames(shape) + 1, rng)
        views = tuple(
            strided_view(start, self.stride, shape, draw_look(look, rng, height=footage.height, width=footage.width))
            for start, look in zip(starts, (self.look, self.other_look), strict=True)
        )
        return Draw(views=views, targets={})

    def heads(self, width: int) -> Mapping[str, nn.Module]:
        """Three hidden layers with BatchNorm, then a linear one."""
        widths = (width, self.hidden, self.hidden, self.hidden)
        hidden = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(inplace=True))
        ]
        return {"clip": nn.Sequential(*hidden, nn.Linear(self.hidden, self.channels))}

    def loss(self, module: PretextModule, clips: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> Loss:
        """The contrast with all other clips, from both sides."""
        one, other = (module.projected(clip)["clip"] for clip in clips)
        return nt_xent(one, other, temperature=self.temperature, world=module.world)


def draw_starts(num_starts: int, rng: np.random.Generator) -> tuple[int, int]:
    """Two of the first ``num_starts`` frames, in either order; their distance has a linearly decreasing density."""
    distance = int(tis_distance(rng.random(), room=num_starts))
    first = int(rng.integers(num_starts - distance))
    return (first, first + distance) if rng.integers(2) else (first + distance, first)
