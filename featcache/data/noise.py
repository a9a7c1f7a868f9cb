"""Noise on pixels: one gather per value from a table of outcomes, with random bits that belong to the value's place.

Noise of every kind is a draw from a law of the value alone. A table holds, for each of the 256 values, its outcomes at
``NUM_QUANTILES`` equally probable quantiles; a value's random bits choose one. The share of outcomes up to any given
one is therefore a multiple of 1/16384, within 1/32768 of the exact one, and what is rarer than that does not occur.
"""

import functools
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.types import Box, VideoNoise
from featcache.noise import Kind
from featcache.seeding import seed_for

NUM_QUANTILES = 1 << 14
_UNUSED_BITS = 2  # of the 16 random bits of a value
_VALUES_PER_DRAW = 4  # 16 bits each, of 64

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
    skipped = first // _VALUES_PER_DRAW
    words = bits.advance(skipped).random_raw(-(-stop // _VALUES_PER_DRAW) - skipped)
    drawn = words.astype("<u8", copy=False).view("<u2")[first - skipped * _VALUES_PER_DRAW :][: stop - first]
    noisy = pixels.copy()
    if box is None:
        part, quantiles = noisy, drawn.reshape(pixels.shape)
    else:
        rows = noisy[box.y0 : box.y1]
        part, quantiles = rows[:, box.x0 : box.x1], drawn.reshape(rows.shape)[:, box.x0 : box.x1]
    places = part.astype(np.uint32)
    places *= NUM_QUANTILES
    places += quantiles >> _UNUSED_BITS
    part[...] = outcomes(recipe.kind, recipe.amount).reshape(-1).take(places, mode="clip")
    return noisy


@functools.cache
def outcomes(kind: Kind, amount: float) -> Pixels:
    """What becomes of each value at each quantile, uint8 [256, NUM_QUANTILES], ascending; computed once per process.

    Args:
        kind: Kind of noise.
        amount: Its constant c.
    """
    shares = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    values = np.arange(256)[:, None] / 255
    changed: npt.NDArray[Any]
    match kind:
        case "gaussian":
            changed = values + amount * _normal(shares)
        case "speckle":
            changed = values + values * (amount * _normal(shares))
        case "shot":
            changed = np.stack([np.searchsorted(_poisson(rate), shares) for rate in amount * values[:, 0]]) / amount
        case "impulse":
            changed = np.where(shares < amount / 2, 0.0, np.where(shares > 1 - amount / 2, 1.0, values))
    np.clip(changed, 0, 1, out=changed)
    changed *= 255
    return changed.astype(np.uint8)  # downwards, as released


def _normal(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Quantiles of the standard normal distribution."""
    law = NormalDist()
    return np.array([law.inv_cdf(share) for share in shares.tolist()])


def _poisson(rate: float) -> npt.NDArray[np.float64]:
    """P(k or fewer) of a Poisson distribution, for as many k as matter."""
    most = int(rate + 12 * np.sqrt(rate) + 24)
    if rate == 0:
        return np.ones(1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(rate / np.arange(1, most)))]) - rate
    return np.cumsum(np.exp(logs))
