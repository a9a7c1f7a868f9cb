"""A backbone with a linear head: clips to class logits, with gradients through both or through the head alone."""

import dataclasses
from typing import Self

import torch
from torch import Tensor, nn

from featcache.backbones import Backbone, build_backbone
from featcache.backbones.outputs import has_class_token, record_spec, resolve_recipe, to_records
from featcache.backbones.registry import check_name
from featcache.backbones.weights import given_file
from featcache.data.transforms import normalise
from featcache.errors import ConfigError
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.recipes import FeatureRecipe
from featcache.training.generators import seeded_torch

IMAGE_FRAMES = 8
"""Frames of a clip for a backbone that sees images, where settings leave it open; as ``extract`` has it."""
_HEAD_DEVIATION = 0.01


class VideoClassifier(nn.Module):
    """Logits of clips; see :func:`build_classifier`.

    Its features are those that ``extract`` stores as float32.

    Attributes:
        network: Of the backbone.
        head: Linear, a row a class.
        recipe: Which feature the head reads.
        num_frames: Frames of a clip.
    """

    def __init__(
        self,
        backbone: Backbone,
        recipe: FeatureRecipe,
        *,
        num_frames: int,
        num_classes: int,
        dropout: float,
        is_frozen: bool,
    ) -> None:
        """Put a new head on a backbone.

        Args:
            backbone: As built: frozen.
            recipe: A single vector a clip, in float32.
            num_frames: Frames of a clip.
            num_classes: Outputs of the head.
            dropout: Before the head.
            is_frozen: Leave the backbone as it is, in evaluation mode.

        Raises:
            ConfigError: The backbone cannot take such clips.
        """
        super().__init__()
        record = record_spec(backbone, recipe, num_frames=num_frames, layout="clips")
        assert len(record.shape) == 1, f"{recipe.output} of {recipe.backbone} is no vector: {record}"
        self.network = backbone.network.requires_grad_(not is_frozen)
        self.head = nn.Linear(record.shape[0], num_classes)
        nn.init.normal_(self.head.weight, std=_HEAD_DEVIATION)
        nn.init.zeros_(self.head.bias)
        self.recipe = recipe
        self.num_frames = num_frames
        self._backbone = backbone
        self._dropout = nn.Dropout(dropout)
        self._is_frozen = is_frozen

    def train(self, mode: bool = True) -> Self:
        """Training mode, but never of a frozen backbone."""
        super().train(mode)
        if self._is_frozen:
            self.network.eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        """Logits float [B, num_classes] of clips uint8 [B, T, 3, S, S] on the module's device.

        Raises:
            ConfigError: The backbone is to be trained, and its ``encode`` lets no gradient through.
        """
        features = self.features(clips)
        if self.training and torch.is_grad_enabled() and not (self._is_frozen or features.requires_grad):
            raise ConfigError(
                f"no gradient reaches the network of {self.recipe.backbone!r}, since its encode runs under "
                "torch.inference_mode or torch.no_grad, or detaches what it returns: only the head would be trained; "
                "take that off encode, or train the head alone with --linear"
            )
        if features.is_inference():  # a head cannot learn from such tensors, and may from copies of them
            features = features.clone()
        logits: Tensor = self.head(self._dropout(features))
        return logits

    def features(self, clips: Tensor) -> Tensor:
        """What the head reads of clips uint8 [B, T, 3, S, S]: float32 [B, C]."""
        recipe = self.recipe
        pixels = normalise(clips, mean=recipe.mean, std=recipe.std)
        if self._backbone.kind == "image":
            pixels = pixels.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        output = self._backbone.encode(pixels, [recipe.layer])[recipe.layer]
        return to_records(output, recipe, num_frames=self.num_frames)


def check_backbone(settings: FinetuneSettings) -> None:
    """Check the names of backbone and weights file, before videos are listed, which takes long.

    Raises:
        UnknownNameError: No such backbone.
        WeightsError: No such file.
    """
    check_name(settings.backbone)
    if settings.weights not in ("default", "random"):
        given_file(settings.weights, backbone=settings.backbone)


def build_classifier(
    settings: FinetuneSettings, *, num_classes: int, seed: int, device: torch.device
) -> VideoClassifier:
    """The classifier as a run of this seed begins.

    Args:
        settings: Backbone, weights, and what the head reads.
        num_classes: Outputs of the head.
        seed: Of the head.
        device: Where it is to be.

    Raises:
        ConfigError: A backbone that cannot take such clips.
        UnknownNameError: No such backbone or layer.
        WeightsError: The weights are not at hand or do not fit.
    """
    backbone = build_backbone(settings.backbone, weights=settings.weights)
    num_frames = settings.clips.num_frames or (IMAGE_FRAMES if backbone.kind == "image" else backbone.card.num_frames)
    recipe = _feature(backbone, settings, num_frames=num_frames)
    with seeded_torch(seed, "finetune"):
        classifier = VideoClassifier(
            backbone,
            recipe,
            num_frames=num_frames,
            num_classes=num_classes,
            dropout=settings.head_dropout,
            is_frozen=settings.frozen,
        )
    backbone.to(str(device))
    return classifier.to(device)


def _feature(backbone: Backbone, settings: FinetuneSettings, *, num_frames: int) -> FeatureRecipe:
    """The vector that the head reads, as a recipe of extraction."""
    recipe = resolve_recipe(
        backbone,
        settings.backbone,
        layer=settings.layer,
        output=settings.output,
        average_frames=backbone.kind == "image",
        input_size=settings.input_size,
        mean=settings.mean,
        std=settings.std,
        precision="float32",
    )
    if settings.output is None and has_class_token(backbone, recipe, num_frames=num_frames):
        return dataclasses.replace(recipe, output="cls")
    return recipe
