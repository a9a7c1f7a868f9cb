"""PRP: at which rate was a clip sampled, and what lies between its frames?

Source: Yao et al., CVPR 2020, as released: one of four rates, and a clip of twice the rate is reconstructed, weighted
by motion; its targets and weights come from pixels in [0, 1], for the reconstruction ends in a ReLU. At rate 1 there is
nothing between the frames, and only they themselves count. The paper of the benchmark has 2 to 4 rates.

Differs: the authors let a clip begin anywhere, so that the middle of a fast one is never near an end of its video; here
the middle is drawn (``place``). They take another video where one is too short for the rate drawn, so that short videos
only ever are slow; here a video is long enough for all rates, or left out. Maps of another size than the authors'
networks have are resized.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from featcache.errors import ConfigError
from featcache.loaders.looks import LookSettings, draw_look
from featcache.loaders.views import ClipShape, view_of
from featcache.methods.pretext.bench import BENCH_LOOK, Complexity
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.motion_mask import weights_of
from featcache.methods.pretext.reconstruction import ClassBranch, Fit, PixelBranch, pixel_loss, real_frames
from featcache.methods.pretext.task import Draw, Footage, PretextTask, Seen
from featcache.training.objective import Loss, class_loss

RATES: Mapping[Complexity, tuple[int, ...]] = {"c1": (1, 2), "c2": (1, 2, 4), "c3": (1, 2, 4, 8)}


class Prp(PretextTask):
    """At which rate was a clip sampled, and what lies between its frames?"""

    reads: ClassVar[Literal["vector", "map"]] = "map"
    name: Literal["prp"] = "prp"
    """The task."""
    complexity: Complexity = "c3"
    """``c1``: rates 1 and 2; ``c2``: 4 too; ``c3``: 8 too."""
    class_weight: float = Field(default=0.1, ge=0)
    """Weight of the rate's cross-entropy beside the reconstruction."""
    place: Literal["even", "any"] = "even"
    """``even``: the middle of a clip lies alike for all rates, and cannot tell one; ``any``: anywhere, as released."""
    look: LookSettings = BENCH_LOOK
    """How a clip is cut, mirrored and coloured."""

    @property
    def chance(self) -> float:
        """One of the rates."""
        return 1 / len(RATES[self.complexity])

    def min_frames(self, shape: ClipShape) -> int:
        """Number of frames of a clip of the largest rate, and of what is between its frames."""
        if shape.num_frames % 8 or shape.size % 16:
            raise ConfigError(
                f"prp reconstructs clips of 8, 16, … frames and 16, 32, … pixels, not {shape.num_frames} of "
                f"{shape.size}; set num_frames=16 and input_size=112"
            )
        return shape.num_frames * max(RATES[self.complexity])

    def draw(self, footage: Footage, shape: ClipShape, rng: np.random.Generator) -> Draw:
        """The clip, the clip at twice the rate, and four frames of each part from which motion is told."""
        rates, num = RATES[self.complexity], shape.num_frames
        answer = int(rng.integers(len(rates)))
        rate = rates[answer]
        span = max(rates) if self.place == "even" else rate
        start = int(rng.integers(footage.num_frames - num * span + 1)) + ((num - 1) * (span - rate) + 1) // 2
        look = draw_look(self.look, rng, height=footage.height, width=footage.width)
        parts = [num * part + round(quarter * (num - 1) / 3) for part in range(rate) for quarter in range(4)]
        moves = np.array(parts).reshape(rate, 4).repeat(max(rates) // rate, axis=0).ravel()
        chosen = (range(0, num * rate, rate), [rate * place // 2 for place in range(2 * num)], moves.tolist())
        views = tuple(view_of([start + frame for frame in frames], shape, look) for frames in chosen)
        return Draw(views=views, targets={"rate": answer})

    def heads(self, width: int) -> Mapping[str, nn.Module]:
        """The branches of the rate and of the pixels, and what fits the map to both."""
        fit = Fit(width)
        rate = ClassBranch(fit.channels, len(RATES[self.complexity]))
        return {"fit": fit, "rate": rate, "pixels": PixelBranch(fit.channels)}

    def loss(self, module: PretextModule, clips: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> Loss:
        """Weighted squared error of pixels, and a little cross-entropy over the rates."""
        clip, target, moves = clips
        num, side = clip.shape[1], clip.shape[-1]
        maps = module.heads["fit"](module.maps(clip), (num // 8, side // 16, side // 16))
        rate = class_loss(module.heads["rate"](maps), targets["rate"])
        weights = weights_of(torch.unflatten(moves, 1, (-1, 4)).float() / 255, num_frames=2 * num)
        counts = real_frames(targets["rate"] == 0, num_frames=2 * num)
        pixels = pixel_loss(module.heads["pixels"](maps).float(), target.float() / 255, weights, counts)
        metrics = {**rate.metrics, "class_loss": rate.total.detach(), "pixel_loss": pixels.detach()}
        return Loss(total=pixels + self.class_weight * rate.total, metrics=metrics)

    def label_of(self, seen: tuple[Seen, ...]) -> Mapping[str, int]:
        """The distance of the clip's first two frames."""
        return {"rate": RATES[self.complexity].index(seen[0].frames[1] - seen[0].frames[0])}
