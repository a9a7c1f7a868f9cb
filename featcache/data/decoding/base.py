"""The decoder protocol and registry: open a file, get its timeline, read exact frames by index.

A package adds a decoder by an entry point of the group ``featcache.decoders`` that names a :class:`Decoder`. The
frame-exactness suite is :class:`featcache.testing.decoders.DecoderTests`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from featcache.data.decoding.copies import at_hand
from featcache.data.decoding.faults import blaming_the_decoder
from featcache.data.types import Timeline
from featcache.errors import VideoError
from featcache.plugins import Place, Registry


@runtime_checkable
class VideoReader(Protocol):
    """An open video. A context manager; not shared between processes or threads."""

    @property
    def timeline(self) -> Timeline:
        """Timestamps and size of the frames that really decode, whatever the container claims."""

    @property
    def codec(self) -> str:
        """Codec name, e.g. ``h264``."""

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yield ``(index, frame)`` for strictly increasing ``indices``, each frame decoded once, in one pass.

        A frame is uint8 RGB [H, W, 3], rotated as the container asks, and valid until the next one is yielded.

        Raises:
            VideoError: ``undecodable`` if a frame cannot be decoded.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A decoder, and information for users who choose one.

    Attributes:
        open: Opens a file.
        exact: Whether every frame equals sequential decoding on every kind of file of the conformance suite.
        note: One sentence: on which files it is not exact, or why it is.
        problem: Answers :func:`available`: ``None`` if the library works on this machine, otherwise a sentence with
            the fix.
    """

    open: Callable[[Path], VideoReader]
    exact: bool
    note: str
    problem: Callable[[], str | None] = lambda: None


DECODERS: Registry[Decoder] = Registry(
    kind="decoder",
    group="featcache.decoders",
    entry=Decoder,
    built_in=tuple(
        Place(name=name, target=f"featcache.data.decoding.{name}:DECODER", summary=summary)
        for name, summary in {
            "decord": "decord, optional: pip install 'featcache[decord]'",
            "pyav": "PyAV, the default; its wheel carries FFmpeg",
            "torchcodec": "torchcodec, optional: pip install 'featcache[torchcodec]' and the system's FFmpeg",
        }.items()
    ),
)


def check_indices(indices: Sequence[int], *, num_frames: int) -> list[int]:
    """The indices of a read as plain integers.

    Raises:
        VideoError: ``undecodable`` if the video ends before one of them.
        ValueError: They are negative or not strictly increasing.
    """
    wanted = [int(index) for index in indices]
    if any(after <= before for before, after in itertools.pairwise([-1, *wanted])):
        raise ValueError("frame indices must be at least 0 and strictly increasing; sort them and drop repeats")
    if wanted and wanted[-1] >= num_frames:
        raise VideoError("undecodable", f"frame {wanted[-1]} was asked for, but only {num_frames} frames decode")
    return wanted


def available(name: str) -> str | None:
    """``None`` if a decoder works on this machine, otherwise a sentence that names what is missing and the fix.

    Raises:
        UnknownNameError: There is no such decoder.
    """
    return DECODERS.load(name).problem()


class _Guarded:
    """A reader that raises only :class:`VideoError`, or OSError if the machine failed, and closes what it stands on."""

    def __init__(self, reader: VideoReader, *, path: Path, decoder: str, below: ExitStack) -> None:
        self._reader, self._path, self._decoder, self._below = reader, path, decoder, below
        self._timeline, self._codec = reader.timeline, reader.codec

    @property
    def timeline(self) -> Timeline:
        return self._timeline

    @property
    def codec(self) -> str:
        return self._codec

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        wanted = check_indices(indices, num_frames=self._timeline.num_frames)
        with blaming_the_decoder(self._path, self._decoder):
            yield from self._reader.read(wanted)

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._below:
            self._reader.__exit__(kind, error, traceback)


def open_video(path: Path, *, decoder: str = "pyav", check: Callable[[Path], None] = lambda file: None) -> VideoReader:
    """Open a video with a registered decoder; one in a bucket is copied, until the reader is closed.

    Args:
        path: The file, or the URL of an object.
        decoder: Name of the decoder.
        check: Called with the file that will be decoded, before it is opened; its errors are raised.

    Raises:
        VideoError: ``missing`` or ``undecodable``.
        UnknownNameError: There is no such decoder.
        PluginError: The package that offers it is broken.
        FeatcacheError: The decoder's library is not installed or does not work on this machine.
        OSError: The machine failed, not the video (I/O error, too many open files, no memory, stale handle).
    """
    entry = DECODERS.load(decoder)
    kept = ExitStack()
    with ExitStack() as below:
        file = below.enter_context(at_hand(path))
        check(file)
        with blaming_the_decoder(file, decoder):
            reader = _Guarded(entry.open(file), path=file, decoder=decoder, below=kept)
        kept.push(below.pop_all())
    return reader
