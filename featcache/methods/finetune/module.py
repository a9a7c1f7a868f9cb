"""A backbone with a linear head: clips to class logits, with gradients through both or only through the head."""

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
        num_classes: Number of its rows.
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
            backbone: The built, frozen backbone.
            recipe: Recipe of a single vector per clip, in float32.
            num_frames: Number of frames per clip.
            num_classes: Number of outputs of the head.
            dropout: Dropout rate before the head.
            is_frozen: Keep the backbone frozen, in evaluation mode.
        """
        super().__init__(backbone, recipe, num_frames=num_frames, is_frozen=is_frozen)
        self.num_classes = num_classes
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
    """The initial classifier of a run with this seed.

    Args:
        settings: Backbone, weights, and the feature that the head reads.
        num_classes: Number of outputs of the head.
        seed: Seed of the head.
        device: Device of the classifier.

    Raises:
        ConfigError: The backbone cannot take such clips.
        UnknownNameError: There is no such backbone or layer.
        WeightsError: The weights cannot be found or do not fit.
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
