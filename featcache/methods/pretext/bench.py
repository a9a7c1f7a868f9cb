"""What the benchmark gives all tasks alike, where their own authors differ (Kumar et al.).

Source: each video clip is rotated by a small angle, resized without regard to its aspect, cut at a random place,
changed in colour and mirrored; contrastive tasks add grey and gamma. The paper states no strengths: those of the
colours are SimCLR's at half strength, those of the angle are TDL's.
"""

import dataclasses
from typing import Literal

from featcache.loaders.looks import LookSettings
from featcache.recipes import ColorRecipe

Complexity = Literal["c1", "c2", "c3"]
"""How many answers a task has: the fewest, more, the most."""

_COLOR = ColorRecipe(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
BENCH_LOOK = LookSettings(crop="stretched", color=_COLOR, tilt_degrees=10.0)
"""Rotation of at most 10 degrees, 112 x 112 of 128 x 171, colours, mirroring."""
CONTRAST_LOOK = LookSettings(
    crop="stretched",
    color=dataclasses.replace(_COLOR, grey_probability=0.2),
    tilt_degrees=10.0,
    gamma_probability=0.5,
)
"""The same with grey and gamma."""
