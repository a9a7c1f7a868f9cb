"""No name in an archive, a listing or a table reaches outside, and nothing in them runs code."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featcache.errors import ExchangeError, FeatcacheError, ManifestError
from tests.exchange.stores import bring

VALUES = np.ones((2, 3), np.float32)
HOSTILE = ["../outside", "/etc/passwd", "a/../../b", "..", "C:/x", "a\\b", "a\nb", "a//b", "./.."]


def npy(values=VALUES):
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    return data.getvalue()


def archive(path, members):
    with tarfile.open(path, "w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                tar.addfile(info)
    return path


def refuse(source, out, format_, **settings):
    with pytest.raises(FeatcacheError) as caught:
        bring(source, out, format_, **settings)
    assert not out.exists(), "nothing is made of a hostile source"
    return str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_members_of_shards(tmp_path, name):
    for prefix in ("", "./"):
        members = [("ok.npy", tarfile.REGTYPE, npy()), (f"{prefix}{name}/x.npy", tarfile.REGTYPE, npy())]
        path = archive(tmp_path / "a.tar", members)
        assert "nothing is read from it" in refuse(path, tmp_path / "s", "webdataset")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_shards(tmp_path, kind):
    path = archive(tmp_path / "a.tar", [("ok.npy", tarfile.REGTYPE, npy()), ("x.npy", kind, "/etc/passwd")])
    assert "a shard holds plain files" in refuse(path, tmp_path / "s", "webdataset")


@pytest.mark.parametrize("name", HOSTILE)
def test_ids_in_facts_listings_and_tables(tmp_path, name):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", VALUES)
    (tmp_path / "in" / "a.json").write_text(json.dumps({"id": name}))
    assert "video id" in refuse(tmp_path / "in", tmp_path / "s", "npy")
    (tmp_path / "in" / "a.json").unlink()
    quoted = name.replace('"', '""')
    (tmp_path / "list.csv").write_text(f'id\na\n"{quoted}"\n')
    with pytest.raises(ManifestError):
        bring(tmp_path / "in", tmp_path / "t", listing=str(tmp_path / "list.csv"))
    pq.write_table(pa.table({"id": [name], "feature": [[1.0, 2.0]]}), tmp_path / "t.parquet")
    assert "video id" in refuse(tmp_path / "t.parquet", tmp_path / "u", "hf")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_loaded(tmp_path):
    """Object arrays stop the import; .pth and other members are not opened."""
    (tmp_path / "in").mkdir()
    bomb = np.array([Bomb(tmp_path / "boom")], dtype=object)
    np.save(tmp_path / "in" / "a.npy", bomb, allow_pickle=True)
    assert "Python objects, which are never loaded" in refuse(tmp_path / "in", tmp_path / "s", "npy")
    data = io.BytesIO()
    np.save(data, bomb, allow_pickle=True)
    members = [("a.npy", tarfile.REGTYPE, data.getvalue())]
    assert "never loaded" in refuse(archive(tmp_path / "a.tar", members), tmp_path / "s", "webdataset")
    loaded = pickle.dumps(Bomb(tmp_path / "boom"))
    members = [(f"a.{kind}", tarfile.REGTYPE, loaded) for kind in ("pth", "pkl", "pyd")]
    path = archive(tmp_path / "b.tar", [*members, ("ok.npy", tarfile.REGTYPE, npy())])
    got = bring(path, tmp_path / "s", "webdataset")
    assert got.failures[0][:2] == ("a", "undecodable")
    assert not (tmp_path / "boom").exists()


def test_links_that_lead_out_of_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", VALUES)
    outside = tmp_path / "outside"
    outside.mkdir()
    np.save(outside / "b.npy", VALUES)
    (outside / "a.json").write_text("{}")
    for name, target in (("b.npy", "b.npy"), ("a.json", "a.json"), ("folder", ".")):
        link = tmp_path / "in" / name
        link.symlink_to(outside / target)
        assert "leads out of" in refuse(tmp_path / "in", tmp_path / "s", "npy")
        link.unlink()
    pq.write_table(pa.table({"id": ["a"], "feature": [[1.0]]}), outside / "t.parquet")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.parquet").symlink_to(outside / "t.parquet")
    assert "leads out of" in refuse(tmp_path / "tables", tmp_path / "s", "hf")
    inside = tmp_path / "in" / "again.npy"
    inside.symlink_to(tmp_path / "in" / "a.npy")
    assert bring(tmp_path / "in", tmp_path / "s").videos_ok == 2


def test_headers_that_lie_about_sizes(tmp_path):
    """A header of petabytes, of negative or of absurd shape neither allocates nor crashes."""
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "ok.npy", VALUES)
    whole = npy()
    for number, shape in enumerate((b"(10**9, 3)", b"(-2, 3)", b"(9999999999999, 9999999999)", b"(2, 3.5)", b"2")):
        padded = whole.replace(b"(2, 3), }", shape + b", }").ljust(len(whole) + 40)
        (tmp_path / "in" / f"{number}.npy").write_bytes(padded)
    got = bring(tmp_path / "in", tmp_path / "s")
    assert (got.videos_ok, got.videos_failed) == (1, 5)
    assert {status for _, status, _ in got.failures} == {"undecodable"}


def test_json_of_any_shape(tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", VALUES)
    for text in ("[" * 100_000, "[]", "{", "\x00", '{"id": {"a": 1}}', '{"rows": {"t0": {}}}', '{"status": ["ok"]}'):
        (tmp_path / "in" / "a.json").write_text(text)
        with pytest.raises((ExchangeError, ManifestError)):
            bring(tmp_path / "in", tmp_path / "s")
