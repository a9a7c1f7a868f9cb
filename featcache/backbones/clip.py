"""CLIP image towers through open_clip: ``clip-b32``, ``clip-b16``, ``clip-l14``, ``open_clip/<arch>:<tag>``.

Layers of a vision transformer are ``proj`` (the vector in the space shared with text), ``blocks.0`` to
``blocks.N-1`` and ``post`` (tokens after the final normalisation, before the projection: what AdViSe takes), which is
the default. Other towers have ``proj`` and their stages.

Only the image tower is built. The text tower comes from the same file: see :mod:`featcache.backbones.clip_text`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "open_clip/"
VIFI_IMAGE, VIFI_TEXT = "image_encoder.", "text_encoder."
OPENAI = {"clip-b32": "ViT-B-32", "clip-b16": "ViT-B-16", "clip-l14": "ViT-L-14"}
CARDS = {
    name: WeightsCard(
        source=f"open_clip {architecture}, tag openai",
        license="MIT",
        paper="arXiv:2103.00020",
        file_name=f"{name}.safetensors",
        crop_fraction=1.0,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )
    for name, architecture in OPENAI.items()
}


def is_clip(name: str) -> bool:
    """Whether a registry name is one of open_clip's towers."""
    return name in OPENAI or name.startswith(PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipName:
    """A registry name in open_clip's terms.

    Attributes:
        architecture: Architecture, e.g. ``ViT-L-14``.
        tag: Tag of the weights, e.g. ``openai``.
        quick_gelu: Whether these weights were trained with the sigmoid approximation of GELU, as OpenAI's were.
    """

    architecture: str
    tag: str
    quick_gelu: bool


def parse_name(name: str) -> ClipName:
    """Read ``clip-l14`` or ``open_clip/<arch>:<tag>``.

    Raises:
        UnknownNameError: open_clip has no such architecture or tag.
        ConfigError: No tag is given.
    """
    import open_clip

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


def build(name: str, weights: str) -> Backbone:
    """Build ``clip-*`` or ``open_clip/<arch>:<tag>``.

    Raises:
        UnknownNameError: open_clip has no such architecture or tag.
        WeightsError: The weights cannot be found or do not fit.
    """
    import open_clip
    from open_clip.model import _build_vision_tower  # the public factory also builds the text tower
    from open_clip.transformer import VisionTransformer

    from featcache.backbones.weights import load_strict, seeded_init
    from featcache.backbones.wrapped import WrappedBackbone

    clip = parse_name(name)
    path = find_weights(name, clip, weights)
    config = open_clip.get_model_config(clip.architecture)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    with seeded_init(name):
        visual = _build_vision_tower(config["embed_dim"], vision, quick_gelu=clip.quick_gelu)
    if path is not None:
        state = read_clip(path)
        prefix = "visual."
        tower = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        load_strict(visual, tower or state, source=f"weights file {path} of {name}")
    card, stages = card_of(name, clip), _stage_names(visual)
    is_transformer = isinstance(visual, VisionTransformer)
    has_post = is_transformer and visual.attn_pool is None and not visual.final_ln_after_pool
    return WrappedBackbone(
        visual,
        name=name,
        kind="image",
        card=card,
        # The last layer is the default, so the joint vector, which has no map, comes first.
        layers=("proj", *stages, *(("post",) if has_post else ())),
        run=Reader(visual=visual, name=name, size=card.input_size, stages=stages, has_class_token=is_transformer),
        no_classes="no classifier; probe its features instead",
    )


def read_clip(path: Path) -> "dict[str, Tensor]":
    """The tensors of a file of CLIP under CLIP's own names.

    A file of ViFi-CLIP has the image tower under ``image_encoder.``, the text tower under ``text_encoder.``, all of it
    under ``module.`` where several GPUs trained it, and prompts of its own, which are left out. It lacks the embeddings
    of words, which its training does not change.

    Raises:
        WeightsError: The file cannot be read.
    """
    from featcache.backbones.weights import read_state_dict

    plain = {key.removeprefix("module."): tensor for key, tensor in read_state_dict(path).items()}
    if not any(key.startswith(VIFI_IMAGE) for key in plain):
        return plain
    named = {
        key.replace(VIFI_IMAGE, "visual.", 1)
        if key.startswith(VIFI_IMAGE)
        else key.removeprefix("text_encoder."): tensor
        for key, tensor in plain.items()
    }
    return {key: tensor for key, tensor in named.items() if not key.startswith("prompt_learner.")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads the layers of a tower.

    Attributes:
        visual: The tower.
        name: Registry name, for messages.
        size: Input side in pixels.
        stages: Names of its intermediate outputs.
        has_class_token: Whether it is a vision transformer.
    """

    visual: Any
    name: str
    size: int
    stages: Sequence[str]
    has_class_token: bool

    def __call__(self, pixels: "Tensor", wanted: frozenset[str]) -> dict[str, LayerOutput]:
        """Run one forward pass, no further than the last of ``wanted``.

        Args:
            pixels: float [B, 3, S, S], normalised.
            wanted: Layer names.

        Returns:
            Blocks and ``post``: map [B, h, w, width] and class token [B, width]. ``proj``: only the vector [B, joint].
        """
        if pixels.shape[-1] != self.size:
            raise ConfigError(
                f"{self.name} takes {self.size} pixels a side, not {pixels.shape[-1]}; set input_size to {self.size}"
            )
        whole = "proj" in wanted
        last = len(self.stages) - 1
        chosen = {index for index, stage in enumerate(self.stages) if stage in wanted}
        # The joint vector needs all stages: the residual towers stop at the last requested one.
        indices = list(range(last + 1)) if whole else sorted(chosen | ({last} if "post" in wanted else set()))
        result: dict[str, Any] = self.visual.forward_intermediates(
            pixels,
            indices=indices,
            stop_early=not whole,
            intermediates_only=not whole,
            output_extra_tokens=self.has_class_token,
        )
        outputs = {}
        for position, index in enumerate(indices):
            dense = result["image_intermediates"][position].permute(0, 2, 3, 1)
            cls = result["image_intermediates_prefix"][position][:, 0] if self.has_class_token else None
            outputs[self.stages[index]] = LayerOutput(map=dense, cls=cls)
        if "post" in wanted:
            tokens, norm = outputs[self.stages[last]], self.visual.ln_post
            outputs["post"] = LayerOutput(map=norm(tokens.map), cls=norm(tokens.cls))
        if whole:
            outputs["proj"] = LayerOutput(map=None, cls=result["image_features"])
        return outputs


def _split(name: str) -> tuple[str, str, str]:
    return name.removeprefix(PREFIX).partition(":")


def _stage_names(visual: "nn.Module") -> tuple[str, ...]:
    """Names of the tower's intermediate outputs, first to last."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    from featcache.backbones.timm import stage_names

    if isinstance(visual, VisionTransformer):
        return tuple(f"blocks.{index}" for index in range(visual.transformer.layers))
    if isinstance(visual, ModifiedResNet):
        return ("stem", "layer1", "layer2", "layer3", "layer4")
    trunk: nn.Module = visual.trunk  # type: ignore[assignment]
    return stage_names(trunk)


def _stem(name: str) -> str:
    """File name without suffix in the weights folder: ``clip-l14``, ``ViT-B-32.laion2b_s34b_b79k``."""
    return name.removeprefix(PREFIX).replace(":", ".")


def _hub_files(clip: ClipName) -> list[tuple[str, str]]:
    """Files of the weights on the hub; open_clip's table gives ``repository/`` or ``repository/file``."""
    import open_clip

    repository, _, file = open_clip.get_pretrained_cfg(clip.architecture, clip.tag).get("hf_hub", "").rpartition("/")
    if not repository:
        return []
    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    return [(repository, name) for name in names]


def find_weights(name: str, clip: ClipName, weights: str) -> Path | None:
    """Find the file of both towers for ``weights``, or ``None`` for ``random``.

    Raises:
        WeightsError: No file is found; the message says which file to put where.
    """
    from featcache.backbones.weights import locate

    return locate(weights, backbone=name, stems=[_stem(name)], hub=_hub_files(clip))


def card_of(name: str, clip: ClipName) -> WeightsCard:
    """The card of the weights from open_clip's tables."""
    import open_clip

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
