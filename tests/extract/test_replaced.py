"""Files that are replaced under their names: no feature of an old file stands under the new file's label and hash."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.errors import CorruptStoreError, StoreError
from featcache.extract.estimate import estimate
from featcache.extract.run import extract
from featcache.extract.settings import FeatureSettings
from featcache.store.verify import verify
from tests.extract.conftest import LITE0, Make, settings_of

POOLED = FeatureSettings(name="pooled", backbone=LITE0, weights="random", input_size=64)
OTHER = FeatureSettings(name="other", backbone=LITE0, weights="random", input_size=64, channels=80)


@pytest.fixture(scope="module")
def begun(listing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips, a listing of them with a label each, and the store of their features."""
    begun = tmp_path_factory.mktemp("begun")
    folder = begun / "videos"
    folder.mkdir()
    rows = [json.loads(line) for line in listing.read_text().splitlines()]
    for number, row in enumerate(rows[:4]):
        shutil.copy(listing.parent / row["path"], folder / f"{number}.mp4")
    write_listing(folder, dict.fromkeys(range(4), "cat"))
    shutil.copy(listing.parent / rows[9]["path"], begun / "dog.mp4")
    extract(settings_of(folder / "list.jsonl", begun / "store", features=(POOLED,)))
    return begun


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """The test's own copy of the four clips, beside one of their store."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    return tmp_path / "videos"


def write_listing(folder: Path, labels: dict[int, str]) -> None:
    rows = [{"id": str(number), "path": f"{number}.mp4", "label": label} for number, label in labels.items()]
    (folder / "list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def replace_first(folder: Path) -> None:
    shutil.copy(folder.parent / "dog.mp4", folder / "0.mp4")
    write_listing(folder, {0: "dog", 1: "cat", 2: "cat", 3: "cat"})


def test_the_feature_of_a_replaced_file_is_pending_until_it_is_extracted_again(make: Make, folder: Path) -> None:
    source = str(folder / "list.jsonl")
    first = make(source=source, features=(POOLED,))
    before = featcache.open(first.out).feature("pooled").video("0")
    replace_first(folder)
    assert extract(make(source=source, features=(OTHER,))).videos_ok == 4

    store = featcache.open(first.out)
    assert store.videos["0"].labels["label"] == "dog"
    assert (store.coverage("pooled").ok, store.coverage("pooled").pending) == (3, 1)
    assert store.info()["features"]["pooled"]["num_rows"] == 6
    with pytest.raises(StoreError, match="still lacks 1 of 4 videos"):
        store.feature("pooled")
    assert sorted(store.feature("pooled", partially=True).video_ids) == ["1", "2", "3"]
    assert estimate(first).rows_to_do == 2

    assert extract(first).rows_written == 2
    after = featcache.open(first.out).feature("pooled").video("0")
    fresh = make(source=source, features=(POOLED,), out=str(folder.parent / "fresh"))
    extract(fresh)
    assert after.tobytes() == featcache.open(fresh.out).feature("pooled").video("0").tobytes()
    assert not np.array_equal(before, after)


def test_a_file_that_was_replaced_by_one_that_does_not_decode_is_a_failure(make: Make, folder: Path) -> None:
    settings = make(source=str(folder / "list.jsonl"), features=(POOLED,))
    (folder / "0.mp4").write_bytes(b"no video at all" * 20)
    for _ in range(2):
        result = extract(settings)
        assert (result.videos_ok, result.videos_failed, result.rows_written) == (3, 1, 0)
        assert [(name, status) for name, status, _ in result.failures] == [("0", "undecodable")]
    assert len(featcache.open(settings.out).generations) == 2
    assert "0" not in featcache.open(settings.out).feature("pooled").video_ids


def test_a_file_that_is_gone_keeps_its_features(make: Make, folder: Path) -> None:
    settings = make(source=str(folder / "list.jsonl"), features=(POOLED,))
    (folder / "0.mp4").unlink()
    assert extract(settings).videos_ok == 4


def test_a_lost_commit_record_is_damage_until_the_shard_is_extracted_again(
    make: Make, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make(source=str(folder / "list.jsonl"), features=(POOLED,))
    replace_first(folder)
    extract(settings)
    values = featcache.open(settings.out).feature("pooled").video("0").tobytes()
    record = next(Path(settings.out).glob("g001/commits/pooled/0*.json"))
    kept = record.read_bytes()
    record.unlink()
    assert [problem.path for problem in verify(settings.out).problems] == ["g001/commits/pooled/complete.json"]
    for read in (
        lambda: featcache.open(settings.out).feature("pooled"),
        lambda: featcache.open(settings.out).coverage(),
    ):
        with pytest.raises(CorruptStoreError, match=r"lacks 1 of its 1 commit records, 00000\.json first"):
            read()
    assert extract(settings).videos_ok == 4
    assert "what is lost is written again" in caplog.text
    assert record.read_bytes() == kept
    assert featcache.open(settings.out).feature("pooled").video("0").tobytes() == values
    assert verify(settings.out).ok


def test_a_lost_last_generation_is_noticed(make: Make, folder: Path) -> None:
    settings = make(source=str(folder / "list.jsonl"), features=(POOLED,))
    replace_first(folder)
    extract(settings)
    shutil.rmtree(Path(settings.out) / "g001")
    with pytest.raises(CorruptStoreError, match=r"generation 1 of .* is lost"):
        featcache.open(settings.out)
    assert [problem.what for problem in verify(settings.out).problems if "is lost" in problem.what]
