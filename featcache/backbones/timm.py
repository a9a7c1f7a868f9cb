"""Image backbones of timm: ``timm/<name>`` for every model the library lists."""

from featcache.backbones.base import Backbone, register_family

PREFIX = "timm/"
LITE0 = "timm/tf_efficientnet_lite0"


@register_family(
    PREFIX,
    pattern="timm/<name>",
    summary="any image model of timm, e.g. timm/vit_small_patch16_224.dino",
    example=LITE0,
)
def build_timm(name: str, weights: str) -> Backbone:
    """Build ``timm/<name>``; see :func:`featcache.backbones._timm.build`."""
    from featcache.backbones._timm import build

    return build(name, weights)
