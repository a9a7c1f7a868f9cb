"""Scanning: opens every video of a source once and records its properties, or why it cannot be used."""

import dataclasses
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from featcache.data.decoding import available, open_video
from featcache.data.decoding.copies import at_hand
from featcache.data.decoding.faults import blaming_the_video
from featcache.data.decoding.heartbeat import beat
from featcache.data.decoding.pool import Failed, Finished, Payload, WorkerPool
from featcache.data.hashing import content_hash
from featcache.data.manifest import Manifest
from featcache.data.sources import list_source
from featcache.data.types import MAX_GIGAPIXELS, PASSING, Status, VideoRecord
from featcache.errors import ConfigError, FeatcacheError, VideoError
from featcache.files.urls import shown


def scan(
    source: Path,
    *,
    decoder: str = "pyav",
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_gigapixels: float = MAX_GIGAPIXELS,
    decodes: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """List a source and open each of its videos in worker processes, which may hang or crash without harm.

    A video that cannot be used becomes a row with its status and reason, never an error, and is never left out. A video
    that hangs, or whose bytes cannot be read, is tried once more at the end.

    Args:
        source: A folder, a listing, a manifest or a video file; see :mod:`featcache.data.sources`.
        decoder: Registered decoder that counts the frames.
        num_workers: Number of worker processes, at least 1; there are no more of them than videos.
        deadline_seconds: A worker that makes no progress for this time is killed; its video gets ``timeout``.
        max_gigapixels: Limit of decoded pixels per file; a file that needs more is ``undecodable``.
        decodes: Decode every frame of each video too, and not the first alone: one that cannot be decoded is
            ``undecodable``.
        progress: Called with (videos done, videos in total).

    Returns:
        All videos, sorted by id.

    Raises:
        ManifestError: The source cannot be listed.
        UnknownNameError: There is no such decoder.
        FeatcacheError: The decoder does not work on this machine, or the machine failed (too many open files, a process
            killed for lack of memory), which is not recorded as a fault of a video.
    """
    return scan_listed(
        list_source(source),
        decoder=decoder,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_gigapixels=max_gigapixels,
        decodes=decodes,
        progress=progress,
    )


def scan_listed(
    listed: Manifest,
    *,
    decoder: str = "pyav",
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_gigapixels: float = MAX_GIGAPIXELS,
    decodes: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """As :func:`scan`, for videos that are already listed; a row that is not ``ok`` is kept and its file not opened.

    Returns:
        All videos, in the order of the list.

    Raises:
        UnknownNameError: There is no such decoder.
        FeatcacheError: As in :func:`scan`.
    """
    if num_workers < 1:
        raise ConfigError(f"num_workers is {num_workers}; scanning needs at least 1 worker process")
    if problem := available(decoder):
        raise FeatcacheError(problem)
    videos = list(listed.videos)
    places = [place for place, video in enumerate(videos) if video.status == "ok"]
    num_done, num_all = 0, len(places)
    if not places:
        return listed
    try:
        with WorkerPool(
            _job,
            name=_path_of,
            num_workers=min(num_workers, num_all),
            deadline_seconds=deadline_seconds,
            max_gigapixels=max_gigapixels,
        ) as pool:
            for is_last in (False, True):  # videos on a disk that stalled are tried once more at the end
                items = [
                    (listed.videos[place], listed.path_of(listed.videos[place]), decoder, decodes) for place in places
                ]
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
    except FeatcacheError:  # also of a bucket
        raise
    except OSError as error:
        raise FeatcacheError(
            f"scanning {listed.root} stopped at {error.filename} ({error.strerror}): the machine failed, not the "
            "video; fix that and scan again"
        ) from error
    return dataclasses.replace(listed, videos=tuple(videos), is_decoded=decodes)


def scan_file(video: VideoRecord, path: Path, *, decoder: str = "pyav", decodes: bool = False) -> Iterator[VideoRecord]:
    """Fill in a listed video from its file: first size and hash, then frames, timing and codec.

    Args:
        video: A record with id, path, labels and split.
        path: Path of the file.
        decoder: Registered decoder that counts the frames.
        decodes: Decode every frame too.

    Yields:
        The record as far as it is known; the last is complete, or has a status other than ``ok`` and the reason.

    Raises:
        OSError: The machine failed, not the video.
    """
    try:
        with at_hand(path) as file:
            video = dataclasses.replace(video, num_bytes=_size_of(file), content_hash=content_hash(file))
            yield video
            with open_video(file, decoder=decoder) as reader:
                timeline, codec = reader.timeline, reader.codec
                if timeline.num_frames == 0:
                    raise VideoError("undecodable", "it has no frame")
                for _ in reader.read(range(timeline.num_frames if decodes else 0)):
                    beat()
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


def _job(item: tuple[VideoRecord, Path, str, bool]) -> Iterator[VideoRecord]:
    video, path, decoder, decodes = item
    return scan_file(video, path, decoder=decoder, decodes=decodes)


def _path_of(item: tuple[VideoRecord, Path, str, bool]) -> str:
    return shown(item[1])


def _failed(video: VideoRecord, status: Status, reason: str) -> VideoRecord:
    return dataclasses.replace(video, status=status, reason=reason)


def _size_of(path: Path) -> int:
    with blaming_the_video():
        about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise VideoError("undecodable", "it is not a regular file")  # opening a pipe would block for ever
    return about.st_size
