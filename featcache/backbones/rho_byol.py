"""``rho-byol-r50``: Slow R50 of rho-BYOL. The network is :mod:`featcache.networks.slow_r50`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from featcache.backbones.base import LayerOutput, WeightsCard, register_backbone
from featcache.backbones.branches import KeyReport, load_branch, take_branch
from featcache.backbones.weights import freeze, locate, read_state_dict, seeded_init, state_hash
from featcache.errors import FeatcacheError
from featcache.networks.slow_r50 import SlowR50

log = logging.getLogger(__name__)

CARD = WeightsCard(
    source="PySlowFast, rho-BYOL with rho = 4 on Kinetics-400, 200 epochs, dl.fbaipublicfiles.com/pyslowfast/"
    "videomoco_models/BYOL_SlowR50_16x4_T4_epoch_00200.pyth",
    license="Apache-2.0 of the repository",
    paper="arXiv:2104.14558",
    file_name="BYOL_SlowR50_16x4_T4_epoch_00200.pyth",
    interpolation="bilinear",
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    num_frames=16,
    frame_stride=4,
)
# The momentum branch is taken, as SCALE does; the online one, every head and the buffers of training go.
_PREFIX = "backbone_hist."
_DROP = ("backbone.*", f"{_PREFIX}head.*", "*.ssl_128*", "knn_mem.*", "ptr", "iter", "queue*")


class RhoBYOLBackbone:
    """Slow R50; see :class:`featcache.backbones.base.Backbone`.

    Attributes:
        network: The frozen network.
        keys: What was taken from the weights file; ``None`` for random weights.
    """

    kind: Literal["image", "video"] = "video"
    card = CARD
    classes: tuple[str, ...] | None = None

    def __init__(self, network: SlowR50, *, keys: KeyReport | None) -> None:
        freeze(network)
        self.network = network
        self.keys = keys
        self.weights_hash = state_hash(network)
        self.layers: tuple[str, ...] = network.stages
        self._device = torch.device("cpu")

    def encode(self, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run once, no further than the last of ``layers``.

        Args:
            pixels: float [B, T, 3, H, W].
            layers: ``s2`` to ``s5``.

        Returns:
            Maps without class token; ``s5`` is [B, T, H/32, W/32, 2048], rounded up, and its mean SCALE's feature.
        """
        outputs = self.network.forward_stages(pixels.to(self._device), layers)
        return {layer: LayerOutput(map=outputs[layer], cls=None) for layer in layers}

    def classify(self, pixels: Tensor) -> Tensor:
        """Raises FeatcacheError: it is trained without labels."""
        raise FeatcacheError("rho-byol-r50 has no classifier; train a probe on its features")

    def to(self, device: str) -> "RhoBYOLBackbone":
        """Move to a device; returns itself."""
        self._device = torch.device(device)
        self.network.to(self._device)
        return self


@register_backbone(
    "rho-byol-r50", summary="Slow R50 of rho-BYOL, Kinetics-400, clips of 16 frames, t x 7 x 7 x 2048", card=CARD
)
def build_rho_byol(name: str, weights: str) -> RhoBYOLBackbone:
    """Build ``rho-byol-r50``.

    Args:
        name: Its name.
        weights: A path may also be of a file with the Slow R50 alone.

    Raises:
        WeightsError: The weights are not at hand or do not fit.
    """
    path = locate(
        weights, backbone=name, stems=[Path(CARD.file_name).stem], origin=CARD.source, published=CARD.file_name
    )
    with seeded_init(name):
        network = SlowR50()
    if path is None:
        return RhoBYOLBackbone(network, keys=None)
    state, dropped = take_branch(read_state_dict(path, nested_under=("model_state",)), prefix=_PREFIX, drop=_DROP)
    keys = load_branch(network, state, source=f"weights file {path} of {name}", dropped=dropped)
    log.info("%s", keys)
    return RhoBYOLBackbone(network, keys=keys)
