"""The sample of a planned training: what is there, and how fast one core decodes it."""

import json

import pytest

from featcache.data.manifest import write_parquet
from featcache.data.scan import scan
from featcache.errors import UnknownNameError, VideoError
from featcache.loaders import sample
from featcache.loaders.sample import measure, measure_source, preview, spread
from featcache.methods.svt.settings import SvtSettings
from featcache.methods.svt.views import SvtViewSource
from featcache.testing.datasets import make_kinetics
from featcache.testing.videos import write_video
from tests.methods.svt.helpers import small_views


def settings(**source):
    return SvtSettings(**source, views=small_views(global_frames=(2, 4), local_frames=(2, 2)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(path / f"{number}.mp4", num_frames=12)
    (path / "broken.mp4").write_bytes(b"no video")
    return path


def test_numbers_of_a_sample_are_spread_over_all():
    assert spread(1) == [0]
    assert spread(5) == [0, 1, 2, 3, 4]
    many = spread(240_000)
    assert (many[0], many[-1], len(set(many))) == (0, 239_999, sample.NUM_SAMPLED)


def test_a_folder_is_listed_and_some_of_it_opened(folder):
    found = preview(settings(source=str(folder)), split="train")
    assert (found.num_train, found.num_left_out, found.missing) == (4, 0, ())  # no file of the list was opened
    assert len(found.sample.videos) == 3
    (broken,) = found.failures
    assert broken.startswith("'broken.mp4' (cannot be opened")
    stages = []
    source = SvtViewSource(settings(source="x").views, seed=0)
    decoding = measure_source(source, found.sample, failures=found.failures, on_stage=lambda *told: stages.append(told))
    assert (decoding.num_videos, decoding.num_failed, decoding.failure) == (3, 1, broken)
    assert decoding.seconds > 0
    assert stages[-1][:3] == ("decode", 3, 3)


def test_a_manifest_keeps_what_its_scan_found(folder, tmp_path):
    write_parquet(scan(folder), tmp_path / "videos.parquet")
    found = preview(settings(source=str(tmp_path / "videos.parquet")), split="train")
    assert (found.num_train, found.num_left_out) == (3, 1)
    assert found.missing[0].startswith("1 of 4 training videos, e.g. 'broken.mp4' (cannot be opened")


def test_videos_of_the_lists_that_are_not_there_are_missing(tmp_path):
    made = make_kinetics(tmp_path)
    found = preview(settings(dataset="kinetics400", root=str(tmp_path)), split="train")
    assert (found.num_train, found.num_left_out) == (2, 1)
    assert found.missing[0].startswith("1 of 3 training videos, e.g. 'lostlostlos_000008_000018' (the official list")
    for row in made.rows.values():
        if row.path is not None:
            (tmp_path / row.path).unlink()
    gone = preview(settings(dataset="kinetics400", root=str(tmp_path)), split="train")
    assert (gone.num_train, gone.sample) == (None, None)
    assert "none of the 5 videos that the lists of kinetics400 name" in gone.missing[0]


@pytest.mark.parametrize("root", ["nowhere", "empty"])
def test_a_root_without_lists_is_missing(tmp_path, root):
    (tmp_path / "empty").mkdir()
    found = preview(settings(dataset="kinetics400", root=str(tmp_path / root)), split="train")
    assert found.num_train is None
    (sentence,) = found.missing
    assert str(tmp_path / root) in sentence


def test_a_source_of_broken_videos(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    found = preview(settings(source=str(tmp_path)), split="train")
    assert (found.num_train, found.sample) == (1, None)
    assert found.missing[0].startswith("a video that can be used: none of 1 sampled ones can, e.g. 'broken.mp4' (")


def test_a_decoder_whose_library_is_not_there_is_missing(folder, monkeypatch):
    monkeypatch.setattr(sample, "available", lambda name: f"{name} is not installed; pip install it")
    found = preview(settings(source=str(folder)), split="train")
    assert (found.num_train, found.sample, found.missing) == (4, None, ("pyav is not installed; pip install it",))


def test_a_split_that_is_not_there_is_a_sentence(folder, tmp_path):
    lines = [{"path": str(folder / "0.mp4"), "split": "train"}, {"path": str(folder / "1.mp4"), "split": "test"}]
    (tmp_path / "videos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UnknownNameError, match="split"):
        preview(settings(source=str(tmp_path / "videos.jsonl")), split="trian")


def test_measuring_stops_after_its_time_and_counts_what_fails(monkeypatch):
    monkeypatch.setattr(sample, "SECONDS", 0.0)
    called = []

    def decode(place):
        called.append(place)
        if place == 0:
            raise VideoError("undecodable", "it is damaged")

    found = measure(decode, ["a", "b", "c", "d", "e"], num_at_once=4, failures=["'z' (gone)"])
    assert called == [0, 1, 1, 2]  # the first that succeeds is decoded twice; two are enough
    assert (found.num_videos, found.num_failed, found.failure) == (8, 2, "'z' (gone)")
    assert measure(decode, ["a"]) is None
