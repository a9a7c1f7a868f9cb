"""Rows of a benchmark: gains over the row of the same network, and what noise takes from runs of several seeds."""

import numpy as np
import pytest

from featcache.metrics.predictions import Predictions, write_predictions
from featcache.metrics.robustness import robustness
from featcache.metrics.settings import IntervalSettings
from featcache.report.arms import Arm, arms_table, split_column
from featcache.report.paired import drop_cells
from featcache.report.tables import Cell

INTERVALS = IntervalSettings(num_resamples=200)
SPLITS = ("seen",) * 12 + ("unseen",) * 8


def right(share, *, seed):
    """Whether each of 20 videos is right."""
    return np.random.default_rng(seed).random(20) < share


def write(folder, outcomes, *, seed=0):
    """A run of one seed with two classes, whose videos are all of the first."""
    scores = np.stack([outcomes, ~outcomes], axis=-1)[None].astype(np.float64)
    write_predictions(
        folder,
        Predictions(
            videos=tuple(f"v{number}" for number in range(20)),
            splits=SPLITS,
            groups=None,
            label="label",
            labels=("a",) * 20,
            classes=("a", "b"),
            seeds=(seed,),
            scores=scores,
        ),
    )
    return str(folder)


def test_what_noise_takes_from_runs_of_two_seeds_is_that_of_the_accuracies_by_hand(tmp_path):
    cells = {"clean": 0.9, "shot-3": 0.6, "speckle-3": 0.4}
    outcomes = {
        (name, seed): right(share, seed=[seed, place])
        for place, (name, share) in enumerate(cells.items())
        for seed in (0, 1)
    }
    for (name, seed), values in outcomes.items():
        write(tmp_path / str(seed) / name, values, seed=seed)
    runs = [str(tmp_path / str(seed)) for seed in (0, 1)]
    found = drop_cells(runs, clean="clean", noises=["shot-3", "speckle-3"], intervals=INTERVALS)
    assert list(found) == ["seen", "unseen"]
    for split, part in (("seen", slice(0, 12)), ("unseen", slice(12, 20))):
        clean, shot, speckle = (
            np.stack([outcomes[name, seed][part] for seed in (0, 1)]).astype(float) for name in cells
        )
        by_hand = 100 * (1 - (shot.mean() + speckle.mean()) / 2 / clean.mean())
        assert found[split].value == pytest.approx(by_hand)
        drop = robustness(clean, (shot + speckle) / 2, intervals=INTERVALS).drop
        assert (found[split].low, found[split].high) == pytest.approx((100 * drop.low, 100 * drop.high))


def test_nothing_right_has_nothing_to_lose(tmp_path):
    for name in ("clean", "shot-3"):
        write(tmp_path / name, np.zeros(20, bool))
    found = drop_cells([str(tmp_path)], clean="clean", noises=["shot-3"], intervals=INTERVALS)
    assert set(found.values()) == {Cell(value=None)}


def test_each_row_is_compared_with_that_of_its_own_network(tmp_path):
    shares = {("x", "scratch"): 0.2, ("x", "task"): 0.9, ("y", "scratch"): 0.9, ("y", "task"): 0.2}
    known = {"s": Cell(value=3.0)}
    arms = []
    for place, ((network, kind), share) in enumerate(shares.items()):
        run = write(tmp_path / network / kind, right(share, seed=place))
        numbers = known if kind == "task" else {}
        arms.append(Arm(network=network, kind=kind, runs={"tuned": [run]}, numbers=numbers, note=kind))
    table = arms_table(arms, title="T", bases={"tuned": "scratch"}, intervals=INTERVALS)
    assert table.columns == ("tuned, seen", "tuned, unseen", "s")
    found = {name: cells for name, _, _, cells in table.rows}
    assert list(found) == ["x, scratch", "x, task", "y, scratch", "y, task"]
    assert found["x, scratch"]["tuned, seen"].gain is None
    for network, sign in (("x", 1), ("y", -1)):
        base, own = (found[f"{network}, {kind}"]["tuned, seen"] for kind in ("scratch", "task"))
        assert own.gain.value == pytest.approx(own.value - base.value)
        assert sign * own.gain.value > 0
        assert found[f"{network}, task"]["s"] == known["s"]
        assert found[f"{network}, scratch"]["s"] == Cell(value=None)
    first, second = table.summary_tables(notes=True)
    assert (first.columns, second.columns) == (("", "tuned, seen", "tuned, unseen", "note"), ("", "s"))
    assert [row[0] for row in second.rows] == ["x, task", "y, task"]


def test_a_single_split_is_not_named():
    assert split_column("tuned", "test", ("test",)) == "tuned"
    assert split_column("tuned", "test", ("test", "val")) == "tuned, test"
