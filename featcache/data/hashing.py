"""The content hash of a video: what tells one file from another, whatever its name or time stamp."""

import hashlib
from pathlib import Path

from featcache.data.decoding.faults import blaming_the_video
from featcache.data.decoding.heartbeat import beat

_CHUNK_BYTES = 1 << 22


def content_hash(path: Path) -> str:
    """``sha256:…`` of a file, beating once a piece: a large file on a slow disk is no hung worker.

    Raises:
        VideoError: ``missing``: the file is not there or may not be read.
        OSError: The machine is at fault.
    """
    digest = hashlib.sha256()
    with blaming_the_video(), path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            beat()
    return f"sha256:{digest.hexdigest()}"
