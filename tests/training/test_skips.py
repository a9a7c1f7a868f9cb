"""The ledger of damaged videos: one content for any number of processes and kills."""

import json

import pytest

from featcache.errors import CorruptStoreError, VideoError
from featcache.training import checkpoint
from featcache.training.skips import (
    NAME,
    NOTHING_REPLACED,
    Replaced,
    Skip,
    SkipLedger,
    begin_skips,
    merge_skips,
    read_skips,
)


def skip(epoch, video, instead="sound"):
    return Skip(epoch=epoch, video=video, reason="frame 3 is damaged", instead=instead)


def ledgers(folder, *, max_damaged=0.5, num_videos=8, size=2):
    given = {"run": folder / "run", "num_videos": num_videos, "max_damaged": max_damaged}
    return [SkipLedger(folder, rank=rank, **given) for rank in range(size)]


def begun(folder):
    """A folder with a checkpoint, so that its run goes on."""
    (folder / checkpoint.NAME).touch()
    return folder


def test_entries_of_all_processes_are_merged_once_each_and_in_order(tmp_path):
    alone, whole = tmp_path / "alone", tmp_path / "whole"
    (single,) = ledgers(whole, size=1)
    for each in (skip(0, "b"), skip(0, "a"), skip(1, "b")):
        single.add(each)
    merge_skips(whole)
    first, second = ledgers(alone)
    second.add(skip(0, "b"))
    first.add(skip(0, "a"))
    second.add(skip(0, "b"))  # a batch that was decoded, and not trained on before a kill
    second.add(skip(1, "b"))
    assert sorted(path.name for path in alone.iterdir()) == ["skipped-1.jsonl", NAME]
    assert read_skips(alone) == (skip(0, "a"), skip(0, "b"), skip(1, "b"))
    assert merge_skips(alone) == {"a": 1, "b": 2}
    assert [path.name for path in alone.iterdir()] == [NAME]
    assert (alone / NAME).read_bytes() == (whole / NAME).read_bytes()
    assert [json.loads(line)["video"] for line in (alone / NAME).read_text().splitlines()] == ["a", "b", "b"]


def test_a_line_that_a_kill_has_cut_off_is_dropped_and_another_fault_is_a_sentence(tmp_path):
    first, _ = ledgers(begun(tmp_path))
    first.add(skip(0, "a"))
    with (tmp_path / "skipped-1.jsonl").open("w") as file:
        file.write('{"epoch": 0, "vid')
    begin_skips(tmp_path)
    assert not (tmp_path / "skipped-1.jsonl").exists()
    assert read_skips(tmp_path) == (skip(0, "a"),)
    for damage in ("{}\n", "[]\n", "3\n", "{\n"):
        (tmp_path / NAME).write_text(damage)
        with pytest.raises(CorruptStoreError, match=r"skipped\.jsonl is damaged; restore or remove it"):
            read_skips(tmp_path)


def test_a_run_that_begins_anew_has_no_entries_of_another(tmp_path):
    first, second = ledgers(tmp_path)
    first.add(skip(0, "a"))
    second.add(skip(0, "b"))
    begin_skips(tmp_path)
    assert not any(tmp_path.iterdir())
    assert merge_skips(tmp_path) == {}
    assert not any(tmp_path.iterdir()), "no file where nothing was skipped"
    begin_skips(tmp_path / "not there yet")


def test_the_limit_is_over_all_processes_and_names_a_video(tmp_path):
    first, second = ledgers(tmp_path, max_damaged=0.25)
    first.add(skip(0, "a"))
    second.add(skip(0, "b"))
    second.add(skip(1, "b"))  # the same video again
    for ledger in (first, second):
        with pytest.raises(
            VideoError, match=r"3 of 8 .* max_damaged 0\.25 allows 2, e\.g\. 'c' \(frame 3 .*--out .*run"
        ):
            ledger.add(skip(1, "c"))
    assert {each.video for each in read_skips(tmp_path)} == {"a", "b"}
    (strict,) = ledgers(tmp_path / "strict", max_damaged=0.0, size=1)
    with pytest.raises(VideoError, match=r"1 of 8 training videos .* max_damaged 0 allows 0"):
        strict.add(skip(0, "a"))
    assert not (tmp_path / "strict").exists()
    assert [each.limit for each in ledgers(tmp_path, max_damaged=0.29, num_videos=100)] == [29, 29]


def test_the_first_of_a_run_is_a_warning(tmp_path, caplog):
    first, second = ledgers(tmp_path)
    second.add(skip(0, "a", instead="d"))
    first.add(skip(0, "b"))
    second.add(skip(1, "a"))
    (told,) = caplog.messages
    assert told.startswith("'a' cannot be decoded (frame 3 is damaged); 'd' takes its place.")
    assert told.endswith(f"{tmp_path / NAME}, and only counted from now on")


def test_what_was_replaced_is_counted_over_seeds():
    assert Replaced.of([{"a": 2, "b": 1}, {}, {"a": 3}]) == Replaced(num_videos=2, num_times=6)
    assert Replaced.of([]) == NOTHING_REPLACED
    assert NOTHING_REPLACED.facts() == {}
    told = Replaced(num_videos=2, num_times=6).facts()
    assert told == {"replaced": "2 damaged videos, 6 times; seed-N/skipped.jsonl names them"}
