"""Bad input: a sentence or a ledger row, and nothing lost of its neighbours."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.data.manifest import default_id, write_parquet
from featcache.data.scan import scan
from featcache.errors import FeatcacheError, ManifestError
from featcache.extract import estimate as estimate_module
from featcache.extract import filling, lacking
from featcache.extract.result import Extraction
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.store.verify import verify
from featcache.testing.videos import VIDEO_KINDS
from tests.e2e import misbehaving

# Names that file systems allow and careless code does not survive.
GOOD_NAMES = (
    "with spaces.mp4",
    "with 'single' and \"double\" quotes.mp4",
    "two\nlines.mp4",
    "back\\slash.mp4",
    "-starts-with-a-dash.mp4",
    "..dots.mp4",
    "[bold]brackets.mp4",
    "Ünïcode 動画 🎬.mp4",
    "not-utf8-\udcff.mp4",
    "percent%0A.mp4",
    "UPPER.MP4",
)


# What the scan says before a decoder has its turn.
SCAN_SAYS = {"missing": ("missing", "No such file"), "folder": ("undecodable", "not a regular file")}


def settings(source: Path, out: Path, **runtime: object) -> ExtractSettings:
    return ExtractSettings(
        source=str(source),
        out=str(out),
        features=(
            FeatureSettings(name="pooled", backbone="timm/tf_efficientnet_lite0", weights="random", input_size=64),
        ),
        sampling=SamplingSettings(num_clips=2, num_frames=2),
        runtime=RuntimeSettings.model_validate({"device": "cpu", "threads": 1, **runtime}),
        shard_rows=8,
    )


def by_status(result: Extraction) -> dict[str, str]:
    return {video: status for video, status, _ in result.failures}


def check_adds_up(result: Extraction, *, total: int) -> None:
    """Every video is accounted for, with a reason where it failed; the store is whole."""
    assert result.videos_ok + result.videos_failed == result.videos_total == total
    assert result.videos_pending == 0
    assert all(reason and "\n" not in reason for _, _, reason in result.failures)
    coverage = featcache.open(result.store).coverage("pooled")
    assert (coverage.ok, coverage.failed, coverage.pending) == (result.videos_ok, result.videos_failed, 0)
    assert verify(result.store).problems == []


def rows_of(store: Path) -> dict[str, np.ndarray]:
    features = featcache.open(store).feature("pooled")
    return {video: features.video(video) for video in features.video_ids}


def write_listing(path: Path, names: list[str]) -> Path:
    path.write_text("".join(json.dumps({"path": name}) + "\n" for name in names))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One video of every kind, and a good one under every awkward name."""
    root = tmp_path_factory.mktemp("videos")
    for kind in VIDEO_KINDS.values():
        kind.write(root)
    for name in GOOD_NAMES:
        shutil.copy(root / "h264.mp4", os.fsencode(root / name))
    return root


@pytest.fixture(scope="module")
def everything(folder, tmp_path_factory):
    """The extraction of all of them."""
    names = [f"{kind.name}{kind.suffix}" for kind in VIDEO_KINDS.values()]
    listing = write_listing(folder / "all.jsonl", [*names, *GOOD_NAMES])
    return extract(settings(listing, tmp_path_factory.mktemp("stores") / "all"))


def test_every_kind_of_video_is_features_or_a_ledger_row(everything):
    check_adds_up(everything, total=len(VIDEO_KINDS) + len(GOOD_NAMES))
    bad = [kind for kind in VIDEO_KINDS.values() if kind.status != "ok"]
    expected = {f"{kind.name}{kind.suffix}": SCAN_SAYS.get(kind.name, (kind.status, kind.reason)) for kind in bad}
    assert by_status(everything) == {video: status for video, (status, _) in expected.items()}
    for video, _, reason in everything.failures:
        assert expected[video][1] in reason
    assert everything.rows_written == 2 * everything.videos_ok


def test_neighbours_of_damaged_videos_lose_nothing(everything, folder, tmp_path):
    good = [f"{kind.name}{kind.suffix}" for kind in VIDEO_KINDS.values() if kind.status == "ok"]
    result = extract(settings(write_listing(folder / "good.jsonl", good), tmp_path / "good"))
    check_adds_up(result, total=len(good))
    alone, among_others = rows_of(tmp_path / "good"), rows_of(Path(everything.store))
    assert alone.keys() == set(good)
    for video in good:
        assert alone[video].shape == (2, 1280)
        np.testing.assert_array_equal(alone[video], among_others[video], err_msg=video)


def test_awkward_names_are_ids(everything):
    rows = rows_of(Path(everything.store))
    assert default_id("two\nlines.mp4") == "two%0Alines.mp4"
    for name in GOOD_NAMES:
        np.testing.assert_array_equal(rows[default_id(name)], rows["h264.mp4"], err_msg=name)


def test_a_folder_of_awkward_names_is_scanned_and_printed(folder, tmp_path):
    """The real command: names must survive arguments, the terminal and the plan; failures too."""
    root = tmp_path / "-my [red]videos :dog:"
    root.mkdir()
    for name in GOOD_NAMES:
        shutil.copy(folder / "h264.mp4", os.fsencode(root / name))
    (root / "[").mkdir()
    for name in ("[/red]broken.mp4", "broken\n\udcff.mp4"):
        (root / name).write_bytes(b"no video")
    command = [
        *(sys.executable, "-m", "featcache", "extract", "--backbone", "timm/tf_efficientnet_lite0"),
        *("--weights", "random", "--device", "cpu", "--clips", "1", "--frames", "2", "--out", "-store"),
        *("--set", "features.0.input_size=64", "--set", "runtime.threads=1", "--", root.name),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    printed = done.stdout.decode()
    num_good = len(GOOD_NAMES) - 1  # names that begin with a dot are no part of a folder
    assert f"{num_good} ok, 2 failed, {num_good + 2} in all" in printed
    assert "[/red]broken.mp4" in printed
    assert "broken%0A%FF.mp4" in printed
    assert "-store" in printed
    assert verify(tmp_path / "-store").problems == []


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"path": "h264.mp4", "id": "../h264.mp4"}], "has a path part '..'"),
        ([{"path": "h264.mp4", "id": "a/./b"}], "has a path part '.'"),
        ([{"path": "h264.mp4", "id": "/etc/passwd"}], "is an absolute path"),
        ([{"path": "h264.mp4", "id": "two\nlines"}], "contains a control character"),
        ([{"path": "h264.mp4", "id": "back\\slash"}], "contains a backslash"),
        ([{"path": "h264.mp4"}, {"path": "h264.mp4"}], "video id 'h264.mp4' occurs twice"),
        ([{"path": "h264.mp4", "id": "a"}, {"path": "mpeg4.avi", "id": "a"}], "video id 'a' occurs twice"),
        ([{"path": "h264.mp4\0"}], "contains a NUL"),
        ([{"id": "a"}], "no path"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_unusable_ids_are_one_sentence(folder, tmp_path, rows, sentence, suffix):
    listing = folder / f"ids{suffix}"
    if suffix == ".csv":
        columns = ("path", "id")
        lines = [",".join('"' + row.get(column, "") + '"' for column in columns) for row in rows]
        listing.write_text("\n".join(["path,id", *lines]) + "\n")
    else:
        listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ManifestError) as caught:
        extract(settings(listing, tmp_path / "store"))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


# Decoders that hang and crash


@pytest.fixture
def fragile(folder, tmp_path):
    """Copies of one good video under names that misbehave, scanned; and a store of well-behaved copies."""
    names = ["a.mp4", "hangs_once.mp4", "hangs.mp4", "c.mp4", "crashes.mp4", "crashes_once.mp4", "d.mp4"]
    for name in names:
        shutil.copy(folder / "h264.mp4", tmp_path / name)
    write_parquet(scan(write_listing(tmp_path / "fragile.jsonl", names)), tmp_path / "fragile.parquet")
    return tmp_path / "fragile.parquet"


@pytest.mark.parametrize("decode_workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_hung_and_crashed_decoders_cost_only_their_own_video(
    everything, fragile, tmp_path, monkeypatch, decode_workers
):
    monkeypatch.setattr(filling, "decode_segment", misbehaving.decode)
    result = extract(settings(fragile, tmp_path / "store", deadline_seconds=3, decode_workers=decode_workers))
    check_adds_up(result, total=7)
    assert by_status(result) == {"hangs.mp4": "timeout", "crashes.mp4": "undecodable"}
    reasons = {video: reason for video, _, reason in result.failures}
    assert reasons["hangs.mp4"].endswith("no sign of life for 3 seconds and was stopped (tried 2 times)")
    assert "crashed twice" in reasons["crashes.mp4"]
    assert "SIGSEGV" in reasons["crashes.mp4"]
    assert fragile.with_name("crashes_once.crashed").exists()
    expected = rows_of(Path(everything.store))["h264.mp4"]
    rows = rows_of(tmp_path / "store")
    assert rows.keys() == {"a.mp4", "hangs_once.mp4", "c.mp4", "crashes_once.mp4", "d.mp4"}
    for video, found in rows.items():
        np.testing.assert_array_equal(found, expected, err_msg=video)


@pytest.mark.parametrize("name", ["crashes.mp4", "hangs.mp4"])
def test_a_plan_survives_a_decoder_that_does_not(folder, tmp_path, monkeypatch, name):
    names = ["a.mp4", name, "z.mp4"]
    for copy in names:
        shutil.copy(folder / "h264.mp4", tmp_path / copy)
    monkeypatch.setattr(estimate_module, "timed_segment", misbehaving.timed)
    listing = write_listing(tmp_path / "listing.jsonl", names)
    plan = estimate_module.estimate(settings(listing, tmp_path / "store", deadline_seconds=2))
    assert (plan.num_measured, plan.videos_to_do, plan.rows_to_do) == (2, 3, 6)
    assert plan.decode_rows_a_second == pytest.approx(4 / 2.0)  # two videos, of two payloads of half a second each
    assert plan.bottleneck in ("decoding", "encoding")


def test_a_source_that_is_not_there_is_said_before_a_backbone_is_built(tmp_path, monkeypatch):
    built = []
    for module in (filling, estimate_module):
        monkeypatch.setattr(module, "prepare", built.append)
    for command in (extract, estimate_module.estimate):
        with pytest.raises(ManifestError, match=r"no-such-folder does not exist; give a folder"):
            command(settings(tmp_path / "no-such-folder", tmp_path / "store"))
    assert built == []
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param(
            "no_descriptors",
            r"stopped at .*no_descriptors\.mp4 \(Too many open files\): the machine failed, not the video",
            marks=pytest.mark.slow,
        ),
        ("killed_once", r"killed at .*killed_once\.mp4 by signal 9 \(SIGKILL, .*\): the machine failed, not the video"),
    ],
)
def test_a_fault_of_the_machine_stops_the_run_and_blames_no_video(
    everything, folder, tmp_path, monkeypatch, name, sentence
):
    names = ["a.mp4", "b.mp4", "c.mp4", "d.mp4", f"{name}.mp4", "e.mp4"]
    for video in names:
        shutil.copy(folder / "h264.mp4", tmp_path / video)
    listing = write_listing(tmp_path / "listing.jsonl", names)
    monkeypatch.setattr(filling, "decode_segment", misbehaving.decode)
    with pytest.raises(FeatcacheError, match=sentence):
        extract(settings(listing, tmp_path / "store"))
    assert verify(tmp_path / "store").problems == []
    coverage = featcache.open(tmp_path / "store").coverage("pooled")
    assert (coverage.ok, coverage.failed, coverage.pending) == (4, 0, 2), "what is committed stays"
    result = extract(settings(listing, tmp_path / "store"))
    assert result.rows_written == 4
    check_adds_up(result, total=6)
    assert result.failures == ()
    expected = rows_of(Path(everything.store))["h264.mp4"]
    for found in rows_of(tmp_path / "store").values():
        np.testing.assert_array_equal(found, expected)


def test_an_io_error_of_one_file_is_a_row_that_is_tried_again(everything, folder, tmp_path, monkeypatch):
    names = ["a.mp4", "disk_fails.mp4", "disk_fails_once.mp4", "z.mp4"]
    for name in names:
        shutil.copy(folder / "h264.mp4", tmp_path / name)
    wanted = settings(write_listing(tmp_path / "listing.jsonl", names), tmp_path / "store")
    with monkeypatch.context() as broken:
        broken.setattr(filling, "decode_segment", misbehaving.decode)
        broken.setattr(lacking, "MAX_TRIES", 3)
        for num_tries in (2, 3, 3):
            result = extract(wanted)
            check_adds_up(result, total=4)
            reason = f"reading it fails (Input/output error) (tried {num_tries} times)"
            assert result.failures == (("disk_fails.mp4", "unreadable", reason),)
            assert len(featcache.open(wanted.out).generations) == num_tries
    result = extract(wanted.model_copy(update={"retry_failed": True}))
    check_adds_up(result, total=4)
    assert result.failures == ()
    expected = rows_of(Path(everything.store))["h264.mp4"]
    for found in rows_of(tmp_path / "store").values():
        np.testing.assert_array_equal(found, expected)


def test_tries_are_counted_for_the_file_that_a_video_is_now(folder, tmp_path, monkeypatch):
    for name in ("a.mp4", "disk_fails.mp4"):
        shutil.copy(folder / "h264.mp4", tmp_path / name)
    wanted = settings(write_listing(tmp_path / "listing.jsonl", ["a.mp4", "disk_fails.mp4"]), tmp_path / "store")
    monkeypatch.setattr(filling, "decode_segment", misbehaving.decode)
    monkeypatch.setattr(lacking, "MAX_TRIES", 2)
    extract(wanted)
    assert featcache.open(wanted.out).tries("pooled") == {"disk_fails.mp4": 2}
    shutil.copy(folder / "mpeg4.avi", tmp_path / "disk_fails.mp4")
    extract(wanted)
    store = featcache.open(wanted.out)
    assert (store.tries("pooled"), len(store.generations)) == ({"disk_fails.mp4": 2}, 4)
