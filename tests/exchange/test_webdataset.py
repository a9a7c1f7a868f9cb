"""Tar shards that others made, and ours as the webdataset library reads them."""

import io
import json
import tarfile

import numpy as np
import pytest
import webdataset

from featcache.errors import ExchangeError
from featcache.store.reader import open_store
from featcache.testing.stores import make_record
from tests.exchange.stores import bring, make_store, send


def npy(values):
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    return data.getvalue()


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_shards_of_others(tmp_path):
    """Keys are ids, class and text files are labels, JSON is facts, and what is no array is a failed video."""
    (tmp_path / "in").mkdir()
    members = {
        "./v/one.npy": npy(VALUES),
        "./v/one.cls": b"run\n",
        "./v/one.txt": b"a person runs",
        "./v/one.json": json.dumps({"split": "val", "fps": 10, "stride_frames": 5, "clip_frames": 5}).encode(),
        "two.npy": npy(VALUES + 1)[:-4],
        "three.pth": b"\x80\x04.",
        "four.jpg": b"",
        "four.npy": npy(VALUES[:0]),
    }
    shard(tmp_path / "in" / "a-0.tar", members)
    shard(tmp_path / "in" / "a-1.tar", {"five.npy": npy(VALUES + 2)})
    got = bring(tmp_path / "in", tmp_path / "s", "webdataset")
    store = open_store(tmp_path / "s")
    assert store.videos["v/one"].labels == {"label": "run", "text": "a person runs"}
    assert store.videos["v/one"].split == "val"
    failures = {name: (status, reason) for name, status, reason in got.failures}
    assert {name: status for name, (status, _) in failures.items()} == {
        "two": "undecodable",
        "three": "undecodable",
        "four": "too_short",
    }
    assert "may hold pickles and is never loaded" in failures["three"][1]
    with store.feature() as features:
        assert features.video("v/one").tobytes() == VALUES.tobytes()
        assert features.video("five").tobytes() == (VALUES + 2).tobytes()
        assert features.rows.t1.tolist()[:2] == [0.5, 1.0]


def test_another_extension_holds_the_array(tmp_path):
    path = shard(tmp_path / "a.tar", {"one.feat.npy": npy(VALUES), "one.npy": npy(VALUES[:1] + 9)})
    bring(path, tmp_path / "s", "webdataset", columns={"npy": "feat.npy"})
    assert open_store(tmp_path / "s").feature()[:].tobytes() == VALUES.tobytes()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_a_truncated_shard_stops_the_import(tmp_path, keep):
    """Nobody knows which videos were behind the cut, so none are silently lost."""
    path = shard(tmp_path / "a.tar", {f"{n}.npy": npy(np.zeros((50, 30), np.float32)) for n in range(9)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ExchangeError, match=r"a\.tar is damaged or no uncompressed tar"):
        bring(path, tmp_path / "s", "webdataset")
    assert not (tmp_path / "s").exists()


def test_compressed_and_absent_shards(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(ExchangeError, match="no uncompressed tar"):
        bring(tmp_path / "a.tar", tmp_path / "s", "webdataset")
    (tmp_path / "in").mkdir()
    with pytest.raises(ExchangeError, match=r"holds no \.tar shard"):
        bring(tmp_path / "in", tmp_path / "s", "webdataset")
    shard(tmp_path / "in" / "a.tar", {"one.jpg": b""})
    with pytest.raises(ExchangeError, match=r"no member \.npy"):
        bring(tmp_path / "in", tmp_path / "s", "webdataset")


def test_a_key_in_two_places_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for number in (0, 1):
        shard(tmp_path / "in" / f"{number}.tar", {"one.npy": npy(VALUES)})
    with pytest.raises(ExchangeError, match=r"1\.tar has the key 'one', which .*0\.tar has too"):
        bring(tmp_path / "in", tmp_path / "s", "webdataset")


def test_the_library_reads_our_shards(tmp_path):
    """Shards are closed at their size, and decode to the stored arrays and their facts."""
    mine = make_store(tmp_path / "mine", record=make_record((100_000,)), rows_per_video=(4,))
    send(mine, tmp_path / "out", "webdataset", shard_megabytes=1)
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert len(shards) > 1
    assert all(path.stat().st_size < 2e6 for path in shards)
    decoder = webdataset.autodecode.Decoder([webdataset.autodecode.basichandlers])
    found = {}
    for path in shards:  # the library leaves files open that it opens itself
        with path.open("rb") as stream:
            members = webdataset.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
            for one in map(decoder, webdataset.tariterators.group_by_keys(members)):
                found[one["json"]["id"]] = one
    store = open_store(mine)
    assert list(found) == list(store.videos)
    with store.feature() as features:
        for video_id in features.video_ids:
            assert found[video_id]["npy"].tobytes() == features.video(video_id).tobytes()
            assert found[video_id]["json"]["labels"] == dict(store.videos[video_id].labels)
    assert "npy" not in found["v0003"]
    assert found["v0003"]["json"]["status"] == "timeout"
