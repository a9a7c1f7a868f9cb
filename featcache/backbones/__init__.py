"""Frozen encoders behind one protocol."""

from featcache.backbones import (  # noqa: F401 importing a module registers what it builds
    clip,
    concat,
    i3d,
    rho_byol,
    svt,
    svt_slowfast,
    timm,
    torchvision,
    videomae,
    vit,
    vjepa2,
    xclip,
)
from featcache.backbones.base import (
    Backbone,
    BackboneEntry,
    LayerOutput,
    WeightsCard,
    backbone_entries,
    build_backbone,
)

__all__ = ["Backbone", "BackboneEntry", "LayerOutput", "WeightsCard", "backbone_entries", "build_backbone"]
