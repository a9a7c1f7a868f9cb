"""Pixels: the single definition of crop, resize, flip, colour and normalisation, for extraction and for new videos.

The resize is torch's own antialiased filter on uint8, which ``torchvision.transforms.v2`` also calls (the tests check
that the two are equal). torchvision itself is imported only if a recipe changes colours: it costs every decoding
process seconds and 300 MB.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from featcache.data.types import Box, ColorStep
from featcache.recipes import Interpolation


def crop_resize(image: Tensor, box: Box, *, size: int, interpolation: Interpolation, flip: bool = False) -> Tensor:
    """Crop, resize to a square with antialiasing, then mirror if asked; in that order.

    Args:
        image: uint8 [3, H, W].
        box: The box to cut out.
        size: Side of the result in pixels.
        interpolation: Filter of the resize, computed on uint8.
        flip: Whether the result is mirrored left to right.

    Returns:
        uint8 [3, size, size].

    Raises:
        ValueError: The box is empty or reaches outside the image.
    """
    return resized(cropped(image, box), size=size, interpolation=interpolation, flip=flip)


def cropped(image: Tensor, box: Box) -> Tensor:
    """A box of an image uint8 [3, H, W], as a part of its memory.

    Raises:
        ValueError: The box is empty or reaches outside the image.
    """
    _check_fits(box, height=image.shape[-2], width=image.shape[-1])
    return image[:, box.y0 : box.y1, box.x0 : box.x1]


def resized(image: Tensor, *, size: int, interpolation: Interpolation, flip: bool = False) -> Tensor:
    """Resize to a square with antialiasing, then mirror if asked; an image of that size stays as it is.

    Args:
        image: uint8 [3, H, W].
        size: Side of the result in pixels.
        interpolation: Filter of the resize, computed on uint8.
        flip: Whether the result is mirrored left to right.

    Returns:
        uint8 [3, size, size].
    """
    if image.shape[-2:] != (size, size):
        image = interpolate(image[None], (size, size), mode=interpolation, antialias=True, align_corners=False)[0]
    return image.flip(-1) if flip else image


def recolor(pixels: Tensor, steps: Sequence[ColorStep]) -> Tensor:
    """Change colours step by step with ``torchvision.transforms.v2.functional``, rounding to uint8 after each.

    Contrast is changed about each image's own mean. The blur is a Gaussian cut off at 4 sigma, with reflected borders.

    Args:
        pixels: uint8 [..., 3, H, W], RGB.
        steps: Steps to apply, in order; without any, ``pixels`` is returned.

    Returns:
        uint8, same shape.
    """
    if not steps:
        return pixels
    from torchvision.transforms.v2 import functional

    for name, amount in steps:
        match name:
            case "brightness":
                pixels = functional.adjust_brightness(pixels, amount)
            case "contrast":
                pixels = functional.adjust_contrast(pixels, amount)
            case "saturation":
                pixels = functional.adjust_saturation(pixels, amount)
            case "hue":
                pixels = functional.adjust_hue(pixels, amount)
            case "grey":
                pixels = functional.rgb_to_grayscale(pixels, num_output_channels=3)
            case "blur":
                radius = min(math.ceil(4 * amount), *(side - 1 for side in pixels.shape[-2:]))  # the widest reflection
                pixels = functional.gaussian_blur(pixels, [2 * radius + 1] * 2, [amount] * 2)
            case "solarise":
                pixels = functional.solarize(pixels, amount)
            case "gamma":
                pixels = functional.adjust_gamma(pixels, amount)
    return pixels


class TiltedBox(NamedTuple):
    """A box of a frame that is rotated about its centre, and where its pixels come from.

    Attributes:
        source: The part of the frame that the box shows.
        grid: float32 [1, h, w, 2], x and y in that part for each pixel of the box; -1 and 1 are its edges.
    """

    source: Box
    grid: Tensor


def tilted_box(box: Box, degrees: float, *, height: int, width: int) -> TiltedBox:
    """Where the pixels of a box come from when the frame is rotated about its centre by a small angle.

    Args:
        box: A box of the rotated frame, which has the size of the frame.
        degrees: Angle, counter-clockwise.
        height: Frame height in pixels.
        width: Frame width in pixels.

    Raises:
        ValueError: The box is empty or reaches outside the frame.
    """
    _check_fits(box, height=height, width=width)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Half sides and centres of the box and of its source, from the centre of the frame
    half_x, half_y = (box.x1 - box.x0) / 2, (box.y1 - box.y0) / 2
    x, y = (box.x0 + box.x1 - width) / 2, (box.y0 + box.y1 - height) / 2
    x, y = x * cos - y * sin, x * sin + y * cos
    reach_x, reach_y = half_x * cos + half_y * abs(sin), half_x * abs(sin) + half_y * cos
    columns = _span(x + width / 2, reach_x, width)
    rows = _span(y + height / 2, reach_y, height)
    source = Box(y0=rows[0], x0=columns[0], y1=rows[1], x1=columns[1])
    wide, high = (source.x1 - source.x0) / 2, (source.y1 - source.y0) / 2
    theta = torch.tensor(
        [
            [half_x * cos / wide, -half_y * sin / wide, (x + width / 2 - source.x0) / wide - 1],
            [half_x * sin / high, half_y * cos / high, (y + height / 2 - source.y0) / high - 1],
        ]
    )
    shape = [1, 1, box.y1 - box.y0, box.x1 - box.x0]
    return TiltedBox(source, affine_grid(theta[None], shape, align_corners=False))


def cut_tilted(image: Tensor, tilted: TiltedBox) -> Tensor:
    """Cut a box out of a rotated image, bilinear; what lies outside the image is black.

    Args:
        image: uint8 [3, H, W], not rotated.
        tilted: The box; see :func:`tilted_box`.

    Returns:
        uint8 [3, h, w], equal to the same box of the image that is rotated as a whole, up to rounding.
    """
    source = cropped(image, tilted.source).contiguous().float()
    cut = grid_sample(source[None], tilted.grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return cut[0].round_().to(torch.uint8)


def _check_fits(box: Box, *, height: int, width: int) -> None:
    if not (0 <= box.y0 < box.y1 <= height and 0 <= box.x0 < box.x1 <= width):
        raise ValueError(f"{box} does not fit an image of {width}x{height}; plan the boxes from this video's timeline")


def _span(middle: float, reach: float, side: int) -> tuple[int, int]:
    """The pixels of an image's side that are less than a pixel away from a part of it, and at least one of them."""
    first = min(max(0, math.floor(middle - reach) - 1), side - 1)
    return first, max(first + 1, min(side, math.ceil(middle + reach) + 1))


def normalise(pixels: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Input of a backbone: ``(pixels / 255 - mean) / std``, in that order, in float32.

    Args:
        pixels: uint8 [..., 3, H, W], RGB.
        mean: Channel means of RGB in [0, 1].
        std: Channel standard deviations.

    Returns:
        float32, same shape and device.
    """
    centre = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
    spread = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
    return pixels.to(torch.float32).div_(255).sub_(centre).div_(spread)


def enlarged(pixels: Tensor, factor: int | None) -> Tensor:
    """Frames enlarged by bilinear interpolation, without aligned corners.

    Args:
        pixels: float32 [..., 3, H, W].
        factor: Whole factor of both sides; ``None``: the frames as they are.

    Returns:
        float32 [..., 3, factor * H, factor * W].
    """
    if factor is None:
        return pixels
    frames = pixels.reshape(-1, *pixels.shape[-3:])
    larger = interpolate(frames, scale_factor=factor, mode="bilinear", align_corners=False)
    return larger.reshape(*pixels.shape[:-2], *larger.shape[-2:])
