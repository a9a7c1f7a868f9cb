"""Frozen encoders behind one protocol."""

from featcache.backbones import clip, i3d, timm  # noqa: F401 importing a module registers what it builds
from featcache.backbones.base import (
    Backbone,
    BackboneEntry,
    LayerOutput,
    WeightsCard,
    backbone_entries,
    build_backbone,
)

__all__ = ["Backbone", "BackboneEntry", "LayerOutput", "WeightsCard", "backbone_entries", "build_backbone"]
