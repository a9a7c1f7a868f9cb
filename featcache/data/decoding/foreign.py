"""Decoders of other libraries, which give frames by index while PyAV gives the timeline.

PyAV determines how many frames there are, when each is shown and how large it is; the other library gives the pixels of
frame ``i``. So timestamps and failures mean the same with every decoder, and only the pixels can differ.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from featcache.data.decoding.base import check_indices
from featcache.data.decoding.faults import blame
from featcache.data.decoding.heartbeat import beat
from featcache.data.decoding.pyav import PyAVReader
from featcache.data.decoding.work import spend
from featcache.data.types import Timeline
from featcache.errors import VideoError

# Number of frames requested at once: a library may decode a group faster than single frames, and memory stays bounded.
_GROUP_FRAMES = 8

# Frame indices -> uint8 RGB [n, H, W, 3].
Fetch = Callable[[list[int]], npt.NDArray[np.uint8]]


class ForeignReader:
    """A :class:`~featcache.data.decoding.base.VideoReader` over another library.

    Args:
        path: The file.
        decoder: The library's name, for messages.
        open_file: Opens the file with the library and returns a function that fetches frames.
        errors: Exceptions that the library raises for a video that it cannot read.

    Raises:
        VideoError: ``missing`` or ``undecodable``.
        OSError: The machine failed, not the video.
    """

    def __init__(
        self, path: Path, *, decoder: str, open_file: Callable[[Path], Fetch], errors: tuple[type[Exception], ...]
    ) -> None:
        self._path = path
        self._decoder = decoder
        self._errors = errors
        with PyAVReader(path) as reader:
            self._timeline, self._codec = reader.timeline, reader.codec
        try:
            self._fetch: Fetch | None = open_file(path)
        except errors as error:
            raise blame(path, error, f"{decoder} cannot open it") from error

    @property
    def timeline(self) -> Timeline:
        """Timestamps and size of the frames, from PyAV."""
        return self._timeline

    @property
    def codec(self) -> str:
        """Codec name, e.g. ``h264``."""
        return self._codec

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yield ``(index, frame)`` for strictly increasing ``indices``; frames are uint8 RGB [H, W, 3].

        Raises:
            VideoError: ``undecodable``, naming the frames.
            ValueError: ``indices`` are negative or not strictly increasing.
        """
        wanted = check_indices(indices, num_frames=self._timeline.num_frames)
        shape = (self._timeline.height, self._timeline.width, 3)
        assert self._fetch is not None, "the reader is closed"
        for start in range(0, len(wanted), _GROUP_FRAMES):
            group = wanted[start : start + _GROUP_FRAMES]
            beat()
            try:
                frames = self._fetch(group)
            except self._errors as error:
                raise blame(self._path, error, f"{self._decoder} cannot read frames {group}") from error
            spend(frames.size // 3)
            if frames.shape[1:] != shape:
                height, width = frames.shape[1:3]
                raise VideoError(
                    "undecodable",
                    f"{self._decoder} gives {width}x{height} where the video is shown as {shape[1]}x{shape[0]}; "
                    "use decoder 'pyav'",
                )
            yield from zip(group, frames, strict=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._fetch = None
