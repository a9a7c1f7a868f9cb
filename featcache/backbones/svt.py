"""``svt-b``, ``svt-s``, ``svt-tiny``: SVT's TimeSformer. The network is :mod:`featcache.networks.timesformer`.

Layers are ``blocks.0`` … and ``norm``, whose class token is the feature of SVT and SCALE: maps [B, T, H/16, W/16, C]
and class tokens [B, C] of clips whose sides are multiples of 16.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.backbones.branches import KeyReport
    from featcache.networks.timesformer import TimeSformer

Branch = Literal["teacher", "student"]

# Tested at a short side of 224, 8 frames at stride 32. Trained with ImageNet's mean and std; SVT's own probes and
# SCALE use 0.45 and 0.225.
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
    "svt-tiny": replace(_OWN, file_name="svt-tiny.safetensors", input_size=112),
}
_PATCHES = "patch_embed.proj.weight"
_SIZE_OF = {"svt-b": "base", "svt-s": "small", "svt-tiny": "tiny"}


def read_svt(path: Path, *, branch: Branch = "teacher") -> tuple[dict[str, "Tensor"], tuple[str, ...]]:
    """Read a TimeSformer from SVT's published file, a checkpoint of its training script, or one of our own files.

    Args:
        path: A file with flat ``backbone.`` and ``head.`` names, nested under ``teacher`` and ``student``, or with only
            the network.
        branch: Network to take from a training checkpoint.

    Returns:
        Tensors under the network's names, and the dropped names (the projection head).

    Raises:
        WeightsError: The file is unreadable, or is not a state dict.
    """
    from featcache.backbones.branches import take_branch
    from featcache.backbones.weights import read_state_dict

    state = read_state_dict(path, nested_under=(branch,))
    # Training on several GPUs adds another prefix.
    unwrapped = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return take_branch(unwrapped, prefix="backbone.", drop=("head.mlp.*", "head.last_layer.*"))


def load_image_weights(
    network: "TimeSformer", state: Mapping[str, "Tensor"], *, source: str, copies_to_time: bool = True
) -> "KeyReport":
    """Initialise from an image ViT, e.g. DINO's ``dino_vitbase16_pretrain.pth`` (flat, without a head).

    Args:
        network: The network, which is changed in place.
        state: Tensors of the image network.
        source: The file, for messages.
        copies_to_time: Initialise temporal attention as a copy of spatial attention, as SVT's loader does; the paper
            initialises it at random. While ``temporal_fc`` is zero both compute the same.

    With the stem ``difference``, the filters of pixels are the image network's and those of differences stay at random.

    Returns:
        The parameters that were taken and kept; kept are time positions, ``temporal_fc`` and, without a copy, temporal
        attention.

    Raises:
        WeightsError: Anything else is missing or unexpected, or a shape differs.
    """
    import torch

    from featcache.backbones.branches import load_branch

    state = dict(state)
    if copies_to_time:
        for name in list(state):
            for image, time in ((".attn.", ".temporal_attn."), (".norm1.", ".temporal_norm1.")):
                if image in name:
                    state[name.replace(image, time)] = state[name]
    pixels = state.get(_PATCHES)
    if network.config.stem == "difference" and pixels is not None and pixels.ndim == 4 and pixels.shape[1] == 3:
        own = network.patch_embed.proj.weight.detach()[:, 3:]
        state[_PATCHES] = torch.cat([pixels, own.to(pixels)], dim=1)
    may_lack = ("time_embed", "blocks.*.temporal_*")
    return load_branch(network, state, source=source, dropped=(), may_lack=may_lack)


def load_network(name: str, weights: str) -> tuple["TimeSformer", "KeyReport | None"]:
    """The network of one of :data:`CARDS`, and an account of the weights file (``None`` for random weights).

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    from featcache.backbones.branches import load_branch
    from featcache.backbones.weights import locate, seeded_init
    from featcache.networks.timesformer import TimeSformer, config_of

    card, size = CARDS[name], _SIZE_OF[name]
    path = locate(
        weights, backbone=name, stems=[Path(card.file_name).stem], origin=card.source, published=card.file_name
    )
    state, dropped = ({}, ()) if path is None else read_svt(path)
    with seeded_init(name):
        network = TimeSformer(config_of(size, state))
    if path is None:
        return network, None
    return network, load_branch(network, state, source=f"weights file {path} of {name}", dropped=dropped)


def build(name: str, weights: str) -> Backbone:
    """Build one of :data:`CARDS`.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    from featcache.backbones.wrapped import WrappedBackbone

    network, keys = load_network(name, weights)
    return WrappedBackbone(
        network,
        name=name,
        card=CARDS[name],
        layers=network.layers,
        run=lambda pixels, wanted: {
            layer: LayerOutput(map=tokens.patches, cls=tokens.cls)
            for layer, tokens in network.forward_layers(pixels, wanted).items()
        },
        keys=keys,
    )
