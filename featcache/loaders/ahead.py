"""Pixels of batches of videos, decoded ahead of the training in other processes, in the requested order.

The decoded pixels are a function of seed, video and epoch, so it does not matter which process decodes them. A process
gets the settings of the views once, and with each request the manifest row of one video, never the whole manifest.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.errors import FeatcacheError, VideoError
from featcache.loaders.stand_ins import Seat, StandIns
from featcache.loaders.videos import VideoFile, VideoFiles, no_longer_usable

Pixels = tuple[npt.NDArray[Any], ...]


class Batch(NamedTuple):
    """Some videos in one epoch.

    Attributes:
        epoch: Number of the epoch.
        videos: Numbers of the videos.
    """

    epoch: int
    videos: tuple[int, ...]


class Views(NamedTuple):
    """Views of the videos of a batch.

    Attributes:
        videos: Numbers of the videos; in the place of a damaged one, that of the video that took it.
        arrays: One tensor per view, e.g. uint8 [B, T, 3, S, S].
    """

    videos: tuple[int, ...]
    arrays: tuple[Tensor, ...]


class ViewSource(Protocol):
    """How views of a video are drawn and decoded; small, since it is sent to each decoding process."""

    def pixels(self, file: VideoFile, epoch: int) -> Pixels:
        """Arrays of one video, each of a shape that all videos share, e.g. a view uint8 [T, 3, S, S].

        Raises:
            VideoError: The video is missing, has changed since it was scanned, or cannot be decoded.
        """


class ViewLoader:
    """Batches of views; close it, or use it as a context manager.

    Memory holds the requested batch, and decoded ahead of it twice as many videos as there are processes, however few
    videos a batch has, so that no process waits for the training.

    Attributes:
        source: How views are drawn.
        files: The videos.

    Args:
        source: How views are drawn.
        files: The videos.
        workers: Number of decoding processes; 0: the caller decodes.
        stand_ins: Videos that take the places of damaged ones; ``None``: a damaged video is an error.
    """

    def __init__(
        self, source: ViewSource, files: VideoFiles, *, workers: int, stand_ins: StandIns | None = None
    ) -> None:
        self.source = source
        self.files = files
        self._stand_ins = stand_ins
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            # Children of a server process that has imported torch once for all, and has neither threads nor a GPU.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([type(source).__module__, "torchvision.transforms.v2.functional"])
            self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(source,))
        self._num_ahead = 2 * workers
        self._pending: dict[Batch, list[_Decoding]] = {}

    def __enter__(self) -> Self:
        if self._pool is not None:  # starting the first process must not count as waiting
            self._pool.submit(os.getpid).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def views(self, batch: Batch, *, following: Iterable[Batch] = ()) -> Views:
        """The views of a batch; which videos took the places of damaged ones is written into the ledger.

        Args:
            batch: The videos of the batch.
            following: The batches that will be requested next, in order; the processes continue with as many of them
                as keep all of them busy.

        Raises:
            VideoError: A video is missing or has changed, or too many cannot be decoded.
            FeatcacheError: A process has died.
        """
        decoded = []
        with self._explaining(batch):
            decodings = self._begun(batch, following)
            for each in decodings:
                try:
                    decoded.append(each.result())
                except VideoError as error:
                    if each.seat is None:
                        raise no_longer_usable(self.files.videos[each.video], error) from error
                    raise
                if each.seat is not None:
                    each.seat.record()
        return Views(tuple(each.video for each in decodings), _stacked(decoded))

    def decodable(self, batch: Batch, *, following: Iterable[Batch] = ()) -> Views:
        """As :meth:`views`, but damaged videos are left out; there are no arrays if all of them are damaged.

        Raises:
            VideoError: A video is missing or has changed.
            FeatcacheError: A process has died.
        """
        assert self._stand_ins is None, "what is left out needs no other video in its place"
        videos, decoded = [], []
        with self._explaining(batch):
            for each in self._begun(batch, following):
                try:
                    decoded.append(each.result())
                    videos.append(each.video)
                except VideoError as error:
                    self.files.damage(each.video, error)
        return Views(tuple(videos), _stacked(decoded))

    def _begun(self, batch: Batch, following: Iterable[Batch]) -> "list[_Decoding]":
        """The videos of a batch, which are being decoded, as are those of the following batches."""
        for each in itertools.chain.from_iterable(self._pending.values()):
            each.go_on()
        self._expect(batch)
        if self._pool is not None:
            num_ahead = 0
            for later in following:
                self._expect(later)
                num_ahead += len(later.videos)
                if num_ahead >= self._num_ahead:
                    break
        return self._pending.pop(batch)

    def _expect(self, batch: Batch) -> None:
        """Start decoding a batch, unless that has begun."""
        if batch not in self._pending:
            self._pending[batch] = [self._decoding(video, batch.epoch) for video in batch.videos]

    def _decoding(self, video: int, epoch: int) -> "_Decoding":
        seat = None if self._stand_ins is None else self._stand_ins.seat(video, epoch=epoch)
        return _Decoding(video, seat, begin=lambda number: self._submit(number, epoch), was_read=self.files.was_read)

    def _submit(self, video: int, epoch: int) -> Future[Pixels]:
        """Decode a video in a process, or in this one at once."""
        file = self.files.file(video)
        if self._pool is not None:
            return self._pool.submit(_pixels, file, epoch)
        done: Future[Pixels] = Future()
        try:
            done.set_result(self.source.pixels(file, epoch))
        except VideoError as error:
            done.set_exception(error)
        return done

    @contextmanager
    def _explaining(self, batch: Batch) -> Iterator[None]:
        """Say what to do about a process that has died."""
        try:
            yield
        except BrokenProcessPool as error:
            names = ", ".join(repr(self.files.videos[video].id) for video in batch.videos[:3])
            raise FeatcacheError(
                f"a decoding process died at a batch with {names}, perhaps for want of memory; run the same command "
                "again with fewer workers"
            ) from error


class _Decoding:
    """A video that is being decoded, or another one in its place."""

    def __init__(
        self,
        video: int,
        seat: Seat | None,
        *,
        begin: Callable[[int], Future[Pixels]],
        was_read: Callable[[int], None],
    ) -> None:
        self.video = video
        self.seat = seat
        self._begin = begin
        self._was_read = was_read
        self._future = begin(video)

    def go_on(self) -> None:
        """Begin with another video where this one has turned out to be damaged, without waiting.

        Raises:
            VideoError: The video is missing or has changed, or too many cannot be decoded.
        """
        while self.seat is not None and self._future.done():
            error = self._future.exception()
            if not isinstance(error, VideoError):
                break
            self.seat.give_up(error)
            self.video = self.seat.video
            self._future = self._begin(self.video)

    def result(self) -> Pixels:
        """Wait for the pixels.

        Raises:
            VideoError: The video cannot be decoded, and no other one may take its place.
        """
        while True:
            wait([self._future])
            self.go_on()
            if self._future.done():
                pixels = self._future.result()
                self._was_read(self.video)
                return pixels


def _stacked(videos: Sequence[Pixels]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.stack(clips)) for clips in zip(*videos, strict=True))


_source: ViewSource | None = None


def _begin(source: ViewSource) -> None:
    """Initialise a new process: keep the source, leave Ctrl-C to the parent, and do not outlive it."""
    global _source
    _source = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only called in a child"
    parent.join()
    os._exit(1)


def _pixels(file: VideoFile, epoch: int) -> Pixels:
    assert _source is not None, "the process has begun"
    return _source.pixels(file, epoch)
