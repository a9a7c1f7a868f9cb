"""Frozen encoders behind one protocol."""

from featcache.backbones import timm  # noqa: F401 importing a family's module registers it
from featcache.backbones.base import (
    Backbone,
    BackboneEntry,
    LayerOutput,
    WeightsCard,
    backbone_entries,
    build_backbone,
)

__all__ = ["Backbone", "BackboneEntry", "LayerOutput", "WeightsCard", "backbone_entries", "build_backbone"]
