"""RotNet on clips: by how many quarter turns was the clip rotated?

Source: Jing et al. 2018 (3DRotNet), after Gidaris et al., ICLR 2018. One rotation is drawn for each clip, as in CtP's
implementation; all of each image are shown at once in the image version. The paper of the benchmark has 2, 3 or 4
angles and does not name them.

Differs from CtP: frames are rotated exactly, after a square crop; CtP warps them with replicated borders.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from featcache.loaders.looks import LookSettings, draw_look
from featcache.loaders.views import ClipShape, strided_view
from featcache.methods.pretext.bench import BENCH_LOOK, Complexity
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.task import Draw, Footage, PretextTask, Seen
from featcache.training.objective import Loss, class_loss

TURNS: Mapping[Complexity, tuple[int, ...]] = {"c1": (0, 2), "c2": (0, 1, 2), "c3": (0, 1, 2, 3)}
"""Quarter turns, counter-clockwise."""


class RotNet(PretextTask):
    """By how many quarter turns was the clip rotated?"""

    name: Literal["rotnet"] = "rotnet"
    """The task."""
    complexity: Complexity = "c3"
    """``c1``: 0 and 180 degrees; ``c2``: 90 too; ``c3``: 270 too."""
    stride: int = Field(default=2, ge=1)
    """Distance of a clip's frames, in frames of the video."""
    look: LookSettings = BENCH_LOOK
    """How a clip is cut, mirrored and coloured before it is rotated."""

    @property
    def chance(self) -> float:
        """One of the angles."""
        return 1 / len(TURNS[self.complexity])

    def min_frames(self, shape: ClipShape) -> int:
        """Number of frames that a clip spans."""
        return (shape.num_frames - 1) * self.stride + 1

    def draw(self, footage: Footage, shape: ClipShape, rng: np.random.Generator) -> Draw:
        """One rotated clip; all its frames are rotated alike."""
        start = int(rng.integers(footage.num_frames - self.min_frames(shape) + 1))
        answer = int(rng.integers(len(TURNS[self.complexity])))
        look = draw_look(self.look, rng, height=footage.height, width=footage.width)
        look = look._replace(turns=TURNS[self.complexity][answer])
        return Draw(views=(strided_view(start, self.stride, shape, look),), targets={"turns": answer})

    def heads(self, width: int) -> Mapping[str, nn.Module]:
        """One linear layer."""
        return {"turns": nn.Linear(width, len(TURNS[self.complexity]))}

    def loss(self, module: PretextModule, clips: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> Loss:
        """Cross-entropy over the rotations."""
        return class_loss(module.heads["turns"](module.features(clips[0])), targets["turns"])

    def label_of(self, seen: tuple[Seen, ...]) -> Mapping[str, int]:
        """The rotation that the pixels show."""
        return {"turns": TURNS[self.complexity].index(seen[0].turns)}
