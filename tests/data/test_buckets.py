"""Videos, lists and data sets in a bucket, on a local server of the S3 protocol that fails when it is told to."""

import errno
import os
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from featcache.data import kept as kept_module
from featcache.data.decoding import open_video
from featcache.data.decoding.copies import at_hand
from featcache.data.importers import read_listing
from featcache.data.kept import scan_keeping
from featcache.data.manifest import read_parquet, write_parquet
from featcache.data.scan import scan, scan_file
from featcache.data.sources import list_source
from featcache.data.types import VideoRecord
from featcache.errors import BucketError, ManifestError, VideoError
from featcache.files import objects as objects_module
from featcache.testing.datasets import make_ucf101
from featcache.testing.s3_server import Fault, environment, s3_server
from featcache.testing.videos import VIDEO_KINDS, sequential_frames, write_video

DENIED, BUSY, CUT = Fault("answer", 403, "AccessDenied"), Fault("answer", 503, "SlowDown"), Fault("cut_within")


class Bucket:
    """The bucket ``lab`` of a running server."""

    def __init__(self, server):
        self.server = server
        self.url = server.make_bucket("lab")
        self._store = S3Store("lab", endpoint=server.direct, client_options={"allow_http": True})

    def put(self, name, data):
        """Write an object, past the proxy."""
        obstore.put(self._store, name, data)
        return f"{self.url}/{name}"

    def put_folder(self, root, name):
        for path in sorted(root.rglob("*")):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(root).as_posix()}", path.read_bytes())
        return f"{self.url}/{name}"

    def asked(self, method):
        """How often each object was asked for; a listing is the name ``?``."""
        paths = [unquote(one.path) for one in self.server.requests if one.method == method]
        return Counter("?" if "list-type" in path else path.removeprefix("/lab/") for path in paths)

    def fail(self, *faults, at):
        """The next requests for an object meet these faults."""
        waiting = list(faults)
        self.server.fault = lambda request: waiting.pop(0) if at in unquote(request.path) and waiting else None


@pytest.fixture(scope="module")
def running():
    with s3_server() as server:
        yield Bucket(server)


@pytest.fixture
def bucket(running):
    running.server.requests.clear()
    running.server.fault = lambda _: None
    yield running
    running.server.fault = lambda _: None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for place, kind in {"wave/a b": "h264", "wave/ü%20": "h264_matroska", "jump/c": "mpeg4", "cut": "half_mp4"}.items():
        path = root / f"{place}{VIDEO_KINDS[kind].suffix}"
        path.parent.mkdir(exist_ok=True)
        VIDEO_KINDS[kind].make(path)
    (root / ".hidden").mkdir()
    (root / ".hidden/x.mp4").write_bytes(b"x")
    (root / "notes.txt").write_text("x")
    (root / "empty.mp4").touch()
    return root


def final(path: Path) -> VideoRecord:
    *_, record = scan_file(VideoRecord(id=path.name, path=path.name), path)
    return record


def test_a_video_is_the_same_in_a_bucket(bucket, folder):
    url = bucket.put_folder(folder, "set")
    bucket.put("set/wave/", b"")  # as some programs mark folders
    there, here = scan(Path(url)), scan(folder)
    assert there.root == url
    assert there.videos == here.videos
    assert there.left_out == here.left_out == {"hidden": 1, ".txt": 1}
    assert [video.status for video in there.videos] == ["undecodable", "undecodable", "ok", "ok", "ok"]
    assert bucket.asked("GET") == {"?": 1, **{f"set/{video.path}": 1 for video in there.videos}}
    assert not bucket.asked("HEAD")
    bucket.server.requests.clear()
    assert scan(Path(f"{url}/wave/a b.mp4")).videos[0].content_hash == here.videos[3].content_hash


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_frames_are_those_of_the_file(bucket, folder, decoder):
    path = folder / "wave/a b.mp4"
    url = bucket.put("frames/a.mp4", path.read_bytes())
    with open_video(Path(url), decoder=decoder) as there, open_video(path, decoder=decoder) as here:
        assert (there.timeline.pts_seconds == here.timeline.pts_seconds).all()
        for (_, one), (_, other) in zip(there.read(range(40)), here.read(range(40)), strict=True):
            assert (one == other).all()


def test_a_large_video_is_fetched_in_parts_of_one_version(bucket, tmp_path):
    write_video(tmp_path / "a.mp4", num_frames=4)
    data = (tmp_path / "a.mp4").read_bytes() + os.urandom(9 << 20)  # bytes after the end of a video are ignored
    url = bucket.put("large.mp4", data)
    with at_hand(Path(url)) as copy:
        assert copy.read_bytes() == data
        assert len(sequential_frames(copy)) == 4
    assert bucket.asked("GET") == {"large.mp4": 3}
    assert len({request.headers.get("if-match") for request in bucket.server.requests[1:]}) == 1
    assert bucket.server.requests[1].headers["if-match"]


def test_nothing_is_left_of_a_copy(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = bucket.put("a.mp4", b"x")

    def open_copies():
        links = [Path(f"/proc/self/fd/{descriptor}") for descriptor in range(1000)]
        return sum(str(link.readlink()).startswith(str(tmp_path)) for link in links if link.is_symlink())

    with at_hand(Path(url)) as copy:
        assert copy.read_bytes() == b"x"
        assert open_copies() == 1
        assert not list(tmp_path.iterdir()), "it has no name even while it is used, so that a kill leaves nothing"
    with pytest.raises(VideoError), open_video(Path(url)):
        pass
    assert open_copies() == 0


def test_a_full_disk_is_no_fault_of_the_video(bucket, folder, monkeypatch):
    path = Path(bucket.put("full.mp4", (folder / "wave/a b.mp4").read_bytes()))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left") as error:
        final(path)
    assert not isinstance(error.value, VideoError)


def test_lists_name_videos_anywhere(bucket, folder, tmp_path):
    video = (folder / "wave/a b.mp4").read_bytes()
    bucket.put("lists/videos/in.mp4", video)
    bucket.put("beside.mp4", video)
    (tmp_path / "local.mp4").write_bytes(video)
    rows = f"path,label\nvideos/in.mp4,x\n../beside.mp4,y\ns3://lab/beside.mp4,z\n{tmp_path}/local.mp4,y\n"
    url = bucket.put("lists/list.csv", rows.replace("s3://lab/beside.mp4,z\n", "").encode())
    (tmp_path / "list.csv").write_text(
        rows.replace("videos/in", "s3://lab/lists/videos/in").replace("../beside.mp4,y\n", "")
    )
    there, here = scan(Path(url)), scan(tmp_path / "list.csv")
    assert (there.root, here.root) == ("s3://lab/lists", str(tmp_path))
    assert {video.path for video in there.videos} == {"videos/in.mp4", "s3://lab/beside.mp4", f"{tmp_path}/local.mp4"}
    assert {video.id for video in here.videos} >= {"lab/lists/videos/in.mp4", "lab/beside.mp4"}
    for manifest in (there, here):
        assert {video.status for video in manifest.videos} == {"ok"}
        assert len({video.content_hash for video in manifest.videos}) == 1
    write_parquet(there, tmp_path / "m.parquet")
    assert read_parquet(tmp_path / "m.parquet") == there
    again = list_source(Path(bucket.put("m.parquet", (tmp_path / "m.parquet").read_bytes())))
    assert (again.root, [video.path for video in again.videos]) == (there.root, [video.path for video in there.videos])
    pq.write_table(pa.table({"path": ["videos/in.mp4"]}), tmp_path / "l.parquet")
    assert len(list_source(Path(bucket.put("lists/l.parquet", (tmp_path / "l.parquet").read_bytes())))) == 1
    assert len(list_source(Path(bucket.put("lists/l.jsonl", b'{"path": "videos/in.mp4"}\n')))) == 1


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("none.csv", None, "s3://lab/none.csv does not exist"),
        ("none", None, "folder s3://lab/none holds no video"),
        ("odd.txt", b"x", "folder s3://lab/odd.txt holds no video"),
        ("no.csv", b"label\nx\n", "s3://lab/no.csv has no column 'path'"),
        ("u.csv", "path\n".encode("utf-16"), "s3://lab/u.csv is UTF-16"),
        ("out.csv", b"path\n../../x.mp4\n", "leaves the manifest's root"),
        ("web.csv", b"path\nhttps://host/x.mp4\n", "line 2: 'https://host/x.mp4' is a https URL"),
        ("bad.jsonl", b"{\n", "s3://lab/bad.jsonl, line 1: not JSON"),
        ("bad.parquet", b"x", "listing s3://lab/bad.parquet|s3://lab/bad.parquet is not a Parquet file"),
    ],
)
def test_a_source_that_is_none_is_one_sentence(bucket, name, data, sentence):
    if data is not None:
        bucket.put(name, data)
    with pytest.raises(ManifestError, match=sentence.replace(".", r"\.")):
        list_source(Path(f"{bucket.url}/{name}"))


def test_a_bucket_that_may_not_be_read_is_one_sentence(bucket):
    bucket.server.fault = lambda _: DENIED
    with pytest.raises(BucketError, match=r"refuses access \(AccessDenied\)"):
        list_source(Path(f"{bucket.url}/set"))
    with pytest.raises(ManifestError, match=r"s3://lab/l\.csv cannot be read"):
        list_source(Path(f"{bucket.url}/l.csv"))
    with environment({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}), pytest.raises(BucketError, match="cannot be reached"):
        list_source(Path("s3://elsewhere/set"))


def test_a_data_set_is_listed_in_a_bucket(bucket, tmp_path):
    sample = make_ucf101(tmp_path)
    url = bucket.put_folder(tmp_path, "ucf101")
    there, here = read_listing("ucf101", root=Path(url)), read_listing("ucf101", root=sample.root)
    assert there.manifest.root == url
    assert (there.manifest.videos, there.unlisted) == (here.manifest.videos, here.unlisted)
    assert not any(name.endswith(".avi") for name in bucket.asked("GET")), "only lists are read"
    with pytest.raises(ManifestError, match=r"s3://lab/ucf101/UCF-101 holds no 'trainlist01\.txt'"):
        read_listing("ucf101", root=Path(f"{url}/UCF-101"))


def test_only_new_objects_are_scanned_again(bucket, folder, tmp_path, monkeypatch):
    video = (folder / "wave/a b.mp4").read_bytes()
    for name in "abc":
        url = bucket.put(f"kept/{name}.mp4", video).rpartition("/")[0]
    first = scan_keeping(list_source(Path(url)), tmp_path / "kept.parquet")
    bucket.put("kept/b.mp4", video[:-1] + b"!")  # of the same size
    bucket.server.requests.clear()
    opened = []
    whole = kept_module.scan_listed
    monkeypatch.setattr(
        kept_module, "scan_listed", lambda listed, **how: opened.extend(listed.videos) or whole(listed, **how)
    )
    second = scan_keeping(list_source(Path(url)), tmp_path / "kept.parquet")
    assert [video.id for video in opened] == ["b.mp4"]
    assert [one == other for one, other in zip(first.videos, second.videos, strict=True)] == [True, False, True]
    assert bucket.asked("GET") == {"?": 1, "kept/b.mp4": 1}


@pytest.mark.parametrize(
    ("faults", "status", "reason"),
    [
        ((BUSY, BUSY), "ok", ""),
        ((CUT, Fault("cut_before")), "ok", ""),
        ((DENIED,), "missing", "it may not be read (s3://lab refuses access (AccessDenied)"),
        ((Fault("answer", 404, "NoSuchKey"),), "missing", "there is no such object"),
        ((BUSY,) * 3, "unreadable", "reading it fails (s3://lab keeps answering with errors (SlowDown)"),
        ((CUT,) * 3, "unreadable", "reading it fails (s3://lab keeps breaking off"),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else None,
)
def test_a_fault_of_the_bucket_is_none_of_the_video(bucket, folder, monkeypatch, faults, status, reason):
    monkeypatch.setattr(objects_module, "_ATTEMPTS", 3)
    monkeypatch.setattr(objects_module, "_FIRST_PAUSE", 0.001)
    path = Path(bucket.put("faulty.mp4", (folder / "wave/a b.mp4").read_bytes()))
    bucket.fail(*faults, at="faulty.mp4")
    record = final(path)
    assert (record.status, reason in record.reason) == (status, True), record.reason


def test_wrong_credentials_stop_the_scan(bucket, folder):
    url = bucket.put("secret/a.mp4", (folder / "wave/a b.mp4").read_bytes())
    bucket.server.fault = lambda request: Fault("answer", 403, "ExpiredToken") if "a.mp4" in request.path else None
    with pytest.raises(BucketError, match=r"s3://lab refuses access \(ExpiredToken\); check the credentials"):
        scan(Path(url).parent, num_workers=1)


def test_an_object_that_is_replaced_while_it_is_read_has_changed(bucket):
    path = Path(bucket.put("replaced.mp4", os.urandom(9 << 20)))
    replace = iter([lambda: bucket.put("replaced.mp4", os.urandom(9 << 20))])

    def fault(request):
        if request.headers.get("if-match"):
            next(replace, lambda: None)()

    bucket.server.fault = fault
    record = final(path)
    assert record.status == "changed"
    assert "s3://lab/replaced.mp4 was replaced while it was read; scan again" in record.reason


def test_a_server_that_says_nothing_is_a_timeout(bucket, folder):
    for name in "ab":
        url = bucket.put(f"silent/{name}.mp4", (folder / "wave/a b.mp4").read_bytes())
    bucket.server.fault = lambda request: Fault("silence") if "a.mp4" in request.path else None
    manifest = scan(Path(url).parent, deadline_seconds=1.0)
    assert [video.status for video in manifest.videos] == ["timeout", "ok"]
