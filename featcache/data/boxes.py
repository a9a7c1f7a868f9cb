"""Spatial sampling: which box of the frame a row is read from.

Boxes are in whole source pixels, lie inside the frame and hold at least one pixel, whatever the frame's size.
"""

import math

import numpy as np

from featcache.data.types import Box
from featcache.recipes import SamplingRecipe
from featcache.seeding import rng_for

_NUM_TRIES = 10


def square_side(*, height: int, width: int, fraction: float) -> int:
    """Side of a square crop: ``fraction`` of the shorter side, rounded half up, at least 1 pixel."""
    return max(1, math.floor(fraction * min(height, width) + 0.5))


def center_box(*, height: int, width: int, fraction: float) -> Box:
    """The centred square of ``fraction`` of the shorter side; an odd margin leaves the spare pixel right and below."""
    side = square_side(height=height, width=width, fraction=fraction)
    y0, x0 = (height - side) // 2, (width - side) // 2
    return Box(y0=y0, x0=x0, y1=y0 + side, x1=x0 + side)


def view_boxes(*, height: int, width: int, num_views: int, fraction: float) -> list[Box]:
    """``num_views`` squares spread from one end of the longer side to the other, centred on the shorter side.

    Three views of a landscape frame are left, centre, right; of a portrait frame top, centre, bottom; a square frame
    counts as landscape. One view is :func:`center_box`.
    """
    centre = center_box(height=height, width=width, fraction=fraction)
    if num_views == 1:
        return [centre]
    side = centre.y1 - centre.y0
    offsets = [(max(height, width) - side) * view // (num_views - 1) for view in range(num_views)]
    if width >= height:
        return [Box(y0=centre.y0, x0=offset, y1=centre.y1, x1=offset + side) for offset in offsets]
    return [Box(y0=offset, x0=centre.x0, y1=offset + side, x1=centre.x1) for offset in offsets]


def random_resized_box(
    rng: np.random.Generator, *, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """A random box by the law of torchvision's ``RandomResizedCrop``.

    Area uniform in ``scale`` x frame area, aspect (width / height) log-uniform in ``ratio``, place uniform; the first
    of ten draws that fits is taken, else the largest centred box whose aspect is clamped to ``ratio``.

    Args:
        rng: Source of the draws.
        height: Frame height in pixels.
        width: Frame width in pixels.
        scale: Range of the area as a fraction of the frame.
        ratio: Range of width / height.
    """
    for _ in range(_NUM_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            y0, x0 = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return Box(y0=y0, x0=x0, y1=y0 + h, x1=x0 + w)
    h, w = height, width
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    y0, x0 = (height - h) // 2, (width - w) // 2
    return Box(y0=y0, x0=x0, y1=y0 + h, x1=x0 + w)


def sample_boxes(recipe: SamplingRecipe, *, height: int, width: int, video_id: str, temporal_index: int) -> list[Box]:
    """The ``num_crops`` boxes of one clip or frame, in crop order.

    Random boxes are a function of (``recipe.seed``, ``video_id``, ``temporal_index``, crop index) alone.
    """
    if recipe.spatial == "center":
        return [center_box(height=height, width=width, fraction=recipe.crop_fraction)]
    if recipe.spatial == "views":
        return view_boxes(height=height, width=width, num_views=recipe.num_crops, fraction=recipe.crop_fraction)
    return [
        random_resized_box(
            rng_for(recipe.seed, "box", video_id, temporal_index, crop),
            height=height,
            width=width,
            scale=recipe.scale,
            ratio=recipe.ratio,
        )
        for crop in range(recipe.num_crops)
    ]


def sample_flip(recipe: SamplingRecipe, *, video_id: str, temporal_index: int, crop: int) -> bool:
    """Whether the row is mirrored; a function of the seed, the video and the row's two indices alone."""
    if recipe.flip_probability == 0:
        return False
    draw = rng_for(recipe.seed, "flip", video_id, temporal_index, crop).random()
    return bool(draw < recipe.flip_probability)
