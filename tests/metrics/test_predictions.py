"""Predictions on disk and comparisons of runs: against plain counting, and what is refused."""

import csv
import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from featcache.errors import ConfigError
from featcache.metrics.comparison import compare, joined
from featcache.metrics.predictions import Predictions, read_outcomes, write_predictions
from featcache.metrics.settings import IntervalSettings

QUICK = IntervalSettings(num_resamples=200)


def predictions(*, seed=0, num_videos=40, seeds=(0, 1, 2), skill=1.0, groups=None, split="test") -> Predictions:
    rng = np.random.default_rng(seed)
    truth = np.arange(num_videos) % 3
    scores = rng.normal(size=(len(seeds), num_videos, 3))
    scores[:, np.arange(num_videos), truth] += skill
    return Predictions(
        videos=tuple(f"video{number}" for number in range(num_videos)),
        splits=(split,) * num_videos,
        groups=groups,
        label="label",
        labels=tuple("abc"[place] for place in truth),
        classes=("a", "b", "c"),
        seeds=tuple(seeds),
        scores=scores,
    )


def test_a_row_for_each_seed_and_video(tmp_path):
    mine = predictions(groups=np.arange(40) // 4)
    mine.scores[0, 0] = [-np.inf, 1.0, 1.0]  # the truth, a, cannot win; the first of equals does
    write_predictions(tmp_path, mine)
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert len(rows) == 120
    assert rows[0]["predicted"] == "b"
    assert (rows[0]["correct"], rows[0]["rank"]) == (False, 3)
    for place, row in enumerate(rows):
        seed, video = divmod(place, 40)
        scores = mine.scores[seed, video]
        assert (row["seed"], row["split"], row["video"], row["group"]) == (seed, "test", f"video{video}", video // 4)
        assert row["scores"] == scores.astype(np.float32).tolist()
        assert row["predicted"] == "abc"[int(scores.argmax())]
        assert row["correct"] == (row["predicted"] == row["label"] == mine.labels[video])


def test_a_confusion_matrix_counts_each_seed(tmp_path):
    mine = predictions(split="test / unseen")
    write_predictions(tmp_path, mine)
    with (tmp_path / "confusion-test-unseen.csv").open() as file:
        heading, *rows = csv.reader(file)
    assert heading == ["label", "a", "b", "c"]
    plain = {name: dict.fromkeys("abc", 0) for name in "abc"}
    for scores in mine.scores:
        for label, own in zip(mine.labels, scores, strict=True):
            plain[label]["abc"[int(own.argmax())]] += 1
    assert rows == [[name, *(str(plain[name][other]) for other in "abc")] for name in "abc"]


def test_numbers_are_kept_as_numbers(tmp_path):
    mine = dataclasses.replace(
        predictions(), labels=tuple(repr(0.1 * place) for place in range(40)), classes=(), scores=np.ones((3, 40, 1))
    )
    write_predictions(tmp_path, mine)
    found = read_outcomes(tmp_path)
    assert found.is_numbers
    np.testing.assert_array_equal(
        found.values, np.square(1 - np.array([float(text) for text in mine.labels]))[None].repeat(3, 0)
    )
    assert not list(tmp_path.glob("confusion*"))


def test_a_retrieval_keeps_the_number_of_nearer_videos_and_compares_by_r_at_1(tmp_path):
    scores = -np.tile([0.0, 1.0, np.inf], (1, 40, 1))
    scores[0, :6] = [-4.0, -np.inf, 0.0]
    mine = dataclasses.replace(predictions(seeds=(0,)), scores=scores, ks=(1, 5))
    write_predictions(tmp_path / "mine", mine)
    rows = pq.read_table(tmp_path / "mine" / "predictions.parquet").to_pylist()
    assert [row["rank"] for row in rows[:9]] == [4, None, 0, 4, None, 0, 0, 1, None]
    assert [row["correct"] for row in rows[:9]] == [False, False, True, False, False, True, True, False, False]
    assert [row["predicted"] for row in rows[5:7]] == ["c", "a"]
    write_predictions(tmp_path / "same", mine)
    both = compare([tmp_path / "mine", tmp_path / "same"], intervals=QUICK)
    assert both.splits["test"].metric == "r@1"
    assert both.splits["test"].values[0].value == pytest.approx(np.mean([row["correct"] for row in rows]))
    assert both.summary().tables[0].columns[2] == "r@1"
    write_predictions(tmp_path / "classes", predictions(seeds=(0,)))
    assert compare([tmp_path / "mine", tmp_path / "classes"], intervals=QUICK).splits["test"].metric == "top1"


def test_runs_are_paired_by_video_whatever_their_order(tmp_path):
    one, other = predictions(skill=1.0), predictions(seed=1, skill=3.0)
    order = np.random.default_rng(0).permutation(40)[:30]
    fewer = dataclasses.replace(
        other,
        videos=tuple(other.videos[place] for place in order),
        splits=("test",) * 30,
        labels=tuple(other.labels[place] for place in order),
        scores=other.scores[:, order],
    )
    for name, each in (("one", one), ("other", fewer)):
        write_predictions(tmp_path / name, each)
    found = compare([tmp_path / "one", tmp_path / "other"], intervals=QUICK)
    right = [(each.predicted == each.truth)[:, np.sort(order)] for each in (one, other)]
    part = found.splits["test"]
    assert part.num_videos == 30
    assert part.values[0].value == pytest.approx(right[0].mean())
    assert part.differences[0].value == pytest.approx(right[1].mean() - right[0].mean())
    assert part.differences[0].low <= part.differences[0].value <= part.differences[0].high
    assert "10 of the 40 videos" in found.notes[0]
    assert compare([tmp_path / "one"] * 2, intervals=QUICK).splits["test"].differences[0] == dataclasses.replace(
        part.differences[0], value=0.0, low=0.0, high=0.0
    )


def test_pairing_narrows_the_interval_and_groups_widen_it(tmp_path):
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 5)
    truth = np.zeros(200, np.int64)
    common = np.repeat(rng.normal(size=40), 5)  # how hard a recording is, for every run

    def run(name, gain, groups):
        margin = common + gain + 0.1 * rng.normal(size=(1, 200))
        scores = np.stack([margin, np.zeros_like(margin)], axis=2)
        each = Predictions(
            videos=tuple(map(str, range(200))),
            splits=("test",) * 200,
            groups=groups,
            label="label",
            labels=tuple("ab"[place] for place in truth),
            classes=("a", "b"),
            seeds=(0,),
            scores=scores,
        )
        write_predictions(tmp_path / name, each)

    run("alone", 0.0, None)
    run("alone better", 0.2, None)
    run("grouped", 0.0, group)
    run("grouped better", 0.2, group)
    alone = compare([tmp_path / "alone", tmp_path / "alone better"], intervals=QUICK).splits["test"]
    grouped = compare([tmp_path / "grouped", tmp_path / "grouped better"], intervals=QUICK).splits["test"]
    width = {name: part.differences[0].high - part.differences[0].low for name, part in (("a", alone), ("g", grouped))}
    assert width["a"] < alone.values[0].high - alone.values[0].low
    assert width["g"] > 1.3 * width["a"]
    assert (alone.num_groups, grouped.num_groups) == (None, 40)


def test_other_seeds_are_drawn_by_themselves(tmp_path):
    write_predictions(tmp_path / "one", predictions())
    write_predictions(tmp_path / "other", predictions(seeds=(0,)))
    found = compare([tmp_path / "one", tmp_path / "other"], intervals=QUICK)
    assert "different seeds" in found.notes[-1]


def test_runs_of_one_kind_are_one_run_with_the_seeds_of_all(tmp_path):
    whole = predictions(seeds=(4, 7), groups=np.arange(40) // 4)
    write_predictions(tmp_path / "whole", whole)
    parts = []
    for place, seed in enumerate(whole.seeds):
        order = np.random.default_rng(seed).permutation(40)[: 40 - place]  # another order, and one video less
        taken = {name: tuple(getattr(whole, name)[i] for i in order) for name in ("videos", "splits", "labels")}
        part = dataclasses.replace(
            whole, seeds=(seed,), scores=whole.scores[place : place + 1, order], groups=whole.groups[order], **taken
        )
        write_predictions(tmp_path / str(seed), part)
        parts.append(read_outcomes(tmp_path / str(seed)))
    one, both = read_outcomes(tmp_path / "whole"), joined(parts)
    kept = [one.keys.index(key) for key in both.keys]
    assert (both.seeds, len(both.keys), set(both.keys)) == ((4, 7), 39, set(parts[1].keys))
    assert both.labels == tuple(one.labels[place] for place in kept)
    np.testing.assert_array_equal(both.groups, one.groups[kept])
    np.testing.assert_array_equal(both.values, one.values[:, kept])
    with pytest.raises(ConfigError, match="no scored video in common"):
        joined([one, dataclasses.replace(one, keys=tuple((f"{split}2", video) for split, video in one.keys))])


def test_what_does_not_compare_is_refused(tmp_path):
    mine = predictions()
    write_predictions(tmp_path / "mine", mine)
    write_predictions(tmp_path / "elsewhere", dataclasses.replace(mine, splits=("valid",) * 40))
    write_predictions(tmp_path / "relabelled", dataclasses.replace(mine, labels=("a",) * 40))
    numbers = dataclasses.replace(mine, labels=("1.0",) * 40, classes=(), scores=np.ones((3, 40, 1)))
    write_predictions(tmp_path / "numbers", numbers)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "predictions.parquet").write_bytes(b"PAR1")
    for other, words in {
        "elsewhere": "no scored video in common",
        "relabelled": "'video1' is 'b' in",
        "numbers": "one predicts numbers",
        "torn": "damaged",
        "nowhere": "holds no predictions.parquet",
    }.items():
        with pytest.raises(ConfigError, match=words):
            compare([tmp_path / "mine", tmp_path / other], intervals=QUICK)
    with pytest.raises(ConfigError, match="two or more"):
        compare([tmp_path / "mine"])
