"""What the video backbones of libraries share: one class behind the protocol, reading of layers, names of tensors."""

import importlib.util
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import torch
from torch import Tensor, nn

from featcache.backbones.base import LayerOutput, WeightsCard
from featcache.backbones.branches import KeyReport
from featcache.backbones.weights import freeze, state_hash
from featcache.errors import ClipLengthError, ConfigError, FeatcacheError, WeightsError

log = logging.getLogger(__name__)

# Pixels float [B, T, 3, S, S] on the network's device, and the layers to return.
Run = Callable[[Tensor, frozenset[str]], Mapping[str, LayerOutput]]


class VideoBackbone:
    """A video network of a library; see :class:`featcache.backbones.base.Backbone`.

    Attributes:
        name: Registry name.
        network: The frozen network.
        keys: What was taken from the weights file; ``None`` for random weights.
    """

    kind: Literal["image", "video"] = "video"

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        card: WeightsCard,
        layers: Sequence[str],
        run: Run,
        keys: KeyReport | None,
        classes: Sequence[str] | None = None,
        logits: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Freeze a network.

        Args:
            network: With its weights.
            name: Registry name.
            card: Of its weights.
            layers: Layer names, first to last.
            run: Reads layers of ``network``.
            keys: What was taken from the weights file.
            classes: Names of the columns of ``logits``.
            logits: Pixels to logits; needed where there are ``classes``.
        """
        self.name = name
        self.network = freeze(network)
        self.card = card
        self.keys = keys
        if keys is not None:
            log.info("%s", keys)
        self.layers = tuple(layers)
        self.weights_hash = state_hash(network)
        self.classes = None if classes is None else tuple(classes)
        self._run = run
        self._logits = logits
        self._device = torch.device("cpu")

    def encode(self, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run once, no further than the last of ``layers``.

        Args:
            pixels: float [B, T, 3, S, S], normalised.
            layers: Layer names.

        Returns:
            Maps [B, t, h, w, C] and, where the network has a class token or a pooled vector, it [B, C].

        Raises:
            ConfigError: The network cannot take so many frames, or frames of this size.
        """
        outputs = self._run(pixels.to(self._device), frozenset(layers))
        return {layer: outputs[layer] for layer in layers}

    @torch.inference_mode()
    def classify(self, pixels: Tensor) -> Tensor:
        """Logits [B, num_classes] of the network's own head.

        Raises:
            FeatcacheError: There is no head, or nobody says what its classes are called.
        """
        if self.classes is None or self._logits is None:
            raise FeatcacheError(
                f"{self.name} has no classifier with class names; choose a fine-tuned backbone, with its checkpoint's "
                "config.json beside the weights"
            )
        return self._logits(pixels.to(self._device))

    def to(self, device: str) -> "VideoBackbone":
        """Move to a device; returns itself."""
        self._device = torch.device(device)
        self.network.to(self._device)
        return self


def tap(x: Any, steps: Iterable[tuple[str, Callable[[Any], Any]]], wanted: frozenset[str]) -> dict[str, Any]:
    """Apply ``steps`` one after another and keep what the wanted ones give; stop after the last of them."""
    kept: dict[str, Any] = {}
    for name, step in steps:
        x = step(x)
        if name in wanted:
            kept[name] = x
        if len(kept) == len(wanted):
            break
    return kept


def token_grid(pixels: Tensor, *, name: str, tubelet: int, patch: int) -> tuple[int, int, int]:
    """How many tokens (t, h, w) clips [B, T, 3, S, S] make.

    Raises:
        ClipLengthError: Frames that would be left over.
        ConfigError: Pixels that would be left over.
    """
    frames, (height, width) = pixels.shape[1], pixels.shape[-2:]
    if frames % tubelet:
        raise ClipLengthError(
            f"{name} joins {tubelet} frames in a token and cannot take clips of {frames}; "
            f"set sampling.num_frames to a multiple of {tubelet}"
        )
    if height % patch or width % patch:
        raise ConfigError(
            f"{name} cuts frames into patches of {patch} pixels and cannot take {height} x {width}; "
            f"set input_size to a multiple of {patch}"
        )
    return frames // tubelet, height // patch, width // patch


def require_transformers(name: str) -> None:
    """Say how to install the library that ``name`` is built with.

    Raises:
        ConfigError: It is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(f"backbone {name!r} needs the library transformers; run: pip install 'featcache[video]'")


def hub_files(repository: str) -> list[tuple[str, str]]:
    """The files of weights that a repository of the hub may hold, best first."""
    return [(repository, "model.safetensors"), (repository, "pytorch_model.bin")]


def hub_class_names(weights: Path, *, repository: str, num_classes: int) -> tuple[str, ...] | None:
    """Class names as a checkpoint's ``config.json`` gives them, beside the weights or, for the hub's, on the hub.

    Args:
        weights: The file the weights were read from.
        repository: Where the hub has them.
        num_classes: Columns of the classifier.

    Returns:
        Names in order, or ``None`` where there is no such file or it names no classes.

    Raises:
        WeightsError: The file is no JSON, or names another number of classes.
    """
    path = weights.with_name("config.json")
    if not path.is_file() and f"models--{repository.replace('/', '--')}" in weights.parts:
        try:
            path = Path(huggingface_hub.hf_hub_download(repository, "config.json"))
        except (OSError, ValueError) as error:
            log.warning("no class names of %s: %s", repository, str(error).partition("\n")[0])
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8")).get("id2label")
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise WeightsError(f"{path} beside the weights is no configuration of a model; mend or remove it") from error
    if not isinstance(names, dict):
        return None
    if set(names) != {str(index) for index in range(num_classes)}:
        raise WeightsError(
            f"{path} names {len(names)} classes and the classifier has {num_classes}; "
            "put the configuration of these weights beside them"
        )
    return tuple(str(names[str(index)]) for index in range(num_classes))
