"""Reading files, their hashes, and sealed JSON."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import CorruptStoreError
from featcache.files.sealed import read_bytes, seal, sha256_bytes, unseal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "checksum"), JSON, max_size=4))
def test_sealed_json_round_trips(document):
    sealed = seal(document)
    opened = unseal(sealed, where="p", what="thing")
    assert len(opened.pop("checksum")) == 64
    assert opened == document


def test_every_flipped_bit_of_sealed_json_is_seen():
    sealed = seal({"b": [1, 2.5, "é\n"], "a": {"é": None, "z": True}, "long": "x" * 20})
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(CorruptStoreError, match="damaged"):
            unseal(bytes(damaged), where="p", what="thing")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{}", b'{"checksum":1}', b"[" * 100_000, b"\xff\xfe", b'"checksum"']
)
def test_other_bytes_are_refused(data):
    with pytest.raises(CorruptStoreError):
        unseal(data, where="p", what="thing")


def test_extra_bytes_are_refused():
    sealed = seal({"a": 1})
    for other in (sealed + b" ", sealed[:-1], sealed.replace(b":", b": ", 1), sealed.replace(b'"a"', b'"\\u0061"')):
        with pytest.raises(CorruptStoreError):
            unseal(other, where="p", what="thing")


def test_reading_refuses_missing_files_links_and_folders(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CorruptStoreError, match="is missing"):
        read_bytes(tmp_path / "absent", what="table")
    with pytest.raises(CorruptStoreError, match="symbolic link"):
        read_bytes(tmp_path / "link", what="table")
    with pytest.raises(CorruptStoreError, match="cannot be read"):
        read_bytes(tmp_path, what="table")


def test_the_hash_of_a_buffer_is_that_of_its_bytes():
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_bytes(b"abc") == known
    assert sha256_bytes(np.frombuffer(b"abc", np.uint8)) == known
