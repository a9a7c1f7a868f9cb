"""Scanning: open every video of a source once and record what it is, or why it cannot be used."""

import dataclasses
import stat
from pathlib import Path
from typing import cast

from featcache.data.decoding import open_video
from featcache.data.types import Status, VideoRecord
from featcache.errors import VideoError
from featcache.io import sha256_file


def scan_file(video: VideoRecord, path: Path, *, decoder: str = "pyav") -> VideoRecord:
    """Fill in a listed video from its file: size, hash, frames, timing, codec, or the status and its reason.

    Args:
        video: A record with id, path, labels and split.
        path: Where the file is.
        decoder: Registered decoder that counts the frames.

    Raises:
        OSError: The machine, not the video, is at fault (an I/O error, too many open files).
    """
    try:
        num_bytes = _size_of(path)
        video = dataclasses.replace(video, num_bytes=num_bytes, content_hash=f"sha256:{_hash_of(path)}")
        with open_video(path, decoder=decoder) as reader:
            timeline, codec = reader.timeline, reader.codec
        if timeline.num_frames == 0:
            raise VideoError("undecodable", "it has no frame")
    except VideoError as error:
        return dataclasses.replace(video, status=cast("Status", error.status), reason=error.reason)
    return dataclasses.replace(
        video,
        num_frames=timeline.num_frames,
        fps=timeline.fps,
        duration_seconds=timeline.duration_seconds,
        height=timeline.height,
        width=timeline.width,
        codec=codec,
    )


def _size_of(path: Path) -> int:
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VideoError("missing", "there is no such file") from error
    except PermissionError as error:
        raise VideoError("missing", "it may not be read (permission denied)") from error
    if not stat.S_ISREG(about.st_mode):
        raise VideoError("undecodable", "it is not a regular file")  # opening a pipe would wait for ever
    return about.st_size


def _hash_of(path: Path) -> str:
    try:
        return sha256_file(path)
    except FileNotFoundError as error:
        raise VideoError("missing", "it vanished while it was read") from error
    except PermissionError as error:
        raise VideoError("missing", "it may not be read (permission denied)") from error
