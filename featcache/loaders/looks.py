"""Augmentation of square clips: a random square of the frame, possibly mirrored and recoloured."""

import numpy as np
from pydantic import Field

from featcache.config import Settings
from featcache.data.boxes import draw_color, random_short_side_box
from featcache.errors import ConfigError
from featcache.loaders.views import Look
from featcache.recipes import ColorRecipe


class LookSettings(Settings):
    """Crop, mirroring and colours of all frames of a clip."""

    side_range: tuple[float, float] = (0.7, 1.0)
    """Side of the random square as a fraction of the frame's shorter side."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that a clip is mirrored; set 0 if direction matters (SSv2, the motion set)."""
    color: ColorRecipe | None = None
    """Colour augmentation; null: none."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        low, high = self.side_range
        if not 0 < low <= high <= 1:
            raise ConfigError(f"side_range is {[low, high]}; give an increasing pair above 0 and at most 1")


def draw_look(settings: LookSettings, rng: np.random.Generator, *, height: int, width: int) -> Look:
    """Draw crop, mirroring and colours of a clip.

    Args:
        settings: Settings of the augmentation.
        rng: Random generator.
        height: Frame height in pixels.
        width: Frame width in pixels.
    """
    box = random_short_side_box(rng, height=height, width=width, side_range=settings.side_range)
    flip = bool(rng.random() < settings.flip_probability)
    return Look(box=box, flip=flip, color=() if settings.color is None else draw_color(rng, settings.color))
