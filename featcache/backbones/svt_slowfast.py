"""``svt-b-slowfast``, ``svt-s-slowfast``, ``svt-tiny-slowfast``: SVT's inference on a slow and a fast view of a clip.

Source: SVT, the paper's inference: one network encodes 8 frames of 224 pixels and 64 of 96, both spread over the same
time, and the two class tokens are averaged. Weights are those of ``svt-b``, ``svt-s`` and ``svt-tiny``.

Differs from the paper: its release has no code for this. Here both views come from one decoded crop: the slow view is
every 8th of its frames, the fast view all of them, resized. At another size than 224 the fast view keeps the ratio of
96 to 224.

Layers are those of ``svt-b``: maps [B, T / 8, S / 16, S / 16, C] and class tokens [B, C] of clips of a multiple of 8
frames, whose side S is a multiple of 16; see :func:`averaged`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.backbones.svt import CARDS as ONE_VIEW_CARDS
from featcache.backbones.svt import load_network
from featcache.errors import ClipLengthError

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.networks.timesformer import Tokens

SUFFIX = "-slowfast"
NUM_FRAMES = 64
SLOW_STRIDE = 8
"""Number of frames of the fast view per frame of the slow view."""
_FAST_RATIO = 96 / 224

# 64 frames at stride 4 span the same time as 8 frames at stride 32.
CARDS: Mapping[str, WeightsCard] = {
    f"{name}{SUFFIX}": replace(card, num_frames=NUM_FRAMES, frame_stride=card.frame_stride // SLOW_STRIDE)
    for name, card in ONE_VIEW_CARDS.items()
}


class SlowFastViews(NamedTuple):
    """Two views of one clip.

    Attributes:
        slow: float [B, T / 8, 3, S, S].
        fast: float [B, T, 3, s, s], with s from :func:`fast_size`.
    """

    slow: "Tensor"
    fast: "Tensor"


def fast_size(size: int, *, patch: int) -> int:
    """Side of the fast view in pixels: ``size`` x 96 / 224, rounded to the nearest multiple of a patch."""
    return max(1, round(_FAST_RATIO * size / patch)) * patch


def slow_fast_views(clip: "Tensor", *, patch: int) -> SlowFastViews:
    """Both views of a clip.

    Args:
        clip: float [B, T, 3, S, S], normalised, T a multiple of 8. The resize is bicubic with antialiasing.
        patch: Side of a patch in pixels.
    """
    import torch
    from torch.nn import functional

    side = fast_size(clip.shape[-1], patch=patch)
    fast = functional.interpolate(clip.flatten(0, 1), (side, side), mode="bicubic", antialias=True, align_corners=False)
    return SlowFastViews(slow=clip[:, ::SLOW_STRIDE], fast=torch.unflatten(fast, 0, clip.shape[:2]))


def averaged(slow: "Tokens", fast: "Tokens") -> LayerOutput:
    """Average the class tokens, and the maps after the fast one is resized to the grid of the slow one.

    The fast map is averaged over the frames from one slow frame to the next, then resized bilinearly.

    Args:
        slow: Class tokens [B, C], patches [B, t, h, w, C].
        fast: Class tokens [B, C], patches [B, 8 t, h', w', C].
    """
    import torch
    from torch.nn import functional

    batch, num_frames, height, width, _ = slow.patches.shape
    steps = torch.unflatten(fast.patches, 1, (num_frames, SLOW_STRIDE)).mean(dim=2)
    resized = functional.interpolate(
        steps.flatten(0, 1).permute(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=False
    )
    patches = torch.unflatten(resized.permute(0, 2, 3, 1), 0, (batch, num_frames))
    return LayerOutput(map=(slow.patches + patches) / 2, cls=(slow.cls + fast.cls) / 2)


def build(name: str, weights: str) -> Backbone:
    """Build one of :data:`CARDS`.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    from featcache.backbones.wrapped import WrappedBackbone

    network, keys = load_network(name.removesuffix(SUFFIX), weights)

    def read(pixels: "Tensor", wanted: frozenset[str]) -> dict[str, LayerOutput]:
        if pixels.shape[1] % SLOW_STRIDE:
            raise ClipLengthError(
                f"{name} takes clips of a multiple of {SLOW_STRIDE} frames, not {pixels.shape[1]}; "
                f"set sampling.num_frames, e.g. to {NUM_FRAMES}"
            )
        views = slow_fast_views(pixels, patch=network.config.patch_size)
        slow, fast = (network.forward_layers(view, wanted) for view in views)
        return {layer: averaged(slow[layer], fast[layer]) for layer in wanted}

    return WrappedBackbone(network, name=name, card=CARDS[name], layers=network.layers, run=read, keys=keys)
