"""Safe names, and room on the disk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import CorruptStoreError
from featcache.files.places import folders_of, free_bytes, is_under, safe_join


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "", ".", "..", "a\0b", "a\\b", "a/"]
)
def test_names_that_leave_the_root_are_refused(tmp_path, name):
    with pytest.raises(CorruptStoreError):
        safe_join(tmp_path, name)


def test_symbolic_links_below_the_root_are_refused(tmp_path):
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "in").symlink_to(root / "inside")
    assert safe_join(root, "inside/x") == root / "inside" / "x"
    for name in ("out/x", "in/x", "in", "inside/../in"):
        with pytest.raises(CorruptStoreError, match=r"(root/(out|in) is a symbolic link|plain relative)"):
            safe_join(root, name)


def test_a_root_that_is_a_symbolic_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert safe_join(tmp_path / "link", "a/b") == tmp_path / "link" / "a" / "b"


def test_free_bytes_of_a_path_that_is_still_to_be_made(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0


@given(path=st.text("ab/", max_size=9), folder=st.text("ab/", max_size=9))
def test_the_folders_of_a_path_are_those_it_is_under(path, folder):
    assert (folder in folders_of(path)) == is_under(path, folder)
    assert all(is_under(path, each) for each in folders_of(path))
