"""A backbone with the head that it was fine-tuned with: what it encodes, and logits over the classes of the run."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.backbones.classifier_file import ClassifierFacts, read_facts, read_head
from featcache.backbones.outputs import to_records
from featcache.backbones.weights import freeze, state_hash
from featcache.errors import WeightsError
from featcache.recipes import Output, Temporal


class TunedBackbone:
    """See :class:`featcache.backbones.base.Backbone`; everything but the classifier is the backbone's own.

    Attributes:
        head: Linear, from the vector of ``recipe`` to one logit per class.
        recipe: Recipe of that vector.
        views: Views by which the run was tested.
        classifier_card: The card, with the preprocessing and the clips with which the run was tested.
    """

    def __init__(self, backbone: Backbone, head: nn.Linear, *, facts: ClassifierFacts) -> None:
        """Put a head on a backbone.

        Args:
            backbone: The built backbone, with its fine-tuned weights.
            head: The head, which is frozen.
            facts: Names of its outputs, the vector that it reads, and the views by which it was tested.
        """
        self.kind: Literal["image", "video"] = backbone.kind
        self.card: WeightsCard = backbone.card
        self.layers = backbone.layers
        self.classes: tuple[str, ...] | None = facts.classes
        self.head = head
        freeze(head)
        self.recipe = recipe = facts.feature
        self.views = facts.views
        self.classifier_card = dataclasses.replace(
            backbone.card,
            input_size=recipe.input_size,
            interpolation=recipe.interpolation,
            mean=recipe.mean,
            std=recipe.std,
            crop_fraction=facts.views.crop_fraction,
            num_frames=facts.views.num_frames,
            frame_stride=facts.views.frame_stride,
        )
        both = f"{backbone.weights_hash}\0{state_hash(head)}"
        self.weights_hash = f"sha256:{hashlib.sha256(both.encode()).hexdigest()}"
        self._backbone = backbone

    @property
    def network(self) -> nn.Module:
        """The network without the head."""
        return self._backbone.network

    def encode(self, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """As the backbone does."""
        return self._backbone.encode(pixels, layers)

    @torch.inference_mode()
    def classify(self, pixels: Tensor) -> Tensor:
        """Logits float32 [B, num_classes] of normalised pixels.

        An image backbone gives them image by image; those of a clip are their mean over its frames.
        """
        layer = self.recipe.layer
        vectors = to_records(self._backbone.encode(pixels, [layer])[layer], self.recipe, num_frames=1)
        logits: Tensor = self.head(vectors)
        return logits

    def to(self, device: str) -> "TunedBackbone":
        """Move network and head to a device; returns itself."""
        self._backbone.to(device)
        self.head.to(device)
        return self


def check_backbone(name: str, path: Path) -> ClassifierFacts:
    """The facts of a classifier that is to be built as the backbone ``name``.

    Raises:
        WeightsError: It is one of another backbone, or damaged.
    """
    facts = read_facts(path)
    if facts.backbone != name:
        raise WeightsError(f"{path} is a fine-tuned {facts.backbone}, not {name}; give --backbone {facts.backbone}")
    return facts


def with_head(backbone: Backbone, facts: ClassifierFacts, path: Path) -> TunedBackbone:
    """Put the head of a classifier on its built backbone.

    Args:
        backbone: The backbone, with the network of the file.
        facts: Facts of the file.
        path: The file.

    Raises:
        WeightsError: The head cannot be read, or does not fit the classes.
    """
    tensors = read_head(path)
    num_classes, width = tensors["weight"].shape
    if num_classes != len(facts.classes):
        raise WeightsError(
            f"the head of {path} has {num_classes} outputs for {len(facts.classes)} classes; train again"
        )
    head = nn.Linear(width, num_classes)
    head.load_state_dict(tensors)
    return TunedBackbone(backbone, head, facts=facts)


def card_for(backbone: Backbone, output: Output | None) -> WeightsCard:
    """The card that says how a backbone is shown clips for an output: for logits of a run, as the run was tested."""
    return backbone.classifier_card if output == "logits" and isinstance(backbone, TunedBackbone) else backbone.card


def temporal_for(backbone: Backbone, output: Output | None) -> Temporal:
    """How clips lie in time for an output, where nothing else is asked for: for logits of a run, as in its test."""
    return backbone.views.temporal if output == "logits" and isinstance(backbone, TunedBackbone) else "uniform"
