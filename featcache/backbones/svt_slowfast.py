"""``svt-b-slowfast``, ``svt-s-slowfast``, ``svt-tiny-slowfast``: SVT's inference on a slow and a fast view of a clip.

Source: SVT, the paper's inference: one network sees 8 frames of 224 pixels and 64 of 96, both spread over the same
time, and its two class tokens are averaged. Weights are those of ``svt-b``, ``svt-s`` and ``svt-tiny``.

Differs from the paper: its release has no code of this. Here both views are of one decoded crop: the slow one is every
8th of its frames, the fast one all of them, resized. At another size than 224 the fast view keeps the ratio of 96 to
224.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from featcache.backbones.base import LayerOutput, WeightsCard, register_backbone
from featcache.backbones.branches import KeyReport
from featcache.backbones.svt import CARDS as ONE_VIEW_CARDS
from featcache.backbones.svt import load_network
from featcache.backbones.weights import freeze, state_hash
from featcache.errors import ClipLengthError, FeatcacheError
from featcache.networks.timesformer import TimeSformer, Tokens

SUFFIX = "-slowfast"
NUM_FRAMES = 64
SLOW_STRIDE = 8
"""Frames of the fast view for each of the slow one."""
_FAST_RATIO = 96 / 224

# 64 frames at stride 4 span what 8 frames at stride 32 do.
CARDS: Mapping[str, WeightsCard] = {
    f"{name}{SUFFIX}": replace(card, num_frames=NUM_FRAMES, frame_stride=card.frame_stride // SLOW_STRIDE)
    for name, card in ONE_VIEW_CARDS.items()
}


class SlowFastViews(NamedTuple):
    """Two views of one clip.

    Attributes:
        slow: float [B, T / 8, 3, S, S].
        fast: float [B, T, 3, s, s], s as :func:`fast_size` says.
    """

    slow: Tensor
    fast: Tensor


def fast_size(size: int, *, patch: int) -> int:
    """Side of the fast view in pixels: 96 for 224, else that share of ``size``, to the nearest multiple of a patch."""
    return max(1, round(_FAST_RATIO * size / patch)) * patch


def slow_fast_views(clip: Tensor, *, patch: int) -> SlowFastViews:
    """Both views of a clip.

    Args:
        clip: float [B, T, 3, S, S], normalised, T a multiple of 8. The resize is bicubic with antialiasing.
        patch: Side of a patch in pixels.
    """
    side = fast_size(clip.shape[-1], patch=patch)
    fast = functional.interpolate(clip.flatten(0, 1), (side, side), mode="bicubic", antialias=True, align_corners=False)
    return SlowFastViews(slow=clip[:, ::SLOW_STRIDE], fast=torch.unflatten(fast, 0, clip.shape[:2]))


def averaged(slow: Tokens, fast: Tokens) -> LayerOutput:
    """Class tokens averaged, and so are the maps, the fast one brought to the grid of the slow one.

    The fast map is averaged over the frames from one slow frame to the next, then resized bilinearly.

    Args:
        slow: Class tokens [B, C], patches [B, t, h, w, C].
        fast: Class tokens [B, C], patches [B, 8 t, h', w', C].
    """
    batch, num_frames, height, width, _ = slow.patches.shape
    steps = torch.unflatten(fast.patches, 1, (num_frames, SLOW_STRIDE)).mean(dim=2)
    resized = functional.interpolate(
        steps.flatten(0, 1).permute(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=False
    )
    patches = torch.unflatten(resized.permute(0, 2, 3, 1), 0, (batch, num_frames))
    return LayerOutput(map=(slow.patches + patches) / 2, cls=(slow.cls + fast.cls) / 2)


class SlowFastBackbone:
    """A TimeSformer on two views; see :class:`featcache.backbones.base.Backbone`.

    Attributes:
        network: The frozen network.
        keys: What was taken from the weights file; ``None`` for random weights.
    """

    kind: Literal["image", "video"] = "video"
    classes: tuple[str, ...] | None = None

    def __init__(self, network: TimeSformer, *, name: str, keys: KeyReport | None) -> None:
        freeze(network)
        self.network = network
        self.keys = keys
        self.card = CARDS[name]
        self.weights_hash = state_hash(network)
        self.layers = network.layers
        self._name = name
        self._device = torch.device("cpu")

    def encode(self, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run once on each view, no further than the last of ``layers``.

        Args:
            pixels: float [B, T, 3, S, S], T a multiple of 8, S of 16.
            layers: ``blocks.0`` … and ``norm``, whose class token is SVT's feature.

        Returns:
            Maps [B, T / 8, S / 16, S / 16, C] and class tokens [B, C]; see :func:`averaged`.

        Raises:
            ClipLengthError: Another T.
        """
        if pixels.shape[1] % SLOW_STRIDE:
            raise ClipLengthError(
                f"{self._name} takes clips of a multiple of {SLOW_STRIDE} frames, not {pixels.shape[1]}; "
                f"set sampling.num_frames, e.g. to {NUM_FRAMES}"
            )
        views = slow_fast_views(pixels.to(self._device), patch=self.network.config.patch_size)
        slow, fast = (self.network.forward_layers(view, layers) for view in views)
        return {layer: averaged(slow[layer], fast[layer]) for layer in layers}

    def classify(self, pixels: Tensor) -> Tensor:
        """Raises FeatcacheError: it is trained without labels."""
        raise FeatcacheError(f"{self._name} has no classifier; train a probe on its features")

    def to(self, device: str) -> "SlowFastBackbone":
        """Move to a device; returns itself."""
        self._device = torch.device(device)
        self.network.to(self._device)
        return self


def build_slow_fast(name: str, weights: str) -> SlowFastBackbone:
    """Build one of :data:`CARDS`.

    Raises:
        WeightsError: The weights are not at hand or do not fit.
    """
    network, keys = load_network(name.removesuffix(SUFFIX), weights)
    return SlowFastBackbone(network, name=name, keys=keys)


for _name, _card in CARDS.items():
    _side, _one = _card.input_size, _name.removesuffix(SUFFIX)
    register_backbone(
        _name,
        summary=f"{_one} on 8 frames of {_side} pixels and 64 of {fast_size(_side, patch=16)}, class tokens averaged",
        card=_card,
    )(build_slow_fast)
