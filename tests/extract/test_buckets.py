"""Extractions and trainings whose videos are in a bucket."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

import featcache
from featcache.commands.classify import list_files
from featcache.data.manifest import write_parquet
from featcache.data.scan import scan
from featcache.errors import BucketError
from featcache.extract.run import extract
from featcache.extract.settings import RuntimeSettings
from featcache.methods.svt.run import TEACHER, pretrain_svt
from featcache.testing.s3_server import Fault, S3Server, s3_server
from tests.extract.conftest import Make
from tests.methods.svt.damaged_runs import settings as svt_settings

URL = "s3://lab/clips"


class Lab:
    """A bucket that holds what a folder does, in the folder ``clips``."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server, self.folder, self.clips = server, folder, sorted(folder.iterdir())
        server.make_bucket("lab")
        self.store = S3Store("lab", endpoint=server.direct, client_options={"allow_http": True})
        for clip in self.clips:
            self.put(clip.name, clip)

    def put(self, name: str, clip: Path) -> None:
        obstore.put(self.store, f"clips/{name}", clip.read_bytes())


@pytest.fixture(scope="module")
def running(listing: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("clips")
    for number, clip in enumerate(sorted(listing.parent.rglob("*.mp4"))[:7]):
        shutil.copy(clip, folder / f"{number}.mp4")
    with s3_server() as server:
        yield Lab(server, folder)


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    running.server.requests.clear()
    yield running
    running.server.fault = lambda _: None
    for clip in running.clips:
        running.put(clip.name, clip)


def test_a_store_is_the_same_from_a_bucket_and_goes_on_from_either(make: Make, lab: Lab, tmp_path: Path) -> None:
    there = make(source=URL, out="s3://lab/stores/there")
    here = make(source=str(lab.folder), out=str(tmp_path / "here"))
    assert extract(there).videos_ok == extract(here).videos_ok == len(lab.clips)
    pooled = [featcache.open(settings.out).feature("pooled") for settings in (there, here)]
    assert pooled[0].video_ids == pooled[1].video_ids
    assert pooled[0].gather(range(len(pooled[0]))).tobytes() == pooled[1].gather(range(len(pooled[1]))).tobytes()
    encoded = featcache.encoder(there.out)(f"{URL}/3.mp4").features["pooled"]
    assert encoded.tobytes() == pooled[1].video("3.mp4").tobytes()
    result = extract(make(source=URL, out=here.out))
    assert (result.rows_written, result.videos_total) == (0, len(lab.clips))
    assert len(featcache.open(here.out).generations) == 1
    gets = [one.path for one in lab.server.requests if one.method == "GET" and one.path.startswith("/lab/clips/")]
    assert len(gets) == 3 * len(lab.clips) + 1, "a scan and a decoding for the first store, a scan for the second"


def test_faults_after_the_scan_are_told_and_pass(make: Make, lab: Lab, tmp_path: Path) -> None:
    write_parquet(scan(Path(URL)), tmp_path / "scanned.parquet")
    settings = make(source=str(tmp_path / "scanned.parquet"), shard_rows=2, runtime=RuntimeSettings(decode_workers=1))
    late, gone, changed, denied = (clip.name for clip in lab.clips[2:6])
    expired, refused = Fault("answer", 403, "ExpiredToken"), Fault("answer", 403, "AccessDenied")

    lab.server.fault = lambda request: expired if late in request.path else None  # videos after it are not read yet
    with pytest.raises(BucketError, match=r"^s3://lab refuses access \(ExpiredToken\)"):
        extract(settings)
    assert not featcache.open(settings.out).coverage("pooled").failures, "the videos are not to blame"

    obstore.delete(lab.store, f"clips/{gone}")
    lab.put(changed, lab.clips[-1])
    lab.server.fault = lambda request: refused if denied in request.path else None
    result = extract(settings)
    reasons = {name: (status, reason) for name, status, reason in result.failures}
    assert reasons.keys() == {gone, changed, denied}
    assert reasons[gone] == ("missing", "there is no such object")
    assert reasons[changed] == ("changed", f"{changed} has changed since the scan; scan again to use the new file")
    assert reasons[denied][0] == "missing"
    assert "s3://lab refuses access (AccessDenied)" in reasons[denied][1]

    lab.server.fault = lambda _: None
    for clip in lab.clips:
        lab.put(clip.name, clip)
    assert extract(settings).videos_ok == len(lab.clips)


def test_videos_to_classify_may_be_in_a_bucket(lab: Lab) -> None:
    names, listed = list_files((f"{URL}/3.mp4", URL, f"{URL}/none.mp4"))
    assert [listed.path_of(video) for video in listed.videos[:7]] == [
        Path(URL) / f"{n}.mp4" for n in (3, 0, 1, 2, 4, 5, 6)
    ]
    assert [video.status for video in listed.videos] == ["ok"] * 7 + ["missing"]
    assert set(names.values()) == {f"{URL}/{name}.mp4" for name in (*range(7), "none")}


@pytest.mark.slow
def test_a_training_on_pixels_reads_a_bucket(lab: Lab, tmp_path: Path) -> None:
    changes = {"training": {"epochs": 1, "batch_size": 4}}
    pretrain_svt(svt_settings(tmp_path, "there", source=URL, workers=1, **changes))
    pretrain_svt(svt_settings(tmp_path, "here", source=str(lab.folder), **changes))
    teachers = [(tmp_path / name / "seed-0" / TEACHER).read_bytes() for name in ("there", "here")]
    assert teachers[0] == teachers[1]
