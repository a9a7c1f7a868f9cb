"""Sources whose videos were renamed, moved, deleted or relabelled: nothing is computed twice, and nothing is silent."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import featcache
from featcache.data.manifest import Manifest
from featcache.data.sources import list_source
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError, UnknownNameError
from featcache.extract.amending import find_renames, ids_not_in, relabel, remove
from featcache.extract.estimate import estimate
from featcache.extract.lacking import tell_differences, videos_to_add
from featcache.extract.progress import Progress
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, SamplingSettings
from featcache.recipes import PlainViews, SamplingRecipe
from featcache.store.plan import plan_segments
from featcache.store.reader import Store, open_store
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.stores import StorePlan, fill, make_record
from tests.extract.conftest import LITE0, Make

SMALL = FeatureSettings(name="small", backbone=LITE0, weights="random", input_size=64, channels=80)


# Whole extractions of real videos


@pytest.fixture
def folder(listing: Path, tmp_path: Path) -> Path:
    """Two classes of two videos: ``wave/0.mp4`` … and ``jump/2.mp4`` …"""
    for number, row in enumerate(listing.read_text().splitlines()[:4]):
        target = tmp_path / "videos" / ("wave", "jump")[number // 2] / f"{number}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(listing.parent / json.loads(row)["path"], target)
    return tmp_path / "videos"


@pytest.fixture
def settings(make: Make, folder: Path) -> ExtractSettings:
    return make(source=str(folder), sampling=SamplingSettings(num_clips=1, num_frames=1), shard_rows=1)


def values(store: str, feature: str = "pooled") -> dict[str, bytes]:
    with featcache.open(store).feature(feature) as features:
        return {video: features.video(video).tobytes() for video in features.video_ids}


def test_a_renamed_class_is_recognised(
    settings: ExtractSettings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extract(settings)
    before = values(settings.out)
    (folder / "wave").rename(folder / "greet")
    both = settings.model_copy(update={"features": (*settings.features, SMALL)})
    with caplog.at_level(logging.INFO, logger="featcache"):
        result = extract(both)  # the second backbone reads the files where they are now
    assert (result.videos_total, result.videos_ok, result.videos_failed) == (4, 4, 0)
    assert "2 videos were renamed, 'wave/0.mp4' is 'greet/0.mp4' now; nothing of them is computed again" in caplog.text
    store = featcache.open(settings.out)
    assert store.labels() == {f"greet/{n}.mp4": "greet" for n in (0, 1)} | {f"jump/{n}.mp4": "jump" for n in (2, 3)}
    assert values(settings.out) == {name.replace("wave", "greet"): value for name, value in before.items()}
    assert set(values(settings.out, "small")) == set(values(settings.out))
    assert store.videos["greet/0.mp4"].path == "greet/0.mp4"
    assert len(store.generations) == 1
    assert verify(settings.out).ok


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_after_a_rename(settings: ExtractSettings, folder: Path) -> None:
    whole = settings.model_copy(update={"out": f"{settings.out}-whole"})
    extract(whole)

    def interrupt(progress: Progress) -> None:
        if progress.shards_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(settings, on_progress=interrupt)
    (folder / "wave").rename(folder / "greet")
    (folder / "jump").rename(folder / "leap")
    left = estimate(settings).rows_to_do
    assert 0 < left < 4
    result = extract(settings)
    assert (result.videos_ok, result.videos_failed, result.videos_total, result.rows_written) == (4, 0, 4, left)
    found = {name.replace("wave", "greet").replace("jump", "leap"): value for name, value in values(whole.out).items()}
    assert values(settings.out) == found


@pytest.mark.slow
def test_what_is_deleted_or_removed_in_whole_extractions(settings: ExtractSettings, folder: Path) -> None:
    extract(settings)
    before = values(settings.out)
    (folder / "wave" / "1.mp4").unlink()
    remove(settings.out, ["jump/3.mp4"])
    result = extract(settings.model_copy(update={"features": (SMALL,)}))
    assert (result.videos_total, result.videos_ok, result.videos_failed) == (3, 2, 1)
    remove(settings.out, ids_not_in(settings.out, list_source(folder)))
    remove(settings.out, ["jump/3.mp4"], undo=True)
    assert set(values(settings.out)) == set(before) - {"wave/1.mp4"}
    assert extract(settings).rows_written == 0


# What is decided, of stores without videos


def video(name: str, content: str, *, label: str = "", split: str = "", status: str = "ok") -> VideoRecord:
    """A scanned video; its label is its folder unless given."""
    label = label or name.rpartition("/")[0]
    return VideoRecord(
        id=name,
        path=name,
        content_hash=content and f"sha256:{content}",
        num_frames=8,
        duration_seconds=1.0,
        labels={"label": label},
        split=split,
        status=status,
    )


Write = Callable[..., Store]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write or grow the store ``tmp_path/s``."""

    def add(*videos: VideoRecord, sampling: SamplingRecipe | None = None) -> Store:
        plan = StorePlan(records={"a": make_record((2,))})
        with StoreWriter.open(tmp_path / "s", sampling=sampling or SamplingRecipe()) as writer:
            segments, num_shards = plan_segments([int(one.status == "ok") for one in videos], shard_rows=4)
            made = writer.add_generation(videos, segments, num_shards, shard_rows=4, encode_batch=1, threads=1)
            fill(writer, made, plan)
        return open_store(tmp_path / "s")

    return add


def renames(opened: Store, root: Path, *scanned: VideoRecord) -> dict[str, str]:
    found = find_renames(Manifest(root=str(root), videos=scanned), opened)
    return {one.video: one.record.id for one in found}


def test_the_same_bytes_under_a_new_name_are_the_same_video(write: Write, tmp_path: Path) -> None:
    opened = write(video("a/x.mp4", "1"), video("a/y.mp4", "2"), video("lost.mp4", "", status="missing"))
    assert renames(opened, tmp_path, video("b/x.mp4", "1"), video("a/y.mp4", "2")) == {"a/x.mp4": "b/x.mp4"}
    assert renames(opened, tmp_path, video("b/x.mp4", "3"), video("found.mp4", "")) == {}


def test_a_copy_is_no_rename(write: Write, tmp_path: Path) -> None:
    """The first file is in the source too, or it is where it was and this is another source."""
    opened = write(video("a/x.mp4", "1"))
    assert renames(opened, tmp_path, video("a/x.mp4", "1"), video("b/x.mp4", "1")) == {}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").touch()
    assert renames(opened, tmp_path, video("b/x.mp4", "1")) == {}


def test_files_of_earlier_extractions_are_looked_for_where_they_were(write: Write, make: Make, tmp_path: Path) -> None:
    from featcache.config import to_yaml

    opened = write(video("a/x.mp4", "1"))
    first = tmp_path / "first"
    (first / "a").mkdir(parents=True)
    (first / "a" / "x.mp4").touch()
    (tmp_path / "s" / "config").mkdir()
    (tmp_path / "s" / "config" / "extract-0.yaml").write_text(to_yaml(make(source=str(first))))
    assert renames(opened, tmp_path / "second", video("b/x.mp4", "1")) == {}
    (first / "a" / "x.mp4").unlink()
    assert renames(opened, tmp_path / "second", video("b/x.mp4", "1")) == {"a/x.mp4": "b/x.mp4"}


def test_twins_are_told_apart_by_their_file_names(write: Write, tmp_path: Path) -> None:
    opened = write(video("a/x.mp4", "1"), video("a/y.mp4", "1"), video("a/z.mp4", "1"))
    scanned = [video(f"b/{name}.mp4", "1") for name in ("new", "y", "x", "more")]
    assert renames(opened, tmp_path, *scanned) == {"a/y.mp4": "b/y.mp4", "a/x.mp4": "b/x.mp4", "a/z.mp4": "b/new.mp4"}


def test_a_video_that_moves_to_other_views_is_computed_anew(write: Write, tmp_path: Path) -> None:
    views = PlainViews(temporal="uniform", num_clips=1, num_crops=1, crop_fraction=0.5)
    opened = write(
        video("train/x", "1", split="train"), video("val/y", "2", split="val"), sampling=SamplingRecipe(test=views)
    )
    moved = (video("test/x", "1", split="test"), video("test/y", "2", split="test"))
    assert renames(opened, tmp_path, *moved) == {"val/y": "test/y"}


def test_what_was_taken_out_stays_out_and_may_come_back(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = write(video("a/x.mp4", "1"), video("a/y.mp4", "2"))
    assert remove(opened.path, ["a/x.mp4", "a/x.mp4"]).changed == ("a/x.mp4",)
    assert remove(opened.path, ["a/x.mp4"]).unchanged == 1
    opened = open_store(opened.path)
    scanned = (video("a/x.mp4", "9"), video("a/y.mp4", "2"), video("a/z.mp4", "1"))
    added = videos_to_add(scanned, opened.videos, removed=opened.removed_videos, retry=frozenset())
    assert [one.id for one in added] == ["a/z.mp4"]
    with caplog.at_level(logging.INFO, logger="featcache"):
        tell_differences(scanned, opened, source="videos/")
    assert "1 videos of the source were removed from the store and stay out, 'a/x.mp4' among them" in caplog.text
    remove(opened.path, ["a/x.mp4"], undo=True)
    assert set(open_store(opened.path).videos) == {"a/x.mp4", "a/y.mp4"}
    with pytest.raises(UnknownNameError, match=r"did you mean 'a/x\.mp4'"):
        remove(opened.path, ["a/xx.mp4"])


def test_what_the_source_lacks_is_said_with_the_command(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    opened = write(video("a/x.mp4", "1"), video("a/y.mp4", "2"))
    with caplog.at_level(logging.INFO, logger="featcache"):
        tell_differences([video("a/x.mp4", "1")], opened, source="videos/")
    assert "1 stored videos are not in the source, 'a/y.mp4' among them" in caplog.text
    assert f"featcache remove {opened.path} --not-in videos/" in caplog.text
    assert "relabel" not in caplog.text
    listed = Manifest(root="", videos=(video("a/x.mp4", "1"),))
    assert ids_not_in(opened.path, listed) == ["a/y.mp4"]
    with pytest.raises(ManifestError, match="the source has no video of"):
        ids_not_in(opened.path, Manifest(root="", videos=(video("b/x.mp4", "1"),)))


def test_other_labels_are_said_with_the_command(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """Only in columns that the source has: a folder without classes says nothing of a labelled store."""
    opened = write(video("x.mp4", "1", label="cat"))
    bare = replace(video("x.mp4", "1"), labels={})
    tell_differences([bare], opened, source="videos/")
    assert "relabel" not in caplog.text
    tell_differences([replace(bare, split="train")], opened, source="videos/")
    assert f"featcache relabel {opened.path} videos/" in caplog.text


def test_another_try_keeps_the_labels_of_the_store_and_another_file_has_its_own(write: Write) -> None:
    opened = write(
        video("lost", "", label="kept", status="missing"),
        video("slow", "1", label="kept", split="val", status="timeout"),
        video("replaced", "2", label="old"),
    )
    scanned = (video("lost", "8", label="l"), video("slow", "1", label="l"), video("replaced", "9", label="new"))
    added = videos_to_add(scanned, opened.videos, removed=(), retry=frozenset({"slow"}))
    said = {one.id: (one.labels["label"], one.split, one.content_hash) for one in added}
    assert said == {
        "lost": ("kept", "", "sha256:8"),
        "slow": ("kept", "val", "sha256:1"),
        "replaced": ("new", "", "sha256:9"),
    }


def test_a_list_relabels(write: Write, tmp_path: Path) -> None:
    """Columns that it has replace those of the videos that it names; the others stay."""
    opened = write(video("wave/0.mp4", "1"), video("wave/1.mp4", "2"), video("wave/2.mp4", "3"))
    (tmp_path / "first.csv").write_text(
        "id;label;split;group\r\nwave/0.mp4;greet;train;g1\r\nwave/1.mp4;greet;test;\r\nnobody.mp4;x;;\r\n"
    )
    done = relabel(opened.path, list_source(tmp_path / "first.csv", needs_paths=False))
    assert (done.changed, done.unchanged, done.not_stored) == (("wave/0.mp4", "wave/1.mp4"), 0, 1)
    second = tmp_path / "second.jsonl"
    second.write_text('{"path": "wave/1.mp4", "label": 2.0}\n{"path": "wave/0.mp4", "label": null}\n')
    relabel(opened.path, list_source(second))
    videos = open_store(opened.path).videos
    assert [videos[f"wave/{n}.mp4"].labels for n in range(3)] == [{"group": "g1"}, {"label": "2"}, {"label": "wave"}]
    assert [videos[f"wave/{n}.mp4"].split for n in range(3)] == ["train", "test", ""]
    assert relabel(opened.path, list_source(second)).changed == ()
    assert len(open_store(opened.path).overlays) == 2
    (tmp_path / "strangers.csv").write_text("id,label\nwave-0,x\n")
    with pytest.raises(ManifestError, match=r"ids of the store look like 'wave/0\.mp4'"):
        relabel(opened.path, list_source(tmp_path / "strangers.csv", needs_paths=False))


def test_a_split_that_is_sampled_otherwise_is_kept(write: Write, tmp_path: Path) -> None:
    views = PlainViews(temporal="uniform", num_clips=1, num_crops=1, crop_fraction=0.5)
    opened = write(video("x", "1", split="train"), video("y", "2", split="test"), sampling=SamplingRecipe(test=views))
    (tmp_path / "new.csv").write_text("id,split,label\nx,test,new\ny,val,\n")
    done = relabel(opened.path, list_source(tmp_path / "new.csv", needs_paths=False))
    assert (done.changed, done.kept_split) == (("x", "y"), 1)
    videos = open_store(opened.path).videos
    assert {name: (one.split, one.labels["label"]) for name, one in videos.items() if "label" in one.labels} == {
        "x": ("train", "new")
    }
    assert videos["y"].split == "val"
