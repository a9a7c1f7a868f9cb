"""The files of a store on a local disk: what each method promises. See :class:`featcache.files.base.Files`."""

import numpy as np
import pytest

from featcache.errors import ConfigError, CorruptStoreError, StoreError
from featcache.files.base import open_files

METHODS = {
    "size": lambda files, name: files.size(name),
    "names": lambda files, name: files.names(name),
    "walk": lambda files, name: list(files.walk(name)),
    "read": lambda files, name: files.read(name, what="file"),
    "map": lambda files, name: files.map(name, num_bytes=1, what="file"),
    "put_new": lambda files, name: files.put_new(name, b"x"),
    "put_exact": lambda files, name: files.put_exact(name, b"x"),
    "settle": lambda files, name: files.settle(name),
    "lock": lambda files, name: files.lock(name, exclusive=True).__enter__(),
    "try_lock": lambda files, name: files.try_lock(name, exclusive=True).__enter__(),
}


@pytest.fixture
def files(tmp_path):
    return open_files(tmp_path / "s")


def test_what_is_not_there(files):
    assert not files.exists("a/b")
    assert files.size("a/b") is None
    assert files.names("a") == []
    assert list(files.walk("a")) == []
    files.settle("a")
    with pytest.raises(CorruptStoreError, match=r"note .*a/b is missing"):
        files.read("a/b", what="note")
    with pytest.raises(CorruptStoreError, match=r"data .*a/b is missing"):
        files.map("a/b", num_bytes=1, what="data")


def test_what_is_published_is_found(files):
    assert files.put_new("a/b/one", [b"12", np.array([51], np.uint8)])
    assert not files.put_new("a/b/one", b"other")
    assert files.put_new("a/two", b"")
    assert files.exists("a/b/one")
    assert files.exists("a/b")
    assert (files.size("a/b/one"), files.size("a/b")) == (3, None)
    assert files.names("") == ["a"]
    assert files.names("a") == ["b", "two"]
    assert list(files.walk()) == [("a/b/one", 3), ("a/two", 0)]
    assert files.read("a/b/one", what="file") == b"123"
    mapped = files.map("a/b/one", num_bytes=3, what="file")
    assert mapped.tobytes() == b"123"
    assert not mapped.flags.writeable
    files.remove("a/b/one")
    files.remove("a/b/one")
    assert list(files.walk()) == [("a/two", 0)]
    assert mapped.tobytes() == b"123"


@pytest.mark.parametrize(("former", "is_left_alone"), [(b"abcd", True), (b"abxd", False), (b"abc", False)])
def test_known_bytes_are_left_alone_or_replaced(files, former, is_left_alone):
    files.put_new("a", former)
    before = (files.root / "a").stat().st_ino
    mapped = files.map("a", num_bytes=len(former), what="file")
    files.put_exact("a", (b"ab", np.frombuffer(b"cd", np.uint8)))
    assert files.read("a", what="file") == b"abcd"
    assert mapped.tobytes() == former
    assert ((files.root / "a").stat().st_ino == before) == is_left_alone


def test_a_file_of_another_size_is_not_mapped(files):
    files.put_new("a", b"abc")
    with pytest.raises(CorruptStoreError, match=r"data file .* has 3 bytes, its record says 4"):
        files.map("a", num_bytes=4, what="data file")


@pytest.mark.parametrize("name", ["link", "link/below"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_read_or_written_behind_a_link(files, method, name, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "below").write_bytes(b"y")
    files.put_new("a", b"")
    (files.root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptStoreError, match="link is a symbolic link"):
        METHODS[method](files, name)
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["below"]


def test_a_link_is_seen_and_removed_and_not_followed(files, tmp_path):
    files.put_new("a", b"")
    (tmp_path / "outside").write_bytes(b"y")
    (files.root / "link").symlink_to(tmp_path / "outside")
    assert files.exists("link")
    assert list(files.walk()) == [("a", 0), ("link", None)]
    files.remove("link")
    assert not files.exists("link")
    assert (tmp_path / "outside").read_bytes() == b"y"
    (files.root / "folder").symlink_to(tmp_path)
    for method in (files.exists, files.remove):
        with pytest.raises(CorruptStoreError, match="folder is a symbolic link"):
            method("folder/outside")


@pytest.mark.parametrize("method", ["names", "put_new", "lock"])
def test_a_file_in_the_place_of_a_folder_is_told(tmp_path, method):
    (tmp_path / "s").write_bytes(b"")
    name = "" if method == "names" else "a"
    with pytest.raises(StoreError, match=r"is a file, not a folder|Not a directory|File exists"):
        METHODS[method](open_files(tmp_path / "s"), name)


def test_a_url_is_no_place():
    with pytest.raises(ConfigError, match="begins with a scheme"):
        open_files("ftp://bucket/store")
