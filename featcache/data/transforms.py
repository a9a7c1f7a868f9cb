"""Pixels: the single definition of crop, resize, flip, colour and normalisation, for extraction and for new videos.

The resize is torch's own antialiased filter on uint8, which ``torchvision.transforms.v2`` also calls (the tests check
that the two are equal). torchvision itself is imported only if a recipe changes colours: it costs every decoding
process seconds and 300 MB.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

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
    height, width = image.shape[-2:]
    if not (0 <= box.y0 < box.y1 <= height and 0 <= box.x0 < box.x1 <= width):
        raise ValueError(f"{box} does not fit an image of {width}x{height}; plan the boxes from this video's timeline")
    part = image[None, :, box.y0 : box.y1, box.x0 : box.x1]
    if part.shape[-2:] != (size, size):
        part = interpolate(part, (size, size), mode=interpolation, antialias=True, align_corners=False)
    resized = part[0]
    return resized.flip(-1) if flip else resized


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


def tilted(image: Tensor, degrees: float) -> Tensor:
    """An image rotated about its centre by a small angle, bilinear; corners without a source are black.

    Args:
        image: uint8 [3, H, W].
        degrees: Angle, counter-clockwise; 0 returns ``image``.

    Returns:
        uint8 [3, H, W].
    """
    if not degrees:
        return image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    turned: Tensor = functional.rotate(image, degrees, interpolation=InterpolationMode.BILINEAR)
    return turned


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
