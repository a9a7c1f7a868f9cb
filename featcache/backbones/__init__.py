"""Frozen encoders behind one protocol."""

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.backbones.registry import BACKBONES, build_backbone

__all__ = ["BACKBONES", "Backbone", "LayerOutput", "WeightsCard", "build_backbone"]
