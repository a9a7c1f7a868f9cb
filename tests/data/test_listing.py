"""Videos of a data set instead of a folder: settings, listing, extraction, and probes on any official split."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from featcache.commands.scan import ScanSettings
from featcache.config import parse, to_yaml
from featcache.data.listing import list_videos
from featcache.data.manifest import Manifest, write_parquet
from featcache.data.scan import scan_listed
from featcache.data.selection import Selection
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError, ManifestError, UnknownNameError
from featcache.evaluation.reading import read_data
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import KnnSettings
from featcache.extract.lacking import videos_to_add
from featcache.extract.run import extract
from featcache.extract.scanning import scanning
from featcache.extract.settings import ExtractSettings
from featcache.testing.datasets import NUM_FRAMES, Sample, make_ucf101
from tests.extract.conftest import LITE0

EXTRACT = {"out": "store", "features": [{"backbone": "i3d"}]}
SCAN = {"out": "videos.parquet"}


@pytest.mark.parametrize(("kind", "rest"), [(ExtractSettings, EXTRACT), (ScanSettings, SCAN)])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no source is given; name a folder or listing of videos, or --dataset NAME with --root DIR"),
        ({"source": "a", "dataset": "ucf101"}, "source 'a' and dataset 'ucf101' are both given"),
        ({"source": "a", "root": "b"}, "source 'a' and root 'b' are both given"),
        ({"dataset": "ucf101"}, "dataset without root is given"),
        ({"root": "b"}, "root without dataset is given"),
        ({"source": "a", "selection": {"subset": 3, "low_shot": 0.1}}, "subset and low_shot both"),
        ({"source": "a", "selection": {"subse": 3}}, "unknown key 'subse'; did you mean 'subset'? (in selection)"),
    ],
)
def test_videos_come_from_exactly_one_place(kind: Any, rest: dict[str, Any], given: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as error:
        parse(kind, {**rest, **given})
    assert message in str(error.value)


@pytest.mark.parametrize(("kind", "rest"), [(ExtractSettings, EXTRACT), (ScanSettings, SCAN)])
@pytest.mark.parametrize("given", [{"source": "a"}, {"dataset": "hmdb51", "root": "b", "selection": {"low_shot": 0.1}}])
def test_settings_round_trip(kind: Any, rest: dict[str, Any], given: dict[str, Any]):
    settings = parse(kind, {**rest, **given})
    assert parse(kind, yaml.safe_load(to_yaml(settings))) == settings


def test_an_extraction_says_what_a_copy_of_its_videos_would_not_share(tmp_path: Path, caplog: Any):
    record = VideoRecord(id="a.mp4", path="a.mp4", content_hash="sha256:01", pixel_aspect=0.5, transfer="pq")
    copy = replace(record, id="b.mp4", path="b.mp4")
    write_parquet(Manifest(root=str(tmp_path), videos=(record, copy)), tmp_path / "videos.parquet")
    settings = parse(ExtractSettings, {**EXTRACT, "source": str(tmp_path / "videos.parquet")})
    with caplog.at_level(logging.WARNING), scanning(settings, on_scan=lambda done, total: None) as videos:
        assert len(videos()) == 2
    assert "videos whose pixels are not square: 2 of 2" in caplog.text
    assert "videos in HDR: 2 of 2" in caplog.text
    assert "under another name: 1, e.g. 'b.mp4' (that of 'a.mp4')" in caplog.text


def test_a_decoder_s_name_in_an_older_plan_makes_no_video_new():
    """``libdav1d`` where a scan now says ``av1``, and columns that the older plan had not."""
    scanned = VideoRecord(id="a.mp4", path="a.mp4", content_hash="sha256:01", codec="av1", pixel_aspect=0.5)
    stored = replace(scanned, codec="libdav1d", pixel_aspect=1.0)
    assert videos_to_add([scanned], {"a.mp4": stored}, retry=frozenset()) == []
    other = replace(scanned, content_hash="sha256:02")
    assert videos_to_add([other], {"a.mp4": stored}, retry=frozenset()) == [other]


def test_a_root_without_any_listed_video_is_refused(tmp_path: Path):
    make_ucf101(tmp_path / "all")
    (tmp_path / "lists").mkdir()
    (tmp_path / "all/ucfTrainTestlist").rename(tmp_path / "lists/ucfTrainTestlist")
    with pytest.raises(ManifestError, match=r"none of the 12 videos that the lists of ucf101 name is below"):
        list_videos(source=None, dataset="ucf101", root=str(tmp_path / "lists"), selection=Selection())
    with pytest.raises(UnknownNameError, match="did you mean 'ucf101'"):
        list_videos(source=None, dataset="UCF-101", root=str(tmp_path), selection=Selection())


def test_a_folder_can_be_split_and_reduced(tmp_path: Path):
    for name in ("a/1", "a/2", "a/3", "a/4", "b/1", "b/2", "b/3", "b/4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.mp4").touch()
    listed = list_videos(
        source=str(tmp_path), dataset=None, root=None, selection=Selection(test_fraction=0.5, subset=2)
    )
    assert sorted(video.split for video in listed.videos) == ["test"] * 4 + ["train"] * 2


def small(sample: Sample, out: Path, **selection: Any) -> ExtractSettings:
    data = {
        "dataset": sample.name,
        "root": str(sample.root),
        "selection": selection,
        "out": str(out),
        "features": [{"backbone": LITE0, "weights": "random", "input_size": 32}],
        "sampling": {"num_clips": 1, "num_frames": 1},
        "runtime": {"device": "cpu", "threads": 1},
    }
    return parse(ExtractSettings, data)


def test_a_data_set_is_extracted_and_probed_on_every_split(tmp_path: Path):
    sample = make_ucf101(tmp_path / "ucf")
    missing = next(name for name, row in sample.rows.items() if row.path is None)
    result = extract(small(sample, tmp_path / "store", split_column="split2"))
    assert (result.videos_ok, result.videos_failed, result.videos_total) == (11, 1, 12)
    assert [(video, status) for video, status, _ in result.failures] == [(missing, "missing")]
    again = parse(ExtractSettings, yaml.safe_load(Path(result.config).read_text()))
    assert (again.dataset, again.selection.split_column) == ("ucf101", "split2")

    for column in (None, "split1", "split2", "split3"):
        data = read_data(result.store, split_column=column)
        expected = {name: row.labels[column or "split2"] for name, row in sample.rows.items() if name != missing}
        assert dict(zip(data.videos, data.splits, strict=True)) == expected
        assert sum(coverage.failed for coverage in data.coverage.values()) == 1
    scored = run_probe("knn", read_data(result.store, split_column="split3"), KnnSettings(ks=(3,)))
    assert (scored.splits["test"].num_videos, scored.splits["test"].coverage.total) == (3, 4)


@pytest.mark.slow
def test_a_file_that_turns_up_is_added_by_the_same_command(tmp_path: Path):
    sample = make_ucf101(tmp_path / "ucf")
    settings = small(sample, tmp_path / "store")
    assert extract(settings).videos_failed == 1
    missing = next(name for name, row in sample.rows.items() if row.path is None)
    source = sample.root / next(row.path for row in sample.rows.values() if row.path is not None)
    (sample.root / f"UCF-101/HandstandPushups/{missing}.avi").write_bytes(source.read_bytes())
    result = extract(settings)
    assert (result.videos_ok, result.videos_total, result.rows_written) == (12, 12, 1)


def test_rows_that_are_missing_are_not_opened(tmp_path: Path):
    sample = make_ucf101(tmp_path)
    listed = list_videos(source=None, dataset="ucf101", root=str(tmp_path), selection=Selection(low_shot=1.0))
    lost = next(video for video in listed.videos if video.status == "missing")
    source = next(row.path for row in sample.rows.values() if row.path is not None)
    (tmp_path / lost.path).write_bytes((tmp_path / source).read_bytes())  # too late for this listing
    steps: list[tuple[int, int]] = []
    scanned = scan_listed(listed, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, len(listed) - 1) for done in range(1, len(listed))]
    for before, after in zip(listed.videos, scanned.videos, strict=True):
        assert (after == before) if before is lost else (after.id, after.num_frames) == (before.id, NUM_FRAMES)
