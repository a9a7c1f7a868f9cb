"""The content hash, and the signs of life it gives on the way."""

import hashlib
from pathlib import Path

import pytest

from featcache.data.decoding.heartbeat import listen
from featcache.data.hashing import content_hash
from featcache.errors import VideoError


def test_a_large_file_beats_while_it_is_hashed(tmp_path: Path) -> None:
    data = bytes(range(256)) * (3 << 15)  # 24 MB
    (tmp_path / "a.mp4").write_bytes(data)
    beats: list[None] = []
    listen(lambda: beats.append(None))
    try:
        assert content_hash(tmp_path / "a.mp4") == f"sha256:{hashlib.sha256(data).hexdigest()}"
    finally:
        listen(None)
    assert len(beats) >= 6


def test_an_absent_file_is_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.mp4", tmp_path):
        with pytest.raises(VideoError, match="missing: it cannot be read"):
            content_hash(path)
