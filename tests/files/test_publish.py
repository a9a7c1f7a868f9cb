"""Atomic publication."""

import os
import threading

import numpy as np
import pytest

from featcache.errors import StoreError
from featcache.files import publish


def test_put_new_publishes_once_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    assert publish.put_new(path, b"first")
    assert not publish.put_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_put_replace_replaces(tmp_path):
    path = tmp_path / "file"
    publish.put_replace(path, b"first")
    publish.put_replace(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("count", [0, 1, 3, 1024, 2500])
def test_buffers_are_written_in_order_whatever_their_number(tmp_path, count):
    chunks = [bytes([i % 251]) * (i % 5) if i % 2 else np.full(i % 7, i % 251, np.uint8) for i in range(count)]
    publish.put_new(tmp_path / "file", chunks)
    assert (tmp_path / "file").read_bytes() == b"".join(bytes(chunk) for chunk in chunks)


def test_partial_writes_are_continued(tmp_path, monkeypatch):
    real = os.writev

    def short(fd, buffers):
        first = memoryview(buffers[0])
        return real(fd, [first[: max(1, len(first) // 2)]])

    monkeypatch.setattr(os, "writev", short)
    publish.put_new(tmp_path / "file", [b"abcdefg", np.arange(5, dtype=np.float16), b"x"])
    assert (tmp_path / "file").read_bytes() == b"abcdefg" + np.arange(5, dtype=np.float16).tobytes() + b"x"


def test_only_one_of_many_publishes(tmp_path):
    path = tmp_path / "file"
    published = []

    def work(number):
        if publish.put_new(path, str(number).encode() * 1000):
            published.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(published) == 1
    assert path.read_bytes() == str(published[0]).encode() * 1000
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_opening_and_publishing_spare_the_temporary_files_of_a_live_sibling(tmp_path):
    """A sweep at start-up would delete what a sibling is about to link."""
    sibling = tmp_path / f".file.0123456789abcdef{publish.TEMP_SUFFIX}"
    sibling.write_bytes(b"half")
    publish.put_new(tmp_path / "file", b"mine")
    publish.put_replace(tmp_path / "file", b"mine again")
    assert sibling.read_bytes() == b"half"


def test_errors_are_sentences(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="run the same command again"):
        publish.put_new(tmp_path / "file" / "below", b"x")
