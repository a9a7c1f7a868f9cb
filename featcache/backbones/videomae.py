"""VideoMAE through transformers: ``videomae-b``, ``videomae-l``, ``videomae-b-k400``, ``videomae-b-ssv2``."""

from dataclasses import dataclass

from featcache.backbones.base import Backbone, WeightsCard, register_backbone
from featcache.backbones.wrapped import require_transformers


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One published checkpoint.

    Attributes:
        repository: On the hub.
        summary: One line for ``featcache backbones``.
        frame_stride: Distance of frames it was trained on.
        width: Channels of a token.
        num_blocks: Transformer blocks.
        num_heads: Attention heads.
        num_classes: Columns of the classifier; 0 for a pre-trained encoder.
    """

    repository: str
    summary: str
    frame_stride: int = 4
    width: int = 768
    num_blocks: int = 12
    num_heads: int = 12
    num_classes: int = 0


VARIANTS = {
    "videomae-b": Variant(
        repository="MCG-NJU/videomae-base",
        summary="VideoMAE ViT-B, pre-trained on Kinetics-400 (1600 epochs), 8 x 14 x 14 x 768",
    ),
    "videomae-l": Variant(
        repository="MCG-NJU/videomae-large",
        summary="VideoMAE ViT-L, pre-trained on Kinetics-400 (1600 epochs), 8 x 14 x 14 x 1024",
        width=1024,
        num_blocks=24,
        num_heads=16,
    ),
    "videomae-b-k400": Variant(
        repository="MCG-NJU/videomae-base-finetuned-kinetics",
        summary="VideoMAE ViT-B, fine-tuned on Kinetics-400, 8 x 14 x 14 x 768",
        num_classes=400,
    ),
    "videomae-b-ssv2": Variant(
        repository="MCG-NJU/videomae-base-finetuned-ssv2",
        summary="VideoMAE ViT-B, fine-tuned on Something-Something v2 (2400 epochs), 8 x 14 x 14 x 768",
        frame_stride=2,
        num_classes=174,
    ),
}


def card_of(name: str) -> WeightsCard:
    """The card of one variant."""
    variant = VARIANTS[name]
    return WeightsCard(
        source=f"VideoMAE, {variant.repository} on the Hugging Face hub",
        license="CC-BY-NC-4.0",
        paper="arXiv:2203.12602",
        file_name=f"{name}.safetensors",
        crop_fraction=1.0,
        interpolation="bilinear",
        num_frames=16,
        frame_stride=variant.frame_stride,
    )


def build_videomae(name: str, weights: str) -> Backbone:
    """Build a variant; see :func:`featcache.backbones._videomae.build`."""
    require_transformers(name)
    from featcache.backbones._videomae import build

    return build(name, weights)


for _name, _variant in VARIANTS.items():
    register_backbone(_name, summary=_variant.summary, card=card_of(_name))(build_videomae)
