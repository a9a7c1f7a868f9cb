"""Classifiers out of names: how near a video's vector is to what a model's text tower makes of each class.

* CLIP (``clip-*``, ``open_clip/<arch>:<tag>``): the vectors of the frames are averaged over time, as in ViFi-CLIP,
  whose files are read too (``module.image_encoder.*``).
* X-CLIP (``xclip-b16``): the video's vector, and texts that its prompt generator adapts to the video.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.backbones import clip, xclip
from featcache.backbones.base import WeightsCard
from featcache.backbones.weights import freeze, hub_files, load_strict, locate, read_state_dict, seeded_init
from featcache.data.transforms import normalise

if TYPE_CHECKING:
    from transformers import XCLIPModel

_FIRST_SCALE = 1 / 0.07
"""Scale of cosines at the start of CLIP's training, for random weights."""
_CONTEXT = 77


class ZeroShot(nn.Module):
    """Logits of clips over named classes; frozen, in evaluation mode.

    Attributes:
        card: Card of the weights.
        classes: Class names in the order of the logits.
        num_classes: Their number.
    """

    def __init__(
        self, network: "TimeAveragedClip | PromptedXclip", *, card: WeightsCard, classes: Sequence[str]
    ) -> None:
        """Freeze a network from normalised clips [B, T, 3, S, S] to logits."""
        super().__init__()
        self.network = freeze(network)
        self.card = card
        self.classes = tuple(classes)
        self.num_classes = len(self.classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits float [B, num_classes] of clips uint8 [B, T, 3, S, S]."""
        logits: Tensor = self.network(normalise(clips, mean=self.card.mean, std=self.card.std))
        return logits


class TimeAveragedClip(nn.Module):
    """CLIP on clips: the mean of the frames' vectors against the vectors of texts."""

    def __init__(self, visual: nn.Module, texts: Tensor, *, scale: float) -> None:
        """Take an image tower.

        Args:
            visual: From frames [N, 3, S, S] to vectors [N, D].
            texts: float32 [classes, D], vectors of the classes.
            scale: Factor of the cosines.
        """
        super().__init__()
        self.visual = visual
        self.texts: Tensor
        self.register_buffer("texts", functional.normalize(texts, dim=1))
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, classes] of clips [B, T, 3, S, S]."""
        vectors = torch.unflatten(self.visual(pixels.flatten(0, 1)), 0, pixels.shape[:2]).mean(dim=1)
        return self.scale * functional.normalize(vectors, dim=1) @ self.texts.T


class PromptedXclip(nn.Module):
    """X-CLIP with the vectors of some texts."""

    def __init__(self, whole: "XCLIPModel", texts: Tensor, *, num_blocks: int, name: str) -> None:
        """Take the vision side and the prompt generator of a whole model.

        Args:
            whole: The model.
            texts: float32 [classes, D], vectors of the classes before they are adapted to a video.
            num_blocks: Number of blocks of its vision side.
            name: Registry name, for messages.
        """
        super().__init__()
        self.vision = nn.ModuleDict({part: getattr(whole, part) for part in xclip.VISION_SIDE})
        self.layernorm: nn.Module = whole.prompts_visual_layernorm
        self.projection: Tensor = whole.prompts_visual_projection
        self.generator: nn.Module = whole.prompts_generator
        self.texts: Tensor
        self.register_buffer("texts", texts)
        self.scale: Tensor
        self.register_buffer("scale", whole.logit_scale.detach().exp())
        self._last = f"blocks.{num_blocks - 1}"
        self._name = name

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, classes] of clips [B, T, 3, S, S]."""
        layers = xclip.read_layers(self.vision, pixels, frozenset({self._last, "video"}), name=self._name)
        patches, video = layers[self._last].map, layers["video"].cls
        assert patches is not None, "a block has a map"
        assert video is not None, "the video has a vector"
        seen = (self.layernorm(patches.flatten(2, 3)) @ self.projection).mean(dim=1)
        texts = self.texts.expand(len(pixels), -1, -1)
        texts = functional.normalize(texts + self.generator(texts, seen), dim=2)
        return self.scale * torch.einsum("bd,bkd->bk", functional.normalize(video, dim=1), texts)


def is_zero_shot(name: str) -> bool:
    """Whether a backbone has a text tower that names classes."""
    return clip.is_clip(name) or name in xclip.CARDS


def zero_shot(name: str, weights: str, *, classes: Sequence[str], prompt: str = "{}") -> ZeroShot:
    """A classifier of some classes.

    Args:
        name: Registry name for which :func:`is_zero_shot` holds.
        weights: ``default``, ``random`` or the path of a file that holds both sides.
        classes: Class names.
        prompt: What is read for a class, whose words take the place of ``{}``.

    Raises:
        FeatcacheError: The text tower is a language model of the hub.
        WeightsError: The weights cannot be found, hold no text side, or do not fit.
    """
    texts = [prompt.replace("{}", words_of(each)) for each in classes]
    build = _of_clip if clip.is_clip(name) else _of_xclip
    network, card = build(name, weights, texts)
    return ZeroShot(network, card=card, classes=classes)


def words_of(name: str) -> str:
    """The words of a class name: ``ApplyEyeMakeup`` and ``apply_eye_makeup`` are ``apply eye makeup``."""
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").split()).lower()


def _of_clip(name: str, weights: str, texts: Sequence[str]) -> tuple[TimeAveragedClip, WeightsCard]:
    from featcache.backbones.clip_text import build_text

    backbone = clip.build(name, weights)
    parsed = clip.parse_name(name)
    path = clip.find_weights(name, parsed, weights)
    scale = _FIRST_SCALE if path is None else _scale_of(clip.read_clip(path))
    vectors = build_text(name, weights).encode(texts)
    return TimeAveragedClip(backbone.network, vectors, scale=scale), backbone.card


def _scale_of(state: dict[str, Tensor]) -> float:
    return state["logit_scale"].float().exp().item() if "logit_scale" in state else _FIRST_SCALE


def _of_xclip(name: str, weights: str, texts: Sequence[str]) -> tuple[PromptedXclip, WeightsCard]:
    import open_clip
    from transformers import XCLIPModel

    stems = [name, xclip.REPOSITORY.rpartition("/")[2]]
    path = locate(weights, backbone=name, stems=stems, hub=hub_files(xclip.REPOSITORY), origin=xclip.CARD.source)
    with seeded_init(name):
        whole: Any = XCLIPModel(xclip.whole_config())
    if path is not None:
        state = {key: value for key, value in read_state_dict(path).items() if key not in xclip.COUNTERS}
        load_strict(whole, state, source=f"weights file {path} of {name}, both sides")
    whole.eval()
    tokens = open_clip.SimpleTokenizer(context_length=_CONTEXT)(list(texts))
    with torch.no_grad():
        vectors = whole.text_projection(whole.text_model(input_ids=tokens).pooler_output)
    num_blocks = len(whole.vision_model.encoder.layers)
    return PromptedXclip(whole, vectors, num_blocks=num_blocks, name=name), xclip.CARD
