"""The image towers of open_clip behind the protocol; imported when one is built, because open_clip takes seconds.

Layers of a vision transformer are ``proj`` (the vector in the space shared with text), ``blocks.0`` to
``blocks.N-1`` and ``post`` (tokens after the final normalisation, before the projection: what AdViSe takes), which is
the default. Other towers have ``proj`` and their stages.

Only the image tower is built. The text tower comes from the same file: see :mod:`featcache.backbones.clip_text`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.model import _build_vision_tower  # the public factory builds the text tower too, from the hub for some
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from featcache.backbones._timm import stage_names
from featcache.backbones.base import LayerOutput, WeightsCard
from featcache.backbones.clip import OPENAI, PREFIX
from featcache.backbones.weights import freeze, load_strict, locate, read_state_dict, seeded_init, state_hash
from featcache.errors import ConfigError, FeatcacheError, unknown_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipName:
    """What a registry name means to open_clip.

    Attributes:
        architecture: E.g. ``ViT-L-14``.
        tag: Of the weights, e.g. ``openai``.
        quick_gelu: Whether these weights were trained with the sigmoid approximation of GELU, as OpenAI's were.
    """

    architecture: str
    tag: str
    quick_gelu: bool


def parse_name(name: str) -> ClipName:
    """Read ``clip-l14`` or ``open_clip/<arch>:<tag>``.

    Raises:
        UnknownNameError: open_clip has no such architecture or tag.
        ConfigError: No tag given.
    """
    architecture, colon, tag = f"{OPENAI[name]}:openai".partition(":") if name in OPENAI else _split(name)
    if architecture not in open_clip.list_models():
        raise unknown_name("open_clip architecture", architecture, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not colon:
        raise ConfigError(
            f"backbone {name!r} names no weights; write {name}:<tag> with a tag such as {', '.join(tags[:5])}"
        )
    if tag not in tags:
        raise unknown_name(f"weights tag of {PREFIX}{architecture}", tag, tags)
    config = open_clip.get_model_config(architecture)
    quick_gelu = open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False)
    return ClipName(architecture=architecture, tag=tag, quick_gelu=quick_gelu or config.get("quick_gelu", False))


class ClipBackbone:
    """The image tower of a CLIP model; see :class:`featcache.backbones.base.Backbone`.

    Attributes:
        name: Registry name.
        network: The frozen tower.
    """

    kind: Literal["image", "video"] = "image"
    classes: tuple[str, ...] | None = None

    def __init__(self, visual: nn.Module, *, name: str, card: WeightsCard) -> None:
        self.name = name
        self.network = freeze(visual)
        self.card = card
        self.weights_hash = state_hash(visual)
        self._stages = _stage_names(visual)
        self._has_class_token = isinstance(visual, VisionTransformer)
        self._has_post = _normalises_tokens(visual)
        # The last is the default: the joint vector, which has no map, stands first.
        self.layers = ("proj", *self._stages, *(("post",) if self._has_post else ()))
        self._device = torch.device("cpu")

    def encode(self, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run once, no further than the last of ``layers``.

        Args:
            pixels: float [B, 3, S, S], normalised.
            layers: Layer names.

        Returns:
            Blocks and ``post``: map [B, h, w, width] and class token [B, width]. ``proj``: vector [B, joint] alone.
        """
        if pixels.shape[-1] != self.card.input_size:
            raise ConfigError(
                f"{self.name} takes {self.card.input_size} pixels a side, not {pixels.shape[-1]}; "
                f"set input_size to {self.card.input_size}"
            )
        whole = "proj" in layers
        last = len(self._stages) - 1
        wanted = {index for index, stage in enumerate(self._stages) if stage in layers}
        # All of them for the joint vector: the residual towers stop at the last stage asked for.
        indices = list(range(last + 1)) if whole else sorted(wanted | ({last} if "post" in layers else set()))
        result: dict[str, Any] = self.network.forward_intermediates(  # type: ignore[operator]
            pixels.to(self._device),
            indices=indices,
            stop_early=not whole,
            intermediates_only=not whole,
            output_extra_tokens=self._has_class_token,
        )
        outputs = {}
        for position, index in enumerate(indices):
            dense = result["image_intermediates"][position].permute(0, 2, 3, 1)
            cls = result["image_intermediates_prefix"][position][:, 0] if self._has_class_token else None
            outputs[self._stages[index]] = LayerOutput(map=dense, cls=cls)
        if "post" in layers:
            outputs["post"] = self._normalised(outputs[self._stages[last]])
        if whole:
            outputs["proj"] = LayerOutput(map=None, cls=result["image_features"])
        return {layer: outputs[layer] for layer in layers}

    def classify(self, pixels: Tensor) -> Tensor:
        """Not available: CLIP classifies through its text tower.

        Raises:
            FeatcacheError: Always.
        """
        raise FeatcacheError(f"{self.name} has no classifier; probe its features instead")

    def to(self, device: str) -> "ClipBackbone":
        """Move to a device; returns itself."""
        self._device = torch.device(device)
        self.network.to(self._device)
        return self

    def _normalised(self, tokens: LayerOutput) -> LayerOutput:
        assert tokens.map is not None, "a transformer's block has a map"
        assert tokens.cls is not None, "a transformer's block has a class token"
        norm: nn.Module = self.network.ln_post  # type: ignore[assignment]
        return LayerOutput(map=norm(tokens.map), cls=norm(tokens.cls))


def _split(name: str) -> tuple[str, str, str]:
    return name.removeprefix(PREFIX).partition(":")


def _stage_names(visual: nn.Module) -> tuple[str, ...]:
    """Names of the intermediates that the tower gives, first to last."""
    if isinstance(visual, VisionTransformer):
        return tuple(f"blocks.{index}" for index in range(visual.transformer.layers))
    if isinstance(visual, ModifiedResNet):
        return ("stem", "layer1", "layer2", "layer3", "layer4")
    trunk: nn.Module = visual.trunk  # type: ignore[assignment]
    return stage_names(trunk)


def _normalises_tokens(visual: nn.Module) -> bool:
    return isinstance(visual, VisionTransformer) and visual.attn_pool is None and not visual.final_ln_after_pool


def _stem(name: str) -> str:
    """File name without suffix in the weights folder: ``clip-l14``, ``ViT-B-32.laion2b_s34b_b79k``."""
    return name.removeprefix(PREFIX).replace(":", ".")


def _hub_files(clip: ClipName) -> list[tuple[str, str]]:
    """Where the weights are on the hub; open_clip's table gives ``repository/`` or ``repository/file``."""
    repository, _, file = open_clip.get_pretrained_cfg(clip.architecture, clip.tag).get("hf_hub", "").rpartition("/")
    if not repository:
        return []
    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    return [(repository, name) for name in names]


def find_weights(name: str, clip: ClipName, weights: str) -> Path | None:
    """The file of both towers that ``weights`` means, or ``None`` for ``random``.

    Raises:
        WeightsError: Nothing found; says which file to put where.
    """
    return locate(weights, backbone=name, stems=[_stem(name)], hub=_hub_files(clip))


def card_of(name: str, clip: ClipName) -> WeightsCard:
    """What open_clip's tables say of the weights."""
    published = open_clip.get_pretrained_cfg(clip.architecture, clip.tag)
    size = open_clip.get_model_config(clip.architecture)["vision_cfg"].get("image_size", 224)
    by_openai = clip.tag == "openai"
    return WeightsCard(
        source=f"open_clip {clip.architecture}, tag {clip.tag}",
        license="MIT" if by_openai else "see the publisher",
        paper="arXiv:2103.00020" if by_openai else "",
        file_name=f"{_stem(name)}.safetensors",
        input_size=size if isinstance(size, int) else size[0],
        crop_fraction=1.0,
        interpolation="bilinear" if published.get("interpolation") == "bilinear" else "bicubic",
        mean=tuple(published.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(published.get("std", open_clip.OPENAI_DATASET_STD)),
    )


def build(name: str, weights: str) -> ClipBackbone:
    """Build ``clip-*`` or ``open_clip/<arch>:<tag>``.

    Raises:
        UnknownNameError: open_clip has no such architecture or tag.
        WeightsError: The weights are not at hand or do not fit.
    """
    clip = parse_name(name)
    path = find_weights(name, clip, weights)
    config = open_clip.get_model_config(clip.architecture)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    with seeded_init(name):
        visual = _build_vision_tower(config["embed_dim"], vision, quick_gelu=clip.quick_gelu)
    if path is not None:
        state = read_state_dict(path)
        prefix = "visual."
        tower = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        load_strict(visual, tower or state, source=f"weights file {path} of {name}")
    return ClipBackbone(visual, name=name, card=card_of(name, clip))
