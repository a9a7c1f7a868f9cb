"""Pixels of batches of videos, decoded ahead of the training in other processes, in the requested order.

The decoded pixels are a function of seed, video and epoch, so it does not matter which process decodes them.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.errors import FeatcacheError
from featcache.loaders.videos import VideoFiles

Pixels = tuple[npt.NDArray[Any], ...]


class Batch(NamedTuple):
    """Some videos in one epoch.

    Attributes:
        epoch: Number of the epoch.
        videos: Numbers of the videos.
    """

    epoch: int
    videos: tuple[int, ...]


class ViewSource(Protocol):
    """Views of videos by number; can be sent to another process.

    Attributes:
        files: The videos.
    """

    files: VideoFiles

    def pixels(self, video: int, epoch: int) -> Pixels:
        """Arrays of one video, each of a shape that all videos share, e.g. a view uint8 [T, 3, S, S].

        Raises:
            VideoError: The video was usable when it was scanned, and no longer is.
        """


class ViewLoader:
    """Batches of views; close it, or use it as a context manager.

    Memory holds the requested batch, and decoded ahead of it twice as many videos as there are processes, however few
    videos a batch has, so that no process waits for the training.

    Args:
        source: Source of the views.
        workers: Number of decoding processes; 0: the caller decodes.
    """

    def __init__(self, source: ViewSource, *, workers: int) -> None:
        self.source = source
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            # Children of a server process that has imported torch once for all, and has neither threads nor a GPU.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([type(source).__module__, "torchvision.transforms.v2.functional"])
            self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(source,))
        self._num_ahead = 2 * workers
        self._pending: dict[Batch, list[Future[Pixels]]] = {}

    def __enter__(self) -> Self:
        if self._pool is not None:  # starting the first process must not count as waiting
            self._pool.submit(os.getpid).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _expect(self, pool: ProcessPoolExecutor, batch: Batch) -> None:
        """Start decoding a batch, unless that has begun."""
        if batch not in self._pending:
            self._pending[batch] = [pool.submit(_pixels, video, batch.epoch) for video in batch.videos]

    def views(self, batch: Batch, *, following: Iterable[Batch] = ()) -> tuple[Tensor, ...]:
        """One tensor per view, e.g. uint8 [B, T, 3, S, S].

        Args:
            batch: The videos of the batch.
            following: The batches that will be requested next, in order; the processes continue with as many of them
                as keep all of them busy.

        Raises:
            VideoError: A video cannot be used any more.
            FeatcacheError: A process has died.
        """
        if self._pool is None:
            return _stacked([self.source.pixels(video, batch.epoch) for video in batch.videos])
        try:
            self._expect(self._pool, batch)
            num_ahead = 0
            for later in following:
                self._expect(self._pool, later)
                num_ahead += len(later.videos)
                if num_ahead >= self._num_ahead:
                    break
            return _stacked([future.result() for future in self._pending.pop(batch)])
        except BrokenProcessPool as error:
            names = ", ".join(repr(self.source.files.videos[video].id) for video in batch.videos[:3])
            raise FeatcacheError(
                f"a decoding process died at a batch with {names}, perhaps for want of memory; run the same command "
                "again with fewer workers"
            ) from error


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


def _pixels(video: int, epoch: int) -> Pixels:
    assert _source is not None, "the process has begun"
    return _source.pixels(video, epoch)
