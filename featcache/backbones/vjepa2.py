"""V-JEPA 2 through transformers: ``vjepa2-l``."""

from featcache.backbones.base import Backbone, WeightsCard, register_backbone
from featcache.backbones.wrapped import require_transformers

REPOSITORY = "facebook/vjepa2-vitl-fpc64-256"
CARD = WeightsCard(
    source=f"V-JEPA 2, {REPOSITORY} on the Hugging Face hub",
    license="MIT",
    paper="arXiv:2506.09985",
    file_name="vjepa2-l.safetensors",
    input_size=256,
    interpolation="bilinear",
    num_frames=64,
    frame_stride=8,
)


@register_backbone("vjepa2-l", summary="V-JEPA 2 ViT-L, clips of 64 frames, t/2 x 16 x 16 x 1024", card=CARD)
def build_vjepa2(name: str, weights: str) -> Backbone:
    """Build ``vjepa2-l``; see :func:`featcache.backbones._vjepa2.build`."""
    require_transformers(name)
    from featcache.backbones._vjepa2 import build

    return build(name, weights)
