"""One law of looks for clips of a square: a random square of the frame, perhaps mirrored, with changed colours."""

import numpy as np
from pydantic import Field

from featcache.config import Settings
from featcache.data.boxes import draw_color, random_short_side_box
from featcache.errors import ConfigError
from featcache.loaders.views import Look
from featcache.recipes import ColorRecipe


class LookSettings(Settings):
    """How all frames of a clip are cut, mirrored and coloured."""

    side_range: tuple[float, float] = (0.7, 1.0)
    """Side of the random square over the shorter side of the frame."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Chance that a clip is mirrored; 0 where direction matters (SSv2, the motion set)."""
    color: ColorRecipe | None = None
    """How colours vary; null: they do not."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        low, high = self.side_range
        if not 0 < low <= high <= 1:
            raise ConfigError(f"side_range is {[low, high]}; give an increasing pair above 0 and at most 1")


def draw_look(settings: LookSettings, rng: np.random.Generator, *, height: int, width: int) -> Look:
    """Draw how a clip is cut, mirrored and coloured.

    Args:
        settings: The law.
        rng: Source of the draws.
        height: Frame height in pixels.
        width: Frame width in pixels.
    """
    box = random_short_side_box(rng, height=height, width=width, side_range=settings.side_range)
    flip = bool(rng.random() < settings.flip_probability)
    return Look(box=box, flip=flip, color=() if settings.color is None else draw_color(rng, settings.color))
