"""VideoMAE for networks of convolutions: what is under the masked tubes of a clip?

Source: Tong et al., NeurIPS 2022: nine tenths of the cells of a grid are masked in all frames, and pixels, normalised
in each cell of two frames, are predicted there by a light decoder. Kumar et al. put it on R(2+1)D and say no more.

Differs: a network of convolutions sees masked cells too, in the mean colour; the map is resized to one place per cell.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from featcache.errors import ConfigError
from featcache.loaders.looks import LookSettings, draw_look
from featcache.loaders.views import ClipShape, strided_view
from featcache.methods.pretext.bench import BENCH_LOOK
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.reconstruction import Fit, PatchBranch
from featcache.methods.pretext.task import Draw, Footage, PretextTask
from featcache.training.objective import Loss

CELL = 16
"""Side of a cell in pixels."""
DEPTH = 2
"""Number of frames of a cell."""


class VideoMae(PretextTask):
    """What is under the masked tubes of a clip?"""

    reads: ClassVar[Literal["vector", "map"]] = "map"
    name: Literal["videomae"] = "videomae"
    """The task."""
    stride: int = Field(default=4, ge=1)
    """Distance of a clip's frames, in frames of the video."""
    mask_share: float = Field(default=0.9, gt=0, lt=1)
    """Share of the cells that are masked."""
    look: LookSettings = BENCH_LOOK
    """How a clip is cut, mirrored and coloured."""

    def min_frames(self, shape: ClipShape) -> int:
        """Number of frames that a clip spans."""
        if shape.num_frames % DEPTH or shape.size % CELL or shape.size == CELL:
            raise ConfigError(
                f"videomae masks cells of {DEPTH} frames and {CELL} x {CELL} pixels, which {shape.num_frames} frames "
                f"of {shape.size} pixels do not have; set num_frames=16 and input_size=112"
            )
        return (shape.num_frames - 1) * self.stride + 1

    def draw(self, footage: Footage, shape: ClipShape, rng: np.random.Generator) -> Draw:
        """A clip and the cells that are masked in all its frames."""
        start = int(rng.integers(footage.num_frames - self.min_frames(shape) + 1))
        look = draw_look(self.look, rng, height=footage.height, width=footage.width)
        side = shape.size // CELL
        masked = np.zeros(side**2, np.bool_)
        masked[rng.permutation(side**2)[: min(side**2 - 1, round(self.mask_share * side**2))]] = True
        view = strided_view(start, self.stride, shape, look)
        return Draw(views=(view,), targets={"masked": masked.reshape(side, side)})

    def heads(self, width: int) -> Mapping[str, nn.Module]:
        """The decoder, and what fits the map to it."""
        fit = Fit(width)
        return {"fit": fit, "patches": PatchBranch(fit.channels, DEPTH * CELL * CELL * 3)}

    def loss(self, module: PretextModule, clips: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> Loss:
        """Squared error of normalised pixels in the masked cells."""
        clip, masked = clips[0], targets["masked"]
        mean = 255 * torch.tensor(module.recipe.mean, device=clip.device).view(3, 1, 1)
        is_hidden = masked.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)[:, None, None]
        shown = torch.where(is_hidden, mean.round().to(clip.dtype), clip)
        size = (clip.shape[1] // DEPTH, *masked.shape[1:])
        predicted = module.heads["patches"](module.heads["fit"](module.maps(shown), size))
        return Loss(total=masked_loss(predicted.float(), patches_of(clip.float() / 255), masked))


def patches_of(clip: Tensor) -> Tensor:
    """Pixels of each cell of [B, T, 3, S, S], with mean 0 and variance 1 by channel, float [B, T / 2, h, w, 1536]."""
    batch, frames, channels, side, _ = clip.shape
    cells = clip.view(batch, frames // DEPTH, DEPTH, channels, side // CELL, CELL, side // CELL, CELL)
    pixels = cells.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(4, 6)
    var, mean = torch.var_mean(pixels, dim=4, keepdim=True)
    return ((pixels - mean) / (var.sqrt() + 1e-6)).flatten(4)


def masked_loss(predicted: Tensor, patches: Tensor, masked: Tensor) -> Tensor:
    """Mean squared error over the masked cells; the others cost nothing.

    Args:
        predicted: float [B, t, h, w, P].
        patches: float [B, t, h, w, P].
        masked: bool [B, h, w].
    """
    errors = (predicted - patches).square().mean(dim=-1)
    return (errors * masked[:, None]).sum() / (masked.sum() * errors.shape[1])
