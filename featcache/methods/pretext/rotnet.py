"""RotNet on clips: by how many quarter turns was the clip rotated?

Source: Jing et al. 2018 (3DRotNet), after Gidaris et al., ICLR 2018. One of four rotations is drawn for each clip, as
in CtP's implementation; all four of each image are shown at once in the image version.

Differs from CtP: frames are rotated exactly, after a square crop; CtP warps them with replicated borders.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from featcache.loaders.looks import LookSettings, draw_look
from featcache.loaders.views import ClipShape, strided_view
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.task import Draw, Footage, PretextTask, Seen
from featcache.training.objective import Loss, class_loss

NUM_TURNS = 4


class RotNet(PretextTask):
    """By how many quarter turns was the clip rotated?"""

    name: Literal["rotnet"] = "rotnet"
    """The task."""
    stride: int = Field(default=2, ge=1)
    """Distance of a clip's frames, in frames of the video."""
    look: LookSettings = LookSettings(side_range=(0.78, 1.0))
    """How a clip is cut, mirrored and coloured before it is rotated."""

    def min_frames(self, shape: ClipShape) -> int:
        """Number of frames that a clip spans."""
        return (shape.num_frames - 1) * self.stride + 1

    def draw(self, footage: Footage, shape: ClipShape, rng: np.random.Generator) -> Draw:
        """One rotated clip; all its frames are rotated alike."""
        start = int(rng.integers(footage.num_frames - self.min_frames(shape) + 1))
        turns = int(rng.integers(NUM_TURNS))
        look = draw_look(self.look, rng, height=footage.height, width=footage.width)._replace(turns=turns)
        return Draw(views=(strided_view(start, self.stride, shape, look),), targets={"turns": turns})

    def heads(self, width: int) -> Mapping[str, nn.Module]:
        """One linear layer."""
        return {"turns": nn.Linear(width, NUM_TURNS)}

    def loss(self, module: PretextModule, clips: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> Loss:
        """Cross-entropy over the four rotations."""
        return class_loss(module.heads["turns"](module.features(clips[0])), targets["turns"])

    def label_of(self, seen: tuple[Seen, ...]) -> Mapping[str, int]:
        """The rotation that the pixels show."""
        return {"turns": seen[0].turns}
