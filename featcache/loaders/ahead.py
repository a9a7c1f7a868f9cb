"""The pixels of batches of videos, decoded in processes beside the training, in the order asked for.

What is decoded of a video is a function of seed, video and epoch, so it makes no difference which process does it.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
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
        videos: Their numbers.
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
            VideoError: It could be used when it was scanned, and cannot now.
        """


class ViewLoader:
    """Batches of views; close it, or use it as a context.

    Memory holds the batch asked for and the one expected.

    Args:
        source: Where views come from.
        workers: Processes; 0: whoever asks decodes.
    """

    def __init__(self, source: ViewSource, *, workers: int) -> None:
        self.source = source
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            # Children of a process that has imported torch once for all, and has neither threads nor a GPU.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([type(source).__module__, "torchvision.transforms.v2.functional"])
            self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(source,))
        self._pending: dict[Batch, list[Future[Pixels]]] = {}

    def __enter__(self) -> Self:
        if self._pool is not None:  # its first process takes seconds, which are no wait for videos
            self._pool.submit(os.getpid).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def expect(self, batch: Batch) -> None:
        """Have a batch decoded while others are trained on."""
        if self._pool is not None and batch not in self._pending:
            self._pending[batch] = [self._pool.submit(_pixels, video, batch.epoch) for video in batch.videos]

    def views(self, batch: Batch, *, following: Batch | None = None) -> tuple[Tensor, ...]:
        """One tensor a view, e.g. uint8 [B, T, 3, S, S].

        Args:
            batch: Which videos.
            following: What will be asked for next; processes go on with it.

        Raises:
            VideoError: A video cannot be used any more.
            FeatcacheError: A process died.
        """
        if self._pool is None:
            return _stacked([self.source.pixels(video, batch.epoch) for video in batch.videos])
        try:
            self.expect(batch)
            if following is not None:
                self.expect(following)
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
    """In a new process: keep the source, leave Ctrl-C to the parent, and do not outlive it."""
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
