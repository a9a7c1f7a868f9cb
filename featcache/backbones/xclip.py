"""X-CLIP's vision side through transformers: ``xclip-b16``."""

from featcache.backbones.base import Backbone, WeightsCard, register_backbone
from featcache.backbones.wrapped import require_transformers

REPOSITORY = "microsoft/xclip-base-patch16"
CARD = WeightsCard(
    source=f"X-CLIP, {REPOSITORY} on the Hugging Face hub",
    license="MIT",
    paper="arXiv:2208.02816",
    file_name="xclip-b16.safetensors",
    interpolation="bilinear",
    num_frames=8,
    frame_stride=32,
)


@register_backbone(
    "xclip-b16", summary="X-CLIP ViT-B/16, Kinetics-400, clips of 8 frames, 8 x 14 x 14 x 512", card=CARD
)
def build_xclip(name: str, weights: str) -> Backbone:
    """Build ``xclip-b16``; see :func:`featcache.backbones._xclip.build`."""
    require_transformers(name)
    from featcache.backbones._xclip import build

    return build(name, weights)
