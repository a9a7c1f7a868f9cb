"""Reads layers of a network of blocks: runs it up to a layer, and counts the tokens of a clip. Without torch."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from featcache.errors import ClipLengthError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def tap(x: Any, steps: Iterable[tuple[str, Callable[[Any], Any]]], wanted: frozenset[str]) -> dict[str, Any]:
    """Apply ``steps`` one after another, keep the outputs of the wanted ones, and stop after the last of them."""
    kept: dict[str, Any] = {}
    for name, step in steps:
        x = step(x)
        if name in wanted:
            kept[name] = x
        if len(kept) == len(wanted):
            break
    return kept


def token_grid(pixels: "Tensor", *, name: str, tubelet: int, patch: int) -> tuple[int, int, int]:
    """Number of tokens (t, h, w) of clips [B, T, 3, S, S].

    Raises:
        ClipLengthError: Some frames would be left over.
        ConfigError: Some pixels would be left over.
    """
    frames, (height, width) = pixels.shape[1], pixels.shape[-2:]
    if frames % tubelet:
        raise ClipLengthError(
            f"{name} joins {tubelet} frames in a token and cannot take clips of {frames}; "
            f"set sampling.num_frames to a multiple of {tubelet}"
        )
    if height % patch or width % patch:
        raise ConfigError(
            f"{name} cuts frames into patches of {patch} pixels and cannot take {height} x {width}; "
            f"set input_size to a multiple of {patch}"
        )
    return frames // tubelet, height // patch, width // patch
