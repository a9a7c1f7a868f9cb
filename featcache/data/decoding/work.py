"""Limits the work on one file: a few bytes can cause days of decoding, and each decoded frame is a heartbeat."""

from collections.abc import Iterator
from contextlib import contextmanager

from featcache.errors import VideoError

_allowed = 0.0
_left: float | None = None


@contextmanager
def at_most(gigapixels: float) -> Iterator[None]:
    """Limit how much may be decoded inside a ``with`` block; nothing is counted outside."""
    global _allowed, _left
    _allowed, _left = gigapixels, gigapixels * 1e9
    try:
        yield
    finally:
        _left = None


def spend(pixels: int) -> None:
    """Count a decoded frame, whether it was needed or not.

    Raises:
        VideoError: ``undecodable``: the file exceeds its limit.
    """
    global _left
    if _left is None:
        return
    _left -= pixels
    if _left < 0:
        raise VideoError(
            "undecodable",
            f"decoding it takes more than {_allowed:g} gigapixels of frames; if it is sound, raise max_gigapixels and "
            "try it again",
        )
