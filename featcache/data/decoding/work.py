"""A cap on the work of one file: a few bytes can ask for days of decoding, and each frame of it is a sign of life."""

from collections.abc import Iterator
from contextlib import contextmanager

from featcache.errors import VideoError

_allowed = 0.0
_left: float | None = None


@contextmanager
def at_most(gigapixels: float) -> Iterator[None]:
    """Let what decodes in a block decode so much and no more; nothing is counted outside of one."""
    global _allowed, _left
    _allowed, _left = gigapixels, gigapixels * 1e9
    try:
        yield
    finally:
        _left = None


def spend(pixels: int) -> None:
    """Count a frame that was decoded, wanted or not.

    Raises:
        VideoError: ``undecodable``: it is more than the file may take.
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
