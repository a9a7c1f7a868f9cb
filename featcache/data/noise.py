"""Noise on pixels: a value and 16 random bits that belong to its place give its noisy value.

The bits say at which of 65536 equally probable quantiles of the law of the noise the outcome lies (for shot noise, of
4096). The share of outcomes up to any given one is therefore within 1/131072 (1/8192) of the exact one, and what is
rarer than that does not occur. Tables are small, since decoding leaves little of the caches.
"""

import functools
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.types import Box, VideoNoise
from featcache.noise import Kind
from featcache.seeding import seed_for

NUM_DRAWS = 1 << 16
_SHOT_QUANTILES = 1 << 12
_SHOT_UNUSED = 4  # bits of a draw
_DRAWS_PER_WORD = 4  # of 64 bits

Draws = npt.NDArray[np.uint16]

Pixels = npt.NDArray[np.uint8]


def add_noise(pixels: Pixels, noise: VideoNoise, *, frame: int, box: Box | None = None) -> Pixels:
    """A noisy copy of a frame or of a crop of it: a pure function of its arguments.

    Args:
        pixels: uint8, of any shape; noise belongs to places of it in C order.
        noise: The noise of the video.
        frame: Index of the frame.
        box: Only these pixels of a picture [H, W, 3] are needed; the others stay as they are. Their noise is the same
            as without it.

    Returns:
        uint8, same shape.
    """
    recipe = noise.recipe
    bits = np.random.PCG64DXSM(seed_for(recipe.seed, "noise", noise.video_id, frame, recipe.kind, recipe.severity))
    first, stop = 0, pixels.size
    if box is not None:
        row = pixels[0].size
        first, stop = box.y0 * row, box.y1 * row
    skipped = first // _DRAWS_PER_WORD
    words = bits.advance(skipped).random_raw(-(-stop // _DRAWS_PER_WORD) - skipped)
    drawn = words.astype("<u8", copy=False).view("<u2")[first - skipped * _DRAWS_PER_WORD :][: stop - first]
    noisy = pixels.copy()
    if box is None:
        part, draws = noisy, drawn.reshape(pixels.shape)
    else:
        rows = noisy[box.y0 : box.y1]
        part, draws = rows[:, box.x0 : box.x1], drawn.reshape(rows.shape)[:, box.x0 : box.x1]
    part[...] = outcomes(part, draws, kind=recipe.kind, amount=recipe.amount)
    return noisy


def outcomes(values: Pixels, draws: Draws, *, kind: Kind, amount: float) -> Pixels:
    """Noisy values: clipped, and cut to whole numbers downwards, as released.

    Args:
        values: uint8, of any shape.
        draws: uint16, same shape; the outcome ascends with the draw.
        kind: Kind of noise.
        amount: Its constant c.

    Returns:
        uint8, same shape.
    """
    changed: npt.NDArray[Any]
    match kind:
        case "gaussian":
            changed = values + _shifts(amount).take(draws, mode="clip")
        case "speckle":
            changed = values * _factors(amount).take(draws, mode="clip")
        case "impulse":
            few = round(NUM_DRAWS * amount / 2)
            changed = np.where(draws < few, np.uint8(0), values)
            changed |= (draws >= NUM_DRAWS - few) * np.uint8(255)
            return changed
        case "shot":
            places = values.astype(np.int32)
            places *= _SHOT_QUANTILES
            places += draws >> _SHOT_UNUSED
            return _counts(amount).take(places, mode="clip")
    np.clip(changed, 0, 255, out=changed)
    return changed.astype(np.uint8)


@functools.cache
def _shifts(amount: float) -> npt.NDArray[np.int16]:
    """What Gaussian noise adds at each draw; since values are whole, cutting the noise cuts the sum."""
    return np.floor(255 * amount * _normal()).astype(np.int16)


@functools.cache
def _factors(amount: float) -> npt.NDArray[np.float32]:
    """By what speckle noise multiplies at each draw."""
    return (1 + amount * _normal()).astype(np.float32)


@functools.cache
def _counts(amount: float) -> Pixels:
    """What becomes of each value at each quantile of shot noise, flat uint8 [256 * quantiles]."""
    shares = _shares(_SHOT_QUANTILES)
    photons = [np.searchsorted(_poisson(amount * value / 255), shares) for value in range(256)]
    return (np.minimum(np.concatenate(photons) / amount, 1) * 255).astype(np.uint8)


@functools.cache
def _normal() -> npt.NDArray[np.float64]:
    """The standard normal distribution at each draw."""
    law = NormalDist()
    return np.array([law.inv_cdf(share) for share in _shares(NUM_DRAWS).tolist()])


def _shares(count: int) -> npt.NDArray[np.float64]:
    """The middle of each of ``count`` equally probable parts."""
    return (np.arange(count) + 0.5) / count


def _poisson(rate: float) -> npt.NDArray[np.float64]:
    """P(k or fewer) of a Poisson distribution, for as many k as matter."""
    most = int(rate + 12 * np.sqrt(rate) + 24)
    if rate == 0:
        return np.ones(1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(rate / np.arange(1, most)))]) - rate
    return np.cumsum(np.exp(logs))
