"""The class that implements the protocol from a network, a function that reads its layers, and its classifier."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from featcache.backbones.base import LayerOutput, WeightsCard
from featcache.backbones.branches import KeyReport
from featcache.backbones.weights import freeze, state_hash
from featcache.errors import FeatcacheError

log = logging.getLogger(__name__)

# Pixels on the network's device, float [B, 3, S, S] (image) or [B, T, 3, S, S] (video), and the layers to return.
Run = Callable[[Tensor, frozenset[str]], Mapping[str, LayerOutput]]


class WrappedBackbone:
    """A network behind the protocol; see :class:`featcache.backbones.base.Backbone`.

    Attributes:
        name: Registry name.
        network: The frozen network.
        keys: Account of the weights file; ``None`` for random weights, and for files that are taken completely.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        card: WeightsCard,
        layers: Sequence[str],
        run: Run,
        kind: Literal["image", "video"] = "video",
        keys: KeyReport | None = None,
        classes: Sequence[str] | None = None,
        logits: Callable[[Tensor], Tensor] | None = None,
        no_classes: str = "no classifier; train a probe on its features",
    ) -> None:
        """Freeze a network.

        Args:
            network: The network with its weights.
            name: Registry name.
            card: Card of its weights.
            layers: Layer names, first to last.
            run: Reads layers of ``network``, and runs it no further than the last requested one.
            kind: Kind of input, ``image`` or ``video``.
            keys: Account of the weights file.
            classes: Names of the columns of ``logits``.
            logits: Function from pixels to logits; required if there are ``classes``.
            no_classes: End of the message of a backbone without ``classes``.
        """
        self.name = name
        self.network = freeze(network)
        self.kind = kind
        self.card = card
        self.keys = keys
        if keys is not None:
            log.info("%s", keys)
        self.layers = tuple(layers)
        self.weights_hash = state_hash(network)
        self.classes = None if classes is None else tuple(classes)
        self._run = run
        self._logits = logits
        self._no_classes = no_classes
        self._device = torch.device("cpu")

    def encode(self, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run one forward pass, no further than the last of ``layers``.

        Args:
            pixels: float [B, 3, S, S] or [B, T, 3, S, S], normalised.
            layers: Layer names.

        Returns:
            Maps [B, h, w, C] or [B, t, h, w, C] and, if the network has one, the class token or pooled vector [B, C].

        Raises:
            ConfigError: The network does not support this number or size of frames.
        """
        outputs = self._run(pixels.to(self._device), frozenset(layers))
        return {layer: outputs[layer] for layer in layers}

    @torch.inference_mode()
    def classify(self, pixels: Tensor) -> Tensor:
        """Logits [B, num_classes] of the network's own head.

        Raises:
            FeatcacheError: There is no head, or the names of its classes are unknown.
        """
        if self.classes is None or self._logits is None:
            raise FeatcacheError(f"{self.name} has {self._no_classes}")
        return self._logits(pixels.to(self._device))

    def to(self, device: str) -> "WrappedBackbone":
        """Move the network to a device; returns itself."""
        self._device = torch.device(device)
        self.network.to(self._device)
        return self
