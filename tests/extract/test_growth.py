"""Stores that grow: what is computed again, what is kept, and what a plan says of it beforehand."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

import featcache
from featcache.backbones import build_backbone
from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.data.scan import scan
from featcache.data.types import VideoRecord
from featcache.errors import FeatcacheError
from featcache.extract.estimate import estimate
from featcache.extract.filling import blaming_the_machine
from featcache.extract.prepare import prepare
from featcache.extract.progress import Progress
from featcache.extract.run import extract
from featcache.extract.settings import FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.networks.counting import count_macs
from featcache.store import plan
from featcache.store.writer import StoreWriter
from tests.extract.conftest import LITE0, Make

POOLED = FeatureSettings(name="pooled", backbone=LITE0, weights="random", input_size=64)
SMALL = FeatureSettings(name="small", backbone=LITE0, weights="random", input_size=64, channels=80, precision="int8")


def rows_of(listing: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in listing.read_text().splitlines()]


def write_listing(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_a_manifest_older_than_its_files_adds_one_generation(make: Make, listing: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(listing.parent, folder)
    manifest = scan(write_listing(folder / "six.jsonl", rows_of(listing)[:6]))
    write_parquet(manifest, tmp_path / "videos.parquet")
    gone, changed = (manifest.path_of(video) for video in manifest.videos[:2])
    kept = gone.read_bytes()
    gone.unlink()
    changed.write_bytes(changed.read_bytes() + b"more")
    settings = make(source=str(tmp_path / "videos.parquet"))
    assert {state for _, state, _ in extract(settings).failures} == {"missing", "changed"}
    assert estimate(settings).rows_to_do == 0
    again = extract(settings)
    assert (again.videos_failed, again.rows_written) == (2, 0)
    assert len(featcache.open(settings.out).generations) == 1

    gone.write_bytes(kept)
    planned = estimate(settings)
    assert (planned.videos_to_do, planned.rows_to_do, planned.num_shards) == (1, 2, 1)
    assert extract(settings).videos_failed == 1
    assert len(featcache.open(settings.out).generations) == 2


def test_a_manifest_of_a_folder_that_is_gone_blames_no_video(make: Make, tmp_path: Path) -> None:
    videos = (VideoRecord(id="a", path="a.mp4", num_frames=8, duration_seconds=1.0),)
    write_parquet(Manifest(root=str(tmp_path / "unmounted"), videos=videos), tmp_path / "videos.parquet")
    with pytest.raises(FeatcacheError, match="mount or restore that folder"):
        extract(make(source=str(tmp_path / "videos.parquet")))
    assert not (tmp_path / "store").exists()


def test_other_labels_are_told_and_not_taken(
    make: Make, listing: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(listing)[:2]
    settings = make(source=str(write_listing(listing.with_name("two.jsonl"), rows)))
    extract(settings)
    rows[1]["label.picture"] = "somebody"
    write_listing(Path(settings.source), rows)
    with caplog.at_level(logging.WARNING):
        assert extract(settings).rows_written == 0
    assert "1 videos" in caplog.text
    assert f"`featcache relabel {settings.out} {settings.source}` takes the source's" in caplog.text
    assert featcache.open(settings.out).videos[rows[1]["path"]].labels["picture"] != "somebody"


def test_a_video_that_ends_before_the_bank_begins_is_too_short(make: Make, listing: Path) -> None:
    source = write_listing(listing.with_name("two.jsonl"), rows_of(listing)[:2])
    settings = make(source=str(source), sampling=SamplingSettings(layout="frames", start_seconds=9.0))
    for _ in range(2):
        result = extract(settings)
        assert [state for _, state, _ in result.failures] == ["too_short"] * 2
    assert len(featcache.open(settings.out).generations) == 1
    assert estimate(settings).videos_unusable == 2


def test_a_second_backbone_takes_the_sampling_of_the_store(make: Make, listing: Path) -> None:
    source = str(write_listing(listing.with_name("two.jsonl"), rows_of(listing)[:2]))
    extract(
        make(source=source, sampling=SamplingSettings(num_clips=2, num_frames=2, frame_stride=3, crop_fraction=0.9))
    )
    more = make(source=source, features=(SMALL,), sampling=SamplingSettings(num_clips=2))
    planned = estimate(more)
    result = extract(more)
    assert planned.rows_to_do == result.rows_written == 4
    assert planned.num_bytes == result.bytes_written == 4 * 80
    assert featcache.open(more.out).sampling.frame_stride == 3
    with pytest.raises(FeatcacheError, match=r"num_clips \(2 against 4\)"):
        estimate(make(source=source, features=(SMALL,), sampling=SamplingSettings()))


def test_a_source_that_moved_finishes_what_was_begun(make: Make, listing: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(listing.parent, folder)
    rows = [{**row, "id": row["path"]} for row in rows_of(listing)]
    settings = make(source=str(write_listing(folder / "here.jsonl", rows)))

    def interrupt(progress: Progress) -> None:
        if progress.shards_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(settings, on_progress=interrupt)
    folder.rename(tmp_path / "elsewhere")
    moved = [{**row, "path": f"elsewhere/{row['path']}"} for row in rows]
    result = extract(make(source=str(write_listing(tmp_path / "there.jsonl", moved))))
    assert (result.videos_ok, result.videos_total) == (16, 16)
    assert len(featcache.open(settings.out).generations) == 1


def test_shards_of_another_process_are_left_to_it(make: Make) -> None:
    settings = make()

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(settings, on_progress=interrupt)
    store = featcache.open(settings.out)
    with (
        StoreWriter.open(settings.out, sampling=store.sampling) as writer,
        writer.shard_lock(store.generations[0], 1),
    ):
        result = extract(settings)
    assert (result.shards_elsewhere, result.videos_pending, result.videos_ok) == (1, 4, 12)
    assert extract(settings).rows_written == 8


def test_a_shard_is_bounded_by_work_and_a_stored_plan_keeps_its_own(
    make: Make, scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_parquet(scanned)
    write_parquet(Manifest(root=manifest.root, videos=manifest.videos[:6]), tmp_path / "six.parquet")
    settings = make(source=str(tmp_path / "six.parquet"), shard_rows=0)
    macs = prepare(settings).macs_per_row
    network = build_backbone(LITE0, weights="random").network
    classifier = 1280 * 1000  # which is not run
    assert macs == 2 * (count_macs(network, torch.zeros(1, 3, 64, 64)) - classifier), "two frames a row"

    def interrupt(progress: Progress) -> None:
        if progress.shards_done:
            raise KeyboardInterrupt

    with monkeypatch.context() as slow:
        slow.setattr(plan, "MAX_SHARD_MACS", 2 * macs)
        planned = estimate(settings)
        assert (planned.shard_rows, planned.num_shards) == (2, 6)
        assert 0 < planned.shard_seconds == pytest.approx(planned.seconds / 6)
        with pytest.raises(KeyboardInterrupt):
            extract(settings, on_progress=interrupt)
    begun = featcache.open(settings.out)
    assert begun.coverage("pooled").ok >= 1, "a kill costs the shards in flight"

    assert extract(make(shard_rows=0)).videos_ok == 16
    stored, added = featcache.open(settings.out).generations
    assert stored.plan == begun.generations[0].plan
    assert (stored.shard_rows, added.shard_rows) == (2, 4096)


@pytest.mark.parametrize("name", ["num_frames", "frame_stride", "crop_fraction"])
def test_zero_is_no_default(name: str) -> None:
    with pytest.raises(FeatcacheError, match=name):
        SamplingSettings.model_validate({name: 0}).resolve(num_frames=1, frame_stride=1, crop_fraction=0.875)


@pytest.mark.parametrize("name", ["threads", "encode_batch", "decode_workers", "ahead_megabytes"])
def test_negative_counts_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RuntimeSettings.model_validate({name: -1})


def test_a_fault_of_the_machine_is_a_sentence() -> None:
    with pytest.raises(FeatcacheError, match=r"stopped at a\.mp4 \(Input/output error\)"), blaming_the_machine():
        raise OSError(5, "Input/output error", "a.mp4")
