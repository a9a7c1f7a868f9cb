"""Atomic publication, sealed JSON, safe names, locks."""

import multiprocessing
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import CorruptStoreError, StoreError
from featcache.files import publish as io

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_put_new_publishes_once_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    assert io.put_new(path, b"first")
    assert not io.put_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_put_replace_replaces(tmp_path):
    path = tmp_path / "file"
    io.put_replace(path, b"first")
    io.put_replace(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("count", [0, 1, 3, 1024, 2500])
def test_buffers_are_written_in_order_whatever_their_number(tmp_path, count):
    chunks = [bytes([i % 251]) * (i % 5) if i % 2 else np.full(i % 7, i % 251, np.uint8) for i in range(count)]
    io.put_new(tmp_path / "file", chunks)
    assert (tmp_path / "file").read_bytes() == b"".join(bytes(chunk) for chunk in chunks)


def test_partial_writes_are_continued(tmp_path, monkeypatch):
    real = os.writev

    def short(fd, buffers):
        first = memoryview(buffers[0])
        return real(fd, [first[: max(1, len(first) // 2)]])

    monkeypatch.setattr(os, "writev", short)
    io.put_new(tmp_path / "file", [b"abcdefg", np.arange(5, dtype=np.float16), b"x"])
    assert (tmp_path / "file").read_bytes() == b"abcdefg" + np.arange(5, dtype=np.float16).tobytes() + b"x"


def test_only_one_of_many_publishes(tmp_path):
    path = tmp_path / "file"
    published = []

    def work(number):
        if io.put_new(path, str(number).encode() * 1000):
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
    sibling = tmp_path / f".file.0123456789abcdef{io.TEMP_SUFFIX}"
    sibling.write_bytes(b"half")
    io.put_new(tmp_path / "file", b"mine")
    io.put_replace(tmp_path / "file", b"mine again")
    assert sibling.read_bytes() == b"half"


def test_errors_are_sentences(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="run the same command again"):
        io.put_new(tmp_path / "file" / "below", b"x")


@given(st.dictionaries(st.text().filter(lambda key: key != "checksum"), JSON, max_size=4))
def test_sealed_json_round_trips(document):
    sealed = io.seal(document)
    opened = io.unseal(sealed, path="p", what="thing")
    assert len(opened.pop("checksum")) == 64
    assert opened == document


def test_every_flipped_bit_of_sealed_json_is_seen():
    sealed = io.seal({"b": [1, 2.5, "é\n"], "a": {"é": None, "z": True}, "long": "x" * 20})
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(CorruptStoreError, match="damaged"):
            io.unseal(bytes(damaged), path="p", what="thing")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{}", b'{"checksum":1}', b"[" * 100_000, b"\xff\xfe", b'"checksum"']
)
def test_other_bytes_are_refused(data):
    with pytest.raises(CorruptStoreError):
        io.unseal(data, path="p", what="thing")


def test_extra_bytes_are_refused():
    sealed = io.seal({"a": 1})
    for other in (sealed + b" ", sealed[:-1], sealed.replace(b":", b": ", 1), sealed.replace(b'"a"', b'"\\u0061"')):
        with pytest.raises(CorruptStoreError):
            io.unseal(other, path="p", what="thing")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "", ".", "..", "a\0b", "a\\b", "a/"]
)
def test_names_that_leave_the_root_are_refused(tmp_path, name):
    with pytest.raises(CorruptStoreError):
        io.safe_join(tmp_path, name)


def test_symbolic_links_below_the_root_are_refused(tmp_path):
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "in").symlink_to(root / "inside")
    assert io.safe_join(root, "inside/x") == root / "inside" / "x"
    for name in ("out/x", "in/x", "in", "inside/../in"):
        with pytest.raises(CorruptStoreError, match=r"(root/(out|in) is a symbolic link|plain relative)"):
            io.safe_join(root, name)


def test_a_root_that_is_a_symbolic_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert io.safe_join(tmp_path / "link", "a/b") == tmp_path / "link" / "a" / "b"


def test_reading_refuses_missing_files_links_and_folders(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CorruptStoreError, match="is missing"):
        io.read_bytes(tmp_path / "absent", what="table")
    with pytest.raises(CorruptStoreError, match="symbolic link"):
        io.read_bytes(tmp_path / "link", what="table")
    with pytest.raises(CorruptStoreError, match="cannot be read"):
        io.read_bytes(tmp_path, what="table")


def test_locks_exclude_each_other(tmp_path):
    path = tmp_path / "locks" / "one"
    with io.try_lock(path, exclusive=True) as first, io.try_lock(path, exclusive=True) as second:
        assert first
        assert not second
        with pytest.raises(StoreError, match="in use"), io.lock(path, exclusive=False, wait_seconds=0.05):
            pass
    with (
        io.lock(path, exclusive=False),
        io.lock(path, exclusive=False, wait_seconds=0),
        io.try_lock(path, exclusive=True) as held,
    ):
        assert not held
    with io.lock(path, exclusive=True, wait_seconds=0):
        pass


def _hold_and_die(path, ready):
    with io.lock(path, exclusive=True):
        ready.set()
        os.kill(os.getpid(), 9)


def test_a_lock_dies_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_and_die, args=(tmp_path / "one", ready))
    process.start()
    process.join()
    assert process.exitcode == -9
    with io.lock(tmp_path / "one", exclusive=True, wait_seconds=0):
        pass


def test_hashes_agree(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert io.sha256_file(tmp_path / "file") == io.sha256_bytes(b"abc") == known
    assert io.sha256_bytes(np.frombuffer(b"abc", np.uint8)) == known


def test_free_bytes_of_a_path_that_is_still_to_be_made(tmp_path):
    assert io.free_bytes(tmp_path / "a" / "b") > 0
