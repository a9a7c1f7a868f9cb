"""Reading the source of an extraction while this process does something else. Without torch."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from featcache.data.listing import OnScan, read_videos
from featcache.data.manifest import Manifest
from featcache.data.notices import warn
from featcache.extract.settings import ExtractSettings


class _LeftError(Exception):
    """Nobody waits for the scan any more."""


@contextmanager
def scanning(
    settings: ExtractSettings, *, num_workers: int = 2, kept: Path | None = None, on_scan: OnScan
) -> Iterator[Callable[[], Manifest]]:
    """List and scan the videos of an extraction in a thread, for a ``with`` block that prepares what comes next.

    Files are opened by worker processes, so that the block has this process nearly for itself: importing torch and
    building backbones takes as long as a short extraction. A block that ends before the scan, for an error of its own,
    does not wait for it; the scan ends at its next video.

    Args:
        settings: The extraction.
        num_workers: Number of scanning processes.
        kept: File in which the scan is kept; see :func:`featcache.data.kept.scan_keeping`.
        on_scan: Called with (files listed, files in all), from the thread.

    Yields:
        A function that waits for the videos, logs what is worth a sentence about them, and returns them, or raises what
        reading the source has raised; see :func:`read_source`.
    """
    has_left = threading.Event()
    found: Future[Manifest] = Future()

    def tell(done: int, total: int) -> None:
        if has_left.is_set():
            raise _LeftError
        on_scan(done, total)

    def scan() -> None:
        try:
            found.set_result(read_source(settings, num_workers=num_workers, kept=kept, on_scan=tell))
        except BaseException as error:  # for whoever asks for the videos
            found.set_exception(error)

    def videos() -> Manifest:
        manifest = found.result()
        warn(manifest)  # not from the thread: what is wrong with a backbone is reported alone
        return manifest

    threading.Thread(target=scan, name="featcache-scan", daemon=True).start()
    try:
        yield videos
    finally:
        has_left.set()


def read_source(
    settings: ExtractSettings, *, num_workers: int = 2, kept: Path | None = None, on_scan: OnScan
) -> Manifest:
    """The videos of an extraction; see :func:`featcache.data.listing.read_videos`."""
    return read_videos(
        source=settings.source,
        dataset=settings.dataset,
        root=settings.root,
        selection=settings.selection,
        decoder=settings.sampling.decoder,
        deadline_seconds=settings.runtime.deadline_seconds,
        max_gigapixels=settings.runtime.max_gigapixels,
        num_workers=num_workers,
        kept=kept,
        on_scan=on_scan,
    )
