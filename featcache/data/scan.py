"""Scanning: open every video of a source once and record what it is, or why it cannot be used."""

import dataclasses
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from featcache.data.decoding import available, open_video
from featcache.data.decoding.faults import blaming_the_video
from featcache.data.decoding.pool import Failed, Finished, Payload, WorkerPool
from featcache.data.hashing import content_hash
from featcache.data.manifest import Manifest
from featcache.data.sources import list_source
from featcache.data.types import MAX_GIGAPIXELS, PASSING, Status, VideoRecord
from featcache.errors import ConfigError, FeatcacheError, VideoError


def scan(
    source: Path,
    *,
    decoder: str = "pyav",
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_gigapixels: float = MAX_GIGAPIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """List a source and open each of its videos in worker processes that may hang or crash without harm.

    A video that cannot be used is a row with its status and reason, never an error and never left out. One that hangs
    or whose bytes cannot be read is tried once more at the end.

    Args:
        source: A folder, a listing, a manifest or a video file; see :mod:`featcache.data.sources`.
        decoder: Registered decoder that counts the frames.
        num_workers: Worker processes, at least 1.
        deadline_seconds: A worker that shows no sign of life for so long is killed; its video is ``timeout``.
        max_gigapixels: Decoded pixels that one file may take; one that takes more is ``undecodable``.
        progress: Called with (videos done, videos in all).

    Returns:
        All videos, sorted by id.

    Raises:
        ManifestError: The source cannot be listed.
        UnknownNameError: No such decoder.
        FeatcacheError: The decoder does not work here, or the machine failed (too many open files, a process killed
            for want of memory): that is no video's fault and is not recorded as such.
    """
    return scan_listed(
        list_source(source),
        decoder=decoder,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_gigapixels=max_gigapixels,
        progress=progress,
    )


def scan_listed(
    listed: Manifest,
    *,
    decoder: str = "pyav",
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_gigapixels: float = MAX_GIGAPIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """As :func:`scan`, of videos that are listed already; a row that is not ``ok`` stays as it is, unopened.

    Returns:
        All videos, in the order of the list.

    Raises:
        UnknownNameError: No such decoder.
        FeatcacheError: As :func:`scan`.
    """
    if num_workers < 1:
        raise ConfigError(f"num_workers is {num_workers}; scanning needs at least 1 worker process")
    if problem := available(decoder):
        raise FeatcacheError(problem)
    videos = list(listed.videos)
    places = [place for place, video in enumerate(videos) if video.status == "ok"]
    num_done, num_all = 0, len(places)
    try:
        with WorkerPool(
            _job,
            name=_path_of,
            num_workers=num_workers,
            deadline_seconds=deadline_seconds,
            max_gigapixels=max_gigapixels,
        ) as pool:
            for is_last in (False, True):  # what a stalled disk did not give is asked for once more at the end
                items = [(listed.videos[place], listed.path_of(listed.videos[place]), decoder) for place in places]
                again = []
                for event in pool.run(items):
                    place = places[event.item]
                    if isinstance(event, Payload):
                        videos[place] = event.value
                    elif isinstance(event, Failed):
                        videos[place] = _failed(videos[place], event.status, event.reason)
                    if isinstance(event, (Finished, Failed)):
                        if videos[place].status in PASSING and not is_last:
                            again.append(place)
                            continue
                        num_done += 1
                        if progress is not None:
                            progress(num_done, num_all)
                places = sorted(again)
    except OSError as error:
        raise FeatcacheError(
            f"scanning {listed.root} stopped at {error.filename} ({error.strerror}): the machine failed, not the "
            "video; mend that and scan again"
        ) from error
    return dataclasses.replace(listed, videos=tuple(videos))


def scan_file(video: VideoRecord, path: Path, *, decoder: str = "pyav") -> Iterator[VideoRecord]:
    """Fill in a listed video from its file: first size and hash, then frames, timing and codec.

    Args:
        video: A record with id, path, labels and split.
        path: Where the file is.
        decoder: Registered decoder that counts the frames.

    Yields:
        The record as far as it is known; the last is complete, or has a status other than ``ok`` and the reason.

    Raises:
        OSError: The machine, not the video, is at fault.
    """
    try:
        video = dataclasses.replace(video, num_bytes=_size_of(path), content_hash=content_hash(path))
        yield video
        with open_video(path, decoder=decoder) as reader:
            timeline, codec = reader.timeline, reader.codec
        if timeline.num_frames == 0:
            raise VideoError("undecodable", "it has no frame")
    except VideoError as error:
        yield _failed(video, cast("Status", error.status), error.reason)
    else:
        yield dataclasses.replace(
            video,
            num_frames=timeline.num_frames,
            fps=timeline.fps,
            duration_seconds=timeline.duration_seconds,
            start_seconds=float(timeline.pts_seconds[0]),
            height=timeline.height,
            width=timeline.width,
            codec=codec,
            pixel_aspect=timeline.pixel_aspect,
            transfer=timeline.transfer,
        )


def _job(item: tuple[VideoRecord, Path, str]) -> Iterator[VideoRecord]:
    video, path, decoder = item
    return scan_file(video, path, decoder=decoder)


def _path_of(item: tuple[VideoRecord, Path, str]) -> str:
    return str(item[1])


def _failed(video: VideoRecord, status: Status, reason: str) -> VideoRecord:
    return dataclasses.replace(video, status=status, reason=reason)


def _size_of(path: Path) -> int:
    with blaming_the_video():
        about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise VideoError("undecodable", "it is not a regular file")  # opening a pipe would wait for ever
    return about.st_size
