"""A video whose frames are noisy: a reader around a reader."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from featcache.data.decoding.base import VideoReader
from featcache.data.noise import add_noise
from featcache.data.types import Timeline, VideoNoise
from featcache.errors import ConfigError


class NoisyReader:
    """A :class:`VideoReader` with noise on each frame, the same as in the rows of :func:`decode_rows`.

    A frame's noise does not depend on the other frames that are read.

    Args:
        reader: The open video, which is closed with this one.
        noise: Its noise, of place ``frame``.

    Raises:
        ConfigError: The noise belongs on crops, which a reader does not know.
    """

    def __init__(self, reader: VideoReader, noise: VideoNoise) -> None:
        if noise.recipe.place != "frame":
            raise ConfigError(
                f"noise.place is {noise.recipe.place!r}, and a reader gives whole frames; set it to 'frame', or sample "
                "rows with this noise and decode those"
            )
        self._reader = reader
        self._noise = noise

    @property
    def timeline(self) -> Timeline:
        """Of the video."""
        return self._reader.timeline

    @property
    def codec(self) -> str:
        """Of the video."""
        return self._reader.codec

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yield ``(index, frame)`` with noise; see :meth:`VideoReader.read`."""
        for index, frame in self._reader.read(indices):
            yield index, add_noise(frame, self._noise, frame=index)

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, traceback)
