"""How a clip is seen: crop, mirroring, colours and tilt, drawn once for all frames of the clip."""

from typing import Literal

import numpy as np
from pydantic import Field

from featcache.config import Settings
from featcache.data.boxes import (
    center_box,
    central_box,
    draw_color,
    random_placed_box,
    random_resized_box,
    random_short_side_box,
)
from featcache.data.types import Box, ColorStep
from featcache.errors import ConfigError
from featcache.loaders.views import Look
from featcache.recipes import ColorRecipe

Crop = Literal["short_side", "resized", "stretched", "centre", "stretched_centre"]
SOLARISE_FROM = 128.0
"""The value from which solarisation inverts, of 255 (DINO)."""


class LookSettings(Settings):
    """Crop, mirroring, colours and tilt of all frames of a clip.

    Sides are shares of the frame, so they hold for videos of any size: 112 out of frames resized to 128 x 171 is the
    box ``[112/128, 112/171]``.
    """

    crop: Crop = "short_side"
    """``short_side``: a random square of ``side_range`` of the shorter side; ``resized``: a random box of ``scale`` and
    ``ratio``, as torchvision's ``RandomResizedCrop``; ``stretched``: a box of ``box_fraction`` at a random place, as
    after a resize that does not keep the aspect; ``centre``, ``stretched_centre``: the centred square of the upper
    end of ``side_range``, the centred box of ``box_fraction``."""
    side_range: tuple[float, float] = (0.7, 1.0)
    """Side of the square as a fraction of the frame's shorter side."""
    scale: tuple[float, float] = (0.3, 1.0)
    """Area of the box as a share of the frame."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Width over height of the box."""
    box_fraction: tuple[float, float] = (112 / 128, 112 / 171)
    """Height and width of the box as shares of the frame's."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that a clip is mirrored; set 0 if direction matters (SSv2, the motion set)."""
    color: ColorRecipe | None = None
    """Colour augmentation; null: none."""
    gamma_probability: float = Field(default=0.0, ge=0, le=1)
    """Probability that pixels are raised to a power."""
    gamma: tuple[float, float] = (0.7, 1.5)
    """Range of the exponent."""
    solarise_probability: float = Field(default=0.0, ge=0, le=1)
    """Probability that bright pixels are inverted."""
    tilt_degrees: float = Field(default=0.0, ge=0, le=45)
    """Frames are rotated by up to this angle in either direction before they are cut."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        for name, most in (("side_range", 1.0), ("scale", 1.0), ("ratio", None), ("gamma", None)):
            low, high = getattr(self, name)
            if not 0 < low <= high or (most is not None and high > most):
                limit = "" if most is None else " and at most 1"
                raise ConfigError(f"{name} is {[low, high]}; give an increasing pair above 0{limit}")
        if not all(0 < part <= 1 for part in self.box_fraction):
            raise ConfigError(f"box_fraction is {list(self.box_fraction)}; give two shares above 0 and at most 1")


def draw_look(settings: LookSettings, rng: np.random.Generator, *, height: int, width: int) -> Look:
    """Draw crop, mirroring, colours and tilt of a clip.

    Args:
        settings: Settings of the augmentation.
        rng: Random generator.
        height: Frame height in pixels.
        width: Frame width in pixels.
    """
    box = draw_box(settings, rng, height=height, width=width)
    flip = bool(rng.random() < settings.flip_probability)
    color = () if settings.color is None else draw_color(rng, settings.color)
    if settings.gamma_probability and rng.random() < settings.gamma_probability:
        color = (*color, ColorStep("gamma", float(rng.uniform(*settings.gamma))))
    if settings.solarise_probability and rng.random() < settings.solarise_probability:
        color = (*color, ColorStep("solarise", SOLARISE_FROM))
    tilt = float(rng.uniform(-settings.tilt_degrees, settings.tilt_degrees)) if settings.tilt_degrees else 0.0
    return Look(box=box, flip=flip, color=color, tilt=tilt)


def draw_box(settings: LookSettings, rng: np.random.Generator, *, height: int, width: int) -> Box:
    """Draw the box of a clip; see :attr:`LookSettings.crop`.

    Args:
        settings: The law of the box and its ranges.
        rng: Random generator.
        height: Frame height in pixels.
        width: Frame width in pixels.
    """
    match settings.crop:
        case "short_side":
            return random_short_side_box(rng, height=height, width=width, side_range=settings.side_range)
        case "resized":
            return random_resized_box(rng, height=height, width=width, scale=settings.scale, ratio=settings.ratio)
        case "stretched":
            return random_placed_box(rng, height=height, width=width, box_fraction=settings.box_fraction)
        case "centre":
            return center_box(height=height, width=width, fraction=settings.side_range[1])
        case "stretched_centre":
            return central_box(height=height, width=width, box_fraction=settings.box_fraction)
