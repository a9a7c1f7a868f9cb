"""Classifiers of videos that are ready to use: fine-tuned models, and backbones with a classifier of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from featcache.backbones import Backbone, build_backbone
from featcache.backbones.base import WeightsCard
from featcache.backbones.classifier_file import read_facts, read_head
from featcache.backbones.trainable import IMAGE_FRAMES, clip_length
from featcache.backbones.weights import state_hash
from featcache.backbones.zero_shot import ZeroShot, zero_shot
from featcache.data.decoding.clips import CropSize
from featcache.data.transforms import normalise
from featcache.errors import ConfigError
from featcache.methods.finetune.module import VideoClassifier
from featcache.recipes import SamplingRecipe
from featcache.training.generators import seeded_torch
from featcache.training.settings import Precision

_CLIPS_AT_ONCE = 8


class OwnClassifier(nn.Module):
    """The classifier that a backbone's weights come with, on clips; the logits of frames are averaged over a clip.

    Attributes:
        network: The backbone's network.
        num_classes: Number of classes.
    """

    def __init__(self, backbone: Backbone, *, num_classes: int) -> None:
        """Take a backbone that has such a classifier."""
        super().__init__()
        self.network = backbone.network
        self.num_classes = num_classes
        self._backbone = backbone

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [B, num_classes] of clips uint8 [B, T, 3, S, S]."""
        card = self._backbone.card
        pixels = normalise(clips, mean=card.mean, std=card.std)
        if self._backbone.kind == "video":
            return self._backbone.classify(pixels)
        logits = self._backbone.classify(pixels.flatten(0, 1))
        return torch.unflatten(logits, 0, clips.shape[:2]).mean(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadyClassifier:
    """A classifier, and how a video is shown to it.

    Attributes:
        module: From clips to logits, in evaluation mode.
        classes: Class names in the order of the logits.
        views: Recipe of the views of a video.
        crop: How their boxes are resized.
        average: What is averaged over the views.
        precision: Dtype of the forward pass.
        clips_at_once: Number of clips per forward pass.
        weights_hash: Hash of the weights, the classifier's included.
    """

    module: VideoClassifier | OwnClassifier | ZeroShot
    classes: tuple[str, ...]
    views: SamplingRecipe
    crop: CropSize
    average: Literal["softmax", "logits"]
    precision: Precision
    clips_at_once: int
    weights_hash: str


def fine_tuned(path: Path, *, device: torch.device) -> ReadyClassifier:
    """A classifier that ``train finetune`` has written, with the run's test views.

    Args:
        path: Its ``classifier.safetensors``.
        device: Device of the module.

    Raises:
        WeightsError: It is no such file, or damaged.
        PluginError: Its backbone is of a package or file that is not there.
    """
    facts = read_facts(path)
    backbone = build_backbone(facts.backbone, weights=str(path))
    with seeded_torch(0, "finetune"):  # a head that is replaced at once
        module = VideoClassifier(
            backbone,
            replace(facts.feature, weights_hash=backbone.weights_hash),
            num_frames=facts.views.num_frames,
            num_classes=len(facts.classes),
            dropout=0.0,
            is_frozen=True,
        )
    module.head.load_state_dict(read_head(path))
    return ReadyClassifier(
        module=module.placed(device).eval(),
        classes=facts.classes,
        views=facts.views,
        crop=CropSize(size=facts.feature.input_size, interpolation=facts.feature.interpolation),
        average=facts.average,
        precision=facts.precision,
        clips_at_once=facts.clips_at_once,
        weights_hash=backbone.weights_hash,
    )


def of_backbone(name: str, weights: str, *, device: torch.device) -> ReadyClassifier:
    """The classifier of a backbone's own, with four clips of a video as its card describes them.

    Args:
        name: Registry name, e.g. ``i3d``.
        weights: ``default``, ``random`` or the path of a file.
        device: Device of the module.

    Raises:
        ConfigError: It has none.
        UnknownNameError: There is no such backbone.
        WeightsError: The weights cannot be found or do not fit.
    """
    backbone = build_backbone(name, weights=weights)
    if backbone.classes is None:
        raise ConfigError(
            f"backbone {name!r} has no classifier of its own; fine-tune it with `featcache train finetune` and give "
            "--model the folder of that run"
        )
    backbone.to(str(device))
    module = OwnClassifier(backbone, num_classes=len(backbone.classes)).eval()
    return _as_its_card_says(
        module,
        backbone.card,
        classes=backbone.classes,
        num_frames=clip_length(backbone, None),
        weights_hash=backbone.weights_hash,
    )


def of_names(name: str, weights: str, *, classes: Sequence[str], prompt: str, device: torch.device) -> ReadyClassifier:
    """A classifier of named classes, by the text tower of a backbone; see :mod:`featcache.backbones.zero_shot`.

    Args:
        name: Registry name, e.g. ``xclip-b16``.
        weights: ``default``, ``random`` or the path of a file.
        classes: Class names.
        prompt: What the text tower reads for a class.
        device: Device of the module.

    Raises:
        FeatcacheError: The text tower is a language model of the hub.
        WeightsError: The weights cannot be found, hold no text side, or do not fit.
    """
    module = zero_shot(name, weights, classes=classes, prompt=prompt).to(device)
    num_frames = module.card.num_frames if module.card.num_frames > 1 else IMAGE_FRAMES
    return _as_its_card_says(
        module, module.card, classes=module.classes, num_frames=num_frames, weights_hash=state_hash(module)
    )


def _as_its_card_says(
    module: OwnClassifier | ZeroShot,
    card: WeightsCard,
    *,
    classes: tuple[str, ...],
    num_frames: int,
    weights_hash: str,
) -> ReadyClassifier:
    """A classifier with four clips of a video as the card of its weights describes them."""
    return ReadyClassifier(
        module=module,
        classes=classes,
        views=SamplingRecipe(
            num_frames=num_frames,
            frame_stride=card.frame_stride,
            spatial="views",
            crop_fraction=card.crop_fraction,
        ),
        crop=CropSize(size=card.input_size, interpolation=card.interpolation),
        average="softmax",
        precision="float32",
        clips_at_once=_CLIPS_AT_ONCE,
        weights_hash=weights_hash,
    )
