"""decord, an optional decoder: fast at seeking, but not frame-exact on every file."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.data.decoding.base import Decoder
from featcache.data.decoding.foreign import Fetch, ForeignReader
from featcache.errors import FeatcacheError


def unavailable() -> str | None:
    """``None`` if decord works on this machine, otherwise a sentence with the fix."""
    try:
        import decord  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"decoder 'decord' cannot be imported ({error}); run: pip install 'featcache[decord]'"
    return None


def _open(path: Path) -> Fetch:
    import decord

    decord.logging.set_level(decord.logging.QUIET)  # serious problems arrive as exceptions
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)

    def fetch(indices: list[int]) -> npt.NDArray[np.uint8]:
        frames: npt.NDArray[np.uint8] = reader.get_batch(indices).asnumpy()
        return frames

    return fetch


def open_decord(path: Path) -> ForeignReader:
    """Open a video with decord and one thread.

    Raises:
        FeatcacheError: decord is not installed.
    """
    if (problem := unavailable()) is not None:
        raise FeatcacheError(problem)
    import decord

    return ForeignReader(
        path, decoder="decord", open_file=_open, errors=(decord.DECORDError, RuntimeError, IndexError, AssertionError)
    )


DECODER = Decoder(
    open=open_decord,
    exact=False,
    note="Returns other frames than asked on MPEG-4 with B-frames (HMDB51's own AVIs), H.264 in AVI, open GOPs, "
    "MPEG streams and cut streams, and ignores mirroring.",
    problem=unavailable,
)
