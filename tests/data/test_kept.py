"""A kept scan: files are opened when they are new or have changed, and the result is that of a scan anew."""

import os
import shutil
from dataclasses import replace

import pytest

from featcache.data import kept as kept_module
from featcache.data.kept import scan_keeping
from featcache.data.manifest import Manifest, is_manifest, read_parquet
from featcache.data.scan import scan, scan_listed
from featcache.data.sources import list_source
from featcache.testing.videos import picture, write_video


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    for number in range(4):
        pictures = [picture(7 * number + frame, width=32, height=32) for frame in range(4)]
        write_video(folder / f"{number}.mp4", pictures=pictures)
    return folder


@pytest.fixture
def videos(sound, tmp_path):
    """Four videos, one file that is none, and a link to nowhere."""
    folder = shutil.copytree(sound, tmp_path / "videos")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "dangling.mp4").symlink_to("nowhere")
    return folder


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that scans open, scan by scan."""
    told = []

    def noting(listed, **options):
        told.append([video.path for video in listed.videos if video.status == "ok"])
        return scan_listed(listed, **options)

    monkeypatch.setattr(kept_module, "scan_listed", noting)
    return told


def keeping(videos, **options):
    return scan_keeping(list_source(videos), videos.parent / "kept.parquet", **options)


def test_a_second_scan_opens_only_what_a_fault_of_the_day_may_explain(videos, opened):
    first = keeping(videos)
    assert first == scan(videos)
    assert first.count_by_status()["ok"] == 4
    assert len(opened.pop()) == 6
    written = (videos.parent / "kept.parquet").stat().st_mtime_ns
    assert keeping(videos) == first
    assert opened == [["dangling.mp4"]], "it was missing"
    (videos / "dangling.mp4").unlink()
    opened.clear()
    left = keeping(videos)
    assert left == scan(videos)
    assert opened == []
    assert (videos.parent / "kept.parquet").stat().st_mtime_ns > written
    written = (videos.parent / "kept.parquet").stat().st_mtime_ns
    assert keeping(videos) == left
    assert (videos.parent / "kept.parquet").stat().st_mtime_ns == written, "nothing to write"


def test_new_and_changed_files_are_opened_and_labels_are_those_of_the_day(videos, opened):
    (videos / "dangling.mp4").unlink()
    before = {video.id: video for video in keeping(videos).videos}
    opened.clear()
    os.utime(videos / "0.mp4", ns=(1, 1))  # another time, the same content
    shutil.copy(videos / "1.mp4", videos / "2.mp4")  # another content
    shutil.copy(videos / "1.mp4", videos / "new.mp4")
    listed = list_source(videos)
    renamed = [replace(video, id=f"a/{video.id}", split="train", labels={"label": "x"}) for video in listed.videos]
    after = scan_keeping(Manifest(root=listed.root, videos=tuple(renamed)), videos.parent / "kept.parquet")
    assert opened == [["0.mp4", "2.mp4", "new.mp4"]]
    assert {(video.split, video.labels["label"]) for video in after.videos} == {("train", "x")}
    now = {video.path: video for video in after.videos}
    assert now["0.mp4"].content_hash == before["0.mp4"].content_hash
    assert now["2.mp4"].content_hash == now["1.mp4"].content_hash != before["2.mp4"].content_hash
    assert after == scan_listed(Manifest(root=listed.root, videos=tuple(renamed)))


def test_a_file_that_changes_while_it_is_scanned_is_opened_again(videos, monkeypatch, opened):
    (videos / "dangling.mp4").unlink()
    noting = kept_module.scan_listed

    def changing(listed, **options):
        found = noting(listed, **options)
        os.utime(videos / "3.mp4", ns=(5, 5))
        return found

    monkeypatch.setattr(kept_module, "scan_listed", changing)
    keeping(videos)
    keeping(videos)
    assert opened[1:] == [["3.mp4"]]


def test_other_settings_of_the_scan_open_everything(videos, opened):
    (videos / "dangling.mp4").unlink()
    keeping(videos)
    for options in ({"max_gigapixels": 1.0}, {"decodes": True}, {"decodes": True}, {}):
        keeping(videos, **options)
    assert [len(each) for each in opened] == [5, 5, 5, 5]
    assert read_parquet(videos.parent / "kept.parquet").is_decoded is False
    keeping(videos, decodes=True)
    assert read_parquet(videos.parent / "kept.parquet").is_decoded is True


def test_a_killed_scan_goes_on_where_it_was_kept(videos, opened, monkeypatch):
    (videos / "dangling.mp4").unlink()
    noting, told = kept_module.scan_listed, []

    def dying(listed, **options):
        if len(opened) == 2:
            raise KeyboardInterrupt
        return noting(listed, **options)

    monkeypatch.setattr(kept_module, "scan_listed", dying)
    with pytest.raises(KeyboardInterrupt):
        keeping(videos, at_once=2)
    assert [len(each) for each in opened] == [2, 2]
    assert len(read_parquet(videos.parent / "kept.parquet")) == 4
    monkeypatch.setattr(kept_module, "scan_listed", noting)
    assert keeping(videos, at_once=2, progress=lambda done, total: told.append((done, total))) == scan(videos)
    assert [len(each) for each in opened] == [2, 2, 1]
    assert told == [(5, 5)]


def test_what_is_kept_is_a_manifest_and_a_damaged_one_is_made_anew(videos, opened, caplog):
    path = videos.parent / "kept.parquet"
    found = keeping(videos)
    assert is_manifest(path)
    assert read_parquet(path) == found
    for damage in (b"", b"no table", path.read_bytes()[:-100]):
        path.write_bytes(damage)
        caplog.clear()
        assert keeping(videos) == found
        (told,) = caplog.messages
        assert told.startswith(f"{path} cannot be read")
        assert told.endswith("the videos are scanned again")
    shutil.copy(path, videos.parent / "elsewhere.parquet")
    opened.clear()
    moved = videos.rename(videos.parent / "moved")
    assert keeping(moved).root != found.root
    assert len(opened[0]) == 6, "other files, for all that is known"
