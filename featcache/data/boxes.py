"""Spatial sampling: the box of the frame from which a row is read, its mirroring, and its colour augmentation.

Boxes are in whole source pixels, lie inside the frame and contain at least one pixel, whatever the frame's size.
"""

import math
from collections.abc import Sequence

import numpy as np

from featcache.data.types import Box, ColorName, ColorStep
from featcache.recipes import ColorRecipe, SamplingRecipe
from featcache.seeding import rng_for

_NUM_TRIES = 10
_JITTER: tuple[ColorName, ...] = ("brightness", "contrast", "saturation", "hue")


def square_side(*, height: int, width: int, fraction: float) -> int:
    """Side of a square crop: ``fraction`` of the shorter side, rounded half up, at least 1 pixel."""
    return max(1, math.floor(fraction * min(height, width) + 0.5))


def center_box(*, height: int, width: int, fraction: float) -> Box:
    """The centred square of ``fraction`` of the shorter side; an odd margin puts the extra pixel right and below."""
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


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that contains some boxes, at least one."""
    return Box(
        y0=min(box.y0 for box in boxes),
        x0=min(box.x0 for box in boxes),
        y1=max(box.y1 for box in boxes),
        x1=max(box.x1 for box in boxes),
    )


def random_resized_box(
    rng: np.random.Generator, *, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """A random box with the distribution of torchvision's ``RandomResizedCrop``.

    The area is uniform in ``scale`` x frame area, the aspect (width / height) log-uniform in ``ratio``, the place
    uniform. The first of ten draws that fits is taken; otherwise the largest centred box whose aspect is clamped to
    ``ratio``.

    Args:
        rng: Random generator.
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


def random_short_side_box(rng: np.random.Generator, *, height: int, width: int, side_range: tuple[float, float]) -> Box:
    """A random square with the distribution of PySlowFast's random short side and random crop.

    PySlowFast resizes the frame to a short side uniform in ``[low, high]`` and cuts a square of fixed side at a uniform
    place; in source pixels that is a square whose side has a uniform inverse. PySlowFast rounds the short side to whole
    pixels first; here the square is rounded instead.

    Args:
        rng: Random generator.
        height: Frame height in pixels.
        width: Frame width in pixels.
        side_range: Range of the square's side as a fraction of the shorter side.
    """
    fraction = 1 / rng.uniform(1 / side_range[1], 1 / side_range[0])
    side = square_side(height=height, width=width, fraction=min(fraction, side_range[1]))
    return _place(rng, side, side, height=height, width=width)


def random_placed_box(rng: np.random.Generator, *, height: int, width: int, box_fraction: tuple[float, float]) -> Box:
    """A box of fixed size at a uniform place, as a random crop after a resize that does not keep the aspect.

    Args:
        rng: Random generator.
        height: Frame height in pixels.
        width: Frame width in pixels.
        box_fraction: Height and width of the box as fractions of the frame's.
    """
    h, w = _sides(box_fraction, height=height, width=width)
    return _place(rng, h, w, height=height, width=width)


def central_box(*, height: int, width: int, box_fraction: tuple[float, float]) -> Box:
    """The centred box of fixed size, as a centre crop after a resize that does not keep the aspect.

    An odd margin puts the extra pixel right and below.
    """
    h, w = _sides(box_fraction, height=height, width=width)
    y0, x0 = (height - h) // 2, (width - w) // 2
    return Box(y0=y0, x0=x0, y1=y0 + h, x1=x0 + w)


def _sides(box_fraction: tuple[float, float], *, height: int, width: int) -> tuple[int, int]:
    """Height and width of a box, rounded half up, at least 1 pixel each."""
    h, w = (max(1, math.floor(part * size + 0.5)) for part, size in zip(box_fraction, (height, width), strict=True))
    return h, w


def _place(rng: np.random.Generator, h: int, w: int, *, height: int, width: int) -> Box:
    y0, x0 = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return Box(y0=y0, x0=x0, y1=y0 + h, x1=x0 + w)


def sample_boxes(recipe: SamplingRecipe, *, height: int, width: int, video_id: str, temporal_index: int) -> list[Box]:
    """The ``num_crops`` boxes of one clip or frame, in crop order.

    Random boxes are a function of (``recipe.seed``, ``video_id``, ``temporal_index``, crop index) alone.
    """
    if recipe.spatial == "center":
        return [center_box(height=height, width=width, fraction=recipe.crop_fraction)]
    if recipe.spatial == "views":
        return view_boxes(height=height, width=width, num_views=recipe.num_crops, fraction=recipe.crop_fraction)
    boxes = []
    for crop in range(recipe.num_crops):
        rng = rng_for(recipe.seed, "box", video_id, temporal_index, crop)
        if is_plain(recipe, crop=crop):
            boxes.append(center_box(height=height, width=width, fraction=recipe.crop_fraction))
        elif recipe.side_range is not None:
            boxes.append(random_short_side_box(rng, height=height, width=width, side_range=recipe.side_range))
        elif recipe.box_fraction is not None:
            boxes.append(random_placed_box(rng, height=height, width=width, box_fraction=recipe.box_fraction))
        else:
            boxes.append(random_resized_box(rng, height=height, width=width, scale=recipe.scale, ratio=recipe.ratio))
    return boxes


def sample_flip(recipe: SamplingRecipe, *, video_id: str, temporal_index: int, crop: int) -> bool:
    """Whether the row is mirrored; a function of only the seed, the video and the row's two indices."""
    if recipe.flip_probability == 0 or is_plain(recipe, crop=crop):
        return False
    draw = rng_for(recipe.seed, "flip", video_id, temporal_index, crop).random()
    return bool(draw < recipe.flip_probability)


def sample_color(recipe: SamplingRecipe, *, video_id: str, temporal_index: int, crop: int) -> tuple[ColorStep, ...]:
    """A row's colour steps, in order; a function of only the seed, the video and the row's two indices."""
    if recipe.color is None or is_plain(recipe, crop=crop):
        return ()
    return draw_color(rng_for(recipe.seed, "color", video_id, temporal_index, crop), recipe.color)


def draw_color(rng: np.random.Generator, color: ColorRecipe) -> tuple[ColorStep, ...]:
    """Draw colour steps, in order.

    Every amount is drawn, whether it is used or not, so that a change of a probability does not change the amounts.

    Args:
        rng: Random generator.
        color: Distribution of the steps.
    """
    chances = np.array([color.probability, color.grey_probability, color.blur_probability])
    is_jittered, is_grey, is_blurred = (rng.random(3) < chances).tolist()
    order, uniform = rng.permutation(4), rng.random(5)
    jitter: list[ColorStep] = []
    if is_jittered:
        for index in order.tolist():
            name = _JITTER[index]
            extent: float = getattr(color, name)
            low, high = (-extent, extent) if name == "hue" else (max(0.0, 1 - extent), 1 + extent)
            if extent:
                jitter.append(ColorStep(name, float(low + (high - low) * uniform[index])))
    low, high = color.blur_sigma
    grey = [ColorStep("grey", 1.0)] if is_grey else []
    blur = [ColorStep("blur", float(low + (high - low) * uniform[4]))] if is_blurred else []
    return (*jitter, *grey, *blur)


def is_plain(recipe: SamplingRecipe, *, crop: int) -> bool:
    """Whether a crop is the fixed crop among random ones."""
    return recipe.spatial == "center_and_random" and crop == 0
