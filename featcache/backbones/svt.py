"""``svt-b``, ``svt-s``, ``svt-tiny``: SVT's TimeSformer. The network is :mod:`featcache.networks.timesformer`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from featcache.backbones.base import LayerOutput, WeightsCard, register_backbone
from featcache.backbones.branches import KeyReport, load_branch, take_branch
from featcache.backbones.weights import freeze, locate, read_state_dict, seeded_init, state_hash
from featcache.errors import FeatcacheError
from featcache.networks.timesformer import SIZES, TimeSformer, config_of

log = logging.getLogger(__name__)

Branch = Literal["teacher", "student"]

# Tested at a short side of 224, 8 frames at stride 32. Trained with ImageNet's mean and std; SVT's own probes and
# SCALE read it with 0.45 and 0.225.
CARD = WeightsCard(
    source="SVT, Kinetics-400, github.com/kahnchana/svt release v1.0",
    license="none stated",
    paper="arXiv:2112.01514",
    file_name="kinetics400_vitb_ssl.pth",
    crop_fraction=1.0,
    num_frames=8,
    frame_stride=32,
)
_OWN = replace(CARD, source="nothing is published: train one, then pass --weights with its teacher.safetensors")
CARDS: Mapping[str, WeightsCard] = {
    "svt-b": CARD,
    "svt-s": replace(_OWN, file_name="svt-s.safetensors"),
    "svt-tiny": replace(_OWN, file_name="svt-tiny.safetensors", input_size=SIZES["tiny"].image_size),
}
_SIZE_OF = {"svt-b": "base", "svt-s": "small", "svt-tiny": "tiny"}
_SUMMARIES = {
    "svt-b": "SVT's TimeSformer ViT-B/16, Kinetics-400, clips of 8 frames, t x 14 x 14 x 768 and a class token",
    "svt-s": "SVT's TimeSformer ViT-S/16, own weights, t x 14 x 14 x 384 and a class token",
    "svt-tiny": "SVT's TimeSformer of 4 blocks for small machines, own weights, t x 7 x 7 x 192 and a class token",
}


class SVTBackbone:
    """A TimeSformer; see :class:`featcache.backbones.base.Backbone`.

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
        """Run once, no further than the last of ``layers``.

        Args:
            pixels: float [B, T, 3, H, W], sides multiples of 16.
            layers: ``blocks.0`` … and ``norm``, whose class token is the feature of SVT and SCALE.

        Returns:
            Maps [B, T, H/16, W/16, C] and class tokens [B, C].
        """
        outputs = self.network.forward_layers(pixels.to(self._device), layers)
        return {layer: LayerOutput(map=outputs[layer].patches, cls=outputs[layer].cls) for layer in layers}

    def classify(self, pixels: Tensor) -> Tensor:
        """Raises FeatcacheError: it is trained without labels."""
        raise FeatcacheError(f"{self._name} has no classifier; train a probe on its features")

    def to(self, device: str) -> "SVTBackbone":
        """Move to a device; returns itself."""
        self._device = torch.device(device)
        self.network.to(self._device)
        return self


def read_svt(path: Path, *, branch: Branch = "teacher") -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read a TimeSformer from SVT's published file, a checkpoint of its training script, or one of our own files.

    Args:
        path: Flat with ``backbone.`` and ``head.`` names, nested under ``teacher`` and ``student``, or the network
            alone.
        branch: Which network of a training checkpoint.

    Returns:
        Tensors under the network's names, and the names dropped (the projection head).

    Raises:
        WeightsError: Unreadable, or no state dict.
    """
    state = read_state_dict(path, nested_under=(branch,))
    # Training on several GPUs wraps the network once more.
    unwrapped = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return take_branch(unwrapped, prefix="backbone.", drop=("head.mlp.*", "head.last_layer.*"))


def load_image_weights(
    network: TimeSformer, state: Mapping[str, Tensor], *, source: str, copies_to_time: bool = True
) -> KeyReport:
    """Start from an image ViT, e.g. DINO's ``dino_vitbase16_pretrain.pth`` (flat, without a head).

    Args:
        network: Changed in place.
        state: Tensors of the image network.
        source: The file, for messages.
        copies_to_time: Start attention over time as a copy of attention over space, as SVT's loader does; its paper
            starts it at random. As long as ``temporal_fc`` is zero both compute the same.

    Returns:
        What was taken and what stayed: time positions, ``temporal_fc`` and, without a copy, attention over time.

    Raises:
        WeightsError: Anything else is missing or unexpected, or a shape differs.
    """
    state = dict(state)
    if copies_to_time:
        for name in list(state):
            for image, time in ((".attn.", ".temporal_attn."), (".norm1.", ".temporal_norm1.")):
                if image in name:
                    state[name.replace(image, time)] = state[name]
    may_lack = ("time_embed", "blocks.*.temporal_*")
    return load_branch(network, state, source=source, dropped=(), may_lack=may_lack)


def load_network(name: str, weights: str) -> tuple[TimeSformer, KeyReport | None]:
    """The network of one of :data:`CARDS`, and what was taken from the weights file; ``None`` for random weights.

    Raises:
        WeightsError: The weights are not at hand or do not fit.
    """
    card, size = CARDS[name], _SIZE_OF[name]
    path = locate(
        weights, backbone=name, stems=[Path(card.file_name).stem], origin=card.source, published=card.file_name
    )
    state, dropped = ({}, ()) if path is None else read_svt(path)
    with seeded_init(name):
        network = TimeSformer(config_of(size, state))
    if path is None:
        return network, None
    keys = load_branch(network, state, source=f"weights file {path} of {name}", dropped=dropped)
    log.info("%s", keys)
    return network, keys


def build_svt(name: str, weights: str) -> SVTBackbone:
    """Build one of :data:`CARDS`.

    Raises:
        WeightsError: The weights are not at hand or do not fit.
    """
    network, keys = load_network(name, weights)
    return SVTBackbone(network, name=name, keys=keys)


for _name, _card in CARDS.items():
    register_backbone(_name, summary=_SUMMARIES[_name], card=_card)(build_svt)
