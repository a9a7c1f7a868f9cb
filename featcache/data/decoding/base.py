"""The decoder protocol: open a file, know its timeline, read frames by index, exactly."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from featcache.data.types import Timeline
from featcache.errors import unknown_name


@runtime_checkable
class VideoReader(Protocol):
    """An open video. A context manager; not shared between processes or threads."""

    @property
    def timeline(self) -> Timeline:
        """Timestamps and size of the frames, counted by demuxing, not by the container's claim."""

    @property
    def codec(self) -> str:
        """Codec name, e.g. ``h264``."""

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yield ``(index, frame)`` for strictly increasing ``indices``, each frame decoded once, in one pass.

        A frame is uint8 RGB [H, W, 3], rotated as the container asks, and valid until the next one is drawn.

        Raises:
            VideoError: ``undecodable`` if a frame cannot be had.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


Opener = Callable[[Path], VideoReader]

_OPENERS: dict[str, Opener] = {}


def register_decoder(name: str) -> Callable[[Opener], Opener]:
    """Register an opener under ``name``; a name can be taken once."""

    def register(opener: Opener) -> Opener:
        if name in _OPENERS:
            raise ValueError(f"decoder {name!r} is registered already")
        _OPENERS[name] = opener
        return opener

    return register


def decoder_names() -> list[str]:
    """Registered decoders, whether or not their library is installed."""
    return sorted(_OPENERS)


def open_video(path: Path, *, decoder: str = "pyav") -> VideoReader:
    """Open ``path`` with a registered decoder.

    Raises:
        VideoError: ``missing`` or ``undecodable``.
        UnknownNameError: No such decoder.
    """
    if decoder not in _OPENERS:
        raise unknown_name("decoder", decoder, _OPENERS)
    return _OPENERS[decoder](path)
