"""CLIP image towers through open_clip: ``clip-b32``, ``clip-b16``, ``clip-l14``, ``open_clip/<arch>:<tag>``."""

from featcache.backbones.base import Backbone, WeightsCard, register_backbone, register_family

PREFIX = "open_clip/"
OPENAI = {"clip-b32": "ViT-B-32", "clip-b16": "ViT-B-16", "clip-l14": "ViT-L-14"}

_SUMMARIES = {
    "clip-b32": "CLIP ViT-B/32 of OpenAI, 7 x 7 x 768",
    "clip-b16": "CLIP ViT-B/16 of OpenAI, 14 x 14 x 768",
    "clip-l14": "CLIP ViT-L/14 of OpenAI, 16 x 16 x 1024",
}


def build_clip(name: str, weights: str) -> Backbone:
    """Build the tower; see :func:`featcache.backbones._open_clip.build`."""
    from featcache.backbones._open_clip import build

    return build(name, weights)


def is_clip(name: str) -> bool:
    """Whether a registry name is one of open_clip's towers."""
    return name in OPENAI or name.startswith(PREFIX)


for _name, _architecture in OPENAI.items():
    register_backbone(
        _name,
        summary=_SUMMARIES[_name],
        card=WeightsCard(
            source=f"open_clip {_architecture}, tag openai",
            license="MIT",
            paper="arXiv:2103.00020",
            file_name=f"{_name}.safetensors",
            crop_fraction=1.0,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        ),
    )(build_clip)

register_family(
    PREFIX,
    pattern="open_clip/<arch>:<tag>",
    summary="the image tower of any open_clip model, e.g. open_clip/ViT-B-16:laion2b_s34b_b88k",
    example="open_clip/RN50:openai",
)(build_clip)
