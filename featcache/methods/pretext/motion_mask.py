"""Where a clip moves: weights of its pixels in a reconstruction (PRP's motion attention)."""

import torch
from torch import Tensor
from torch.nn import functional

LEAST, MOST = 0.8, 2.0
_TINY = 1e-6


def motion_mask(frames: Tensor) -> Tensor:
    """Weights of regions from 0.8, where least moves, to 2.0, where most does; 1 everywhere if nothing moves.

    Squared differences of neighbouring frames are averaged over windows of a quarter of the side, a sixteenth apart,
    and brought to that range in each channel.

    Args:
        frames: float [N, 4, 3, S, S] in [0, 1], four frames of each part of a clip.

    Returns:
        float [N, 3, 13, 13].
    """
    side = frames.shape[-1]
    moved = (frames[:, 1:] - frames[:, :-1]).square().mean(dim=1)
    regions = functional.avg_pool2d(moved, side // 4, stride=side // 16)
    least, most = regions.amin(dim=(2, 3), keepdim=True), regions.amax(dim=(2, 3), keepdim=True)
    weights = LEAST + (MOST - LEAST) * (regions - least + _TINY) / (most - least + _TINY)
    stands_still = (most <= least).all(dim=1, keepdim=True)
    return torch.where(stands_still, torch.ones_like(weights), weights)


def weights_of(frames: Tensor, *, num_frames: int) -> Tensor:
    """The weight of every pixel of a clip of several parts; see :func:`motion_mask`.

    Args:
        frames: float [B, parts, 4, 3, S, S] in [0, 1], four frames of each part.
        num_frames: Number of frames of the clip, a multiple of the number of parts.

    Returns:
        float [B, num_frames, 3, S, S].
    """
    batch, parts, _, channels, side, _ = frames.shape
    regions = motion_mask(frames.flatten(0, 1))
    pixels = functional.interpolate(regions, (side, side), mode="bilinear", align_corners=False)
    return pixels.view(batch, parts, channels, side, side).repeat_interleave(num_frames // parts, dim=1)
