"""A backbone with a linear head: clips to class logits, with gradients through both or through the head alone."""

import torch
from torch import Tensor, nn

from featcache.backbones import Backbone, build_backbone
from featcache.backbones.trainable import ClipEncoder, clip_feature, clip_length
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.recipes import FeatureRecipe
from featcache.training.generators import seeded_torch

_HEAD_DEVIATION = 0.01


class VideoClassifier(ClipEncoder):
    """Logits of clips; see :func:`build_classifier`.

    Attributes:
        head: Linear, one row per class.
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
        """Put a new head on a backbone; see :class:`featcache.backbones.trainable.ClipEncoder`.

        Args:
            backbone: As built: frozen.
            recipe: A single vector per clip, in float32.
            num_frames: Frames of a clip.
            num_classes: Outputs of the head.
            dropout: Dropout before the head.
            is_frozen: Leave the backbone as it is, in evaluation mode.
        """
        super().__init__(backbone, recipe, num_frames=num_frames, is_frozen=is_frozen)
        self.head = nn.Linear(self.width, num_classes)
        nn.init.normal_(self.head.weight, std=_HEAD_DEVIATION)
        nn.init.zeros_(self.head.bias)
        self._dropout = nn.Dropout(dropout)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits float [B, num_classes] of clips uint8 [B, T, 3, S, S] on the module's device."""
        logits: Tensor = self.head(self._dropout(self.features(clips)))
        return logits


def build_classifier(
    settings: FinetuneSettings, *, num_classes: int, seed: int, device: torch.device
) -> VideoClassifier:
    """The classifier as a run of this seed begins.

    Args:
        settings: Backbone, weights, and what the head reads.
        num_classes: Outputs of the head.
        seed: Seed of the head.
        device: Where it is to be.

    Raises:
        ConfigError: A backbone that cannot take such clips.
        UnknownNameError: No such backbone or layer.
        WeightsError: The weights are not at hand or do not fit.
    """
    backbone = build_backbone(settings.backbone, weights=settings.weights)
    num_frames = clip_length(backbone, settings.clips.num_frames)
    recipe = clip_feature(
        backbone,
        settings.backbone,
        num_frames=num_frames,
        layer=settings.layer,
        output=settings.output,
        input_size=settings.input_size,
        mean=settings.mean,
        std=settings.std,
    )
    with seeded_torch(seed, "finetune"):
        classifier = VideoClassifier(
            backbone,
            recipe,
            num_frames=num_frames,
            num_classes=num_classes,
            dropout=settings.head_dropout,
            is_frozen=settings.frozen,
        )
    return classifier.placed(device)
