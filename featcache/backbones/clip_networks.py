"""The 3-D networks of the pretext-task benchmark, ``r21d``, ``c3d``, …, and thin ones, ``r21d-tiny``, ``c3d-tiny``, ….

Layers are those of :mod:`featcache.networks.clip_network`. The last one has, beside its map, the vector that heads read
as a class token: the average of the map, which some networks project to 512 channels.

Files are those of a run of featcache, and the published ones, of which heads, queues and the key network are dropped:
VCOP's and PRP's (names begin with ``base_network.``), RSPNet's (``encoder_q.encoder.``), what each of them fine-tuned
(nothing, or ``encoder.``), and torchvision's ``swin3d_t``. ``module.`` may come before all names.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.errors import ClipLengthError, WeightsError
from featcache.networks.catalogue import NETWORKS, WIDTHS, build_network

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featcache.backbones.branches import KeyReport
    from featcache.networks.clip_network import ClipNetwork

_OWN = WeightsCard(
    source="nothing is published: train one, then pass --weights with its file",
    license="yours",
    input_size=112,
    interpolation="bilinear",
    num_frames=16,
)
_RSPNET = replace(
    _OWN,
    source="RSPNet, Kinetics-400, 200 epochs, github.com/PeihaoChen/RSPNet release pretrained_model",
    license="none stated",
    paper="arXiv:2011.07949",
)
_NAMES = {f"{network}{ending}": (network, width) for network in NETWORKS for ending, width in WIDTHS.items()}
CARDS: Mapping[str, WeightsCard] = {
    **{name: replace(_OWN, file_name=f"{name}.safetensors") for name in _NAMES},
    "c3d": replace(_RSPNET, file_name="model_best_c3d_200epoch.pth.tar"),
    "r21d": replace(_RSPNET, file_name="model_best_r21d_200epoch.pth.tar"),
}

# What the names of a network begin with in published files, and patterns of what else such a file holds.
_LAYOUTS = {
    "encoder_q.encoder.": ("encoder_q.encoder.linear.*", "encoder_q.fc[12].*", "encoder_k.*", "queue", "queue_ptr"),
    "base_network.": ("base_network.linear.*", "fc*", "lstm.*", "gru.*", "conv6_*", "up[1-4]*", "outc.*"),
    "encoder.": ("encoder.linear.*", "fc.*"),
    "": ("linear.*", "head.*"),
}
# PRP joins each convolution of its C3D with the normalisation after it, and numbers those of a stage.
_PRP_C3D = re.compile(r"conv(\d)(?:_([12]))?\.conv3d\.([01])\.(\w+)")


def build(name: str, weights: str) -> Backbone:
    """Build one of :data:`CARDS`.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    from featcache.backbones.weights import locate, seeded_init
    from featcache.backbones.wrapped import WrappedBackbone

    card = CARDS[name]
    network_name, width = _NAMES[name]
    stems = dict.fromkeys((card.file_name.partition(".")[0], name))
    path = locate(weights, backbone=name, stems=[*stems], origin=card.source, published=card.file_name)
    with seeded_init(name):
        network = build_network(network_name, width=width)
    keys = None if path is None else _load(network, path, name=name)
    return WrappedBackbone(
        network,
        name=name,
        card=card,
        layers=network.layers,
        run=lambda pixels, wanted: _read(network, pixels, wanted, name=name),
        keys=keys,
    )


def _read(network: "ClipNetwork", pixels: "Tensor", wanted: frozenset[str], *, name: str) -> Mapping[str, LayerOutput]:
    if pixels.shape[1] < network.min_frames:
        raise ClipLengthError(
            f"{name} takes clips of at least {network.min_frames} frames, not {pixels.shape[1]}; "
            "set sampling.num_frames"
        )
    maps = network.forward_layers(pixels.transpose(1, 2).contiguous(), wanted)
    return {
        layer: LayerOutput(
            map=x.permute(0, 2, 3, 4, 1), cls=network.vector_of(x) if layer == network.layers[-1] else None
        )
        for layer, x in maps.items()
    }


def _load(network: "ClipNetwork", path: Path, *, name: str) -> "KeyReport":
    """Load a file strictly.

    Raises:
        WeightsError: It lacks a tensor, or holds an unknown one or one of another shape; says which of the networks it
            is, if it is one of them.
    """
    from featcache.backbones.branches import load_branch
    from featcache.backbones.weights import read_state_dict

    source = f"weights file {path} of {name}"
    state, dropped = _take(read_state_dict(path))
    try:
        return load_branch(network, state, source=source, dropped=dropped)
    except WeightsError as error:
        shapes = {key: tensor.shape for key, tensor in state.items()}
        for other in _NAMES:
            if other != name and _shapes(other).items() <= shapes.items():
                raise WeightsError(f"{source} is one of {other}; give --backbone {other}, or another file") from error
        raise


def _take(state: Mapping[str, "Tensor"]) -> tuple[dict[str, "Tensor"], tuple[str, ...]]:
    """The tensors of a network under the names of :mod:`featcache.networks`, and the dropped names."""
    from featcache.backbones.branches import take_branch

    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    prefix = next(prefix for prefix in _LAYOUTS if any(name.startswith(prefix) for name in state) or not prefix)
    taken, dropped = take_branch(state, prefix=prefix, drop=_LAYOUTS[prefix])
    return {_PRP_C3D.sub(_unjoined, name): tensor for name, tensor in taken.items()}, dropped


def _unjoined(found: re.Match[str]) -> str:
    """The name of a tensor of C3D in VCOP's code, from that in PRP's."""
    stage, place, member, kind = found.groups()
    letter = "" if place is None else "ab"[int(place) - 1]
    return f"{('conv', 'bn')[int(member)]}{stage}{letter}.{kind}"


def _shapes(name: str) -> dict[str, "torch.Size"]:
    """Shapes of a backbone's parameters and running statistics."""
    import torch

    network, width = _NAMES[name]
    with torch.device("meta"):
        state = build_network(network, width=width).state_dict()
    return {key: tensor.shape for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
