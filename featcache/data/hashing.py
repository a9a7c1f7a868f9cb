"""The content hash of a video, which identifies a file whatever its name or time stamp."""

import hashlib
from pathlib import Path

from featcache.data.decoding.copies import at_hand
from featcache.data.decoding.faults import blaming_the_video
from featcache.data.decoding.heartbeat import beat
from featcache.data.types import VideoRecord
from featcache.errors import VideoError

_CHUNK_BYTES = 1 << 22


def content_hash(path: Path) -> str:
    """``sha256:…`` of a file, with one heartbeat per piece: a large file on a slow disk must not count as hung.

    Raises:
        VideoError: ``missing``: the file does not exist or may not be read.
        OSError: The machine failed, not the video.
    """
    digest = hashlib.sha256()
    with at_hand(path) as copy, blaming_the_video(), copy.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            beat()
    return f"sha256:{digest.hexdigest()}"


def check_unchanged(path: Path, video: VideoRecord, *, name: str | None = None) -> None:
    """Refuse a file whose bytes are not those that were scanned.

    A decoder is not an integrity check: most flipped bits decode to wrong pixels without an error.

    Args:
        path: The file.
        video: Its manifest row.
        name: Name of the file for the message; ``None``: that of the path.

    Raises:
        VideoError: ``missing`` or ``changed``.
        OSError: The machine failed, not the video.
    """
    with blaming_the_video():
        is_file = path.is_file() or not path.exists()  # opening a pipe that has replaced the file would wait for ever
    if not is_file or content_hash(path) != video.content_hash:
        raise VideoError("changed", f"{name or path.name} has changed since the scan; scan again to use the new file")
