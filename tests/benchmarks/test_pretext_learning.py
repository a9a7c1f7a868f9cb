"""The benchmark of what pretext tasks learn: it trains, asks, fine-tunes and goes on, and its sums are right."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from featcache.data import motion
from featcache.metrics.comparison import compare
from featcache.metrics.predictions import Predictions, write_predictions

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def learning(monkeypatch):
    """The script."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module("pretext_learning")


def test_a_task_is_trained_asked_and_fine_tuned(learning, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(motion, "PHOTOGRAPHS", motion.PHOTOGRAPHS[:3])
    counts = {"train_per_picture_motion": 1, "test_unseen_per_picture_motion": 1, "num_unseen_pictures": 1}
    for name, num_frames in (("short", 16), ("fast", 32)):
        tiny = motion.MotionSettings(num_frames=num_frames, size=32, gop=1, **counts)
        monkeypatch.setitem(learning.COURSES, name, learning.Course(tiny, 28))
    monkeypatch.setattr(learning, "FINETUNED_CLIPS", 16)
    monkeypatch.setattr(learning, "NUM_SEEN", 16)
    arguments = ["x", "--folder", str(tmp_path), "--tasks", "rspnet", "--seeds", "3", "--labels", "2", "--json"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--set", "training.epochs=1", "training.batch_size=4"])
    learning.main()
    first = capsys.readouterr().out
    answers = json.loads((tmp_path / "rspnet/seed-3" / learning.ANSWERS).read_text())
    assert {split: len(answers[split]["accuracy"]["trained"]) for split in answers} == {
        "test_seen": 2 * 8,
        "test_unseen": 8,
    }
    look = learning.settings_of(tmp_path, "rspnet", seed=3).task.look
    assert look.color is None
    assert not look.tilt_degrees
    before, after = (answers["test_unseen"]["loss"][name] for name in ("untrained", "trained"))
    assert before != after
    monkeypatch.setattr(sys, "argv", [*arguments, "--finished"])
    learning.main()
    assert capsys.readouterr().out == first
    monkeypatch.setattr(learning, "pretrain", pytest.fail)
    monkeypatch.setattr(learning, "finetune", pytest.fail)
    monkeypatch.setattr(sys, "argv", arguments)
    learning.main()
    assert capsys.readouterr().out == first


def test_gains_are_in_standard_errors_of_clips_and_seeds(learning, tmp_path):
    gains = {0: [0.0, 1.0, 1.0, 0.0], 1: [1.0, 1.0, 1.0, 1.0]}
    for seed, trained in gains.items():
        folder = tmp_path / "rotnet" / f"seed-{seed}"
        folder.mkdir(parents=True)
        values = {"accuracy": {"untrained": [0.0] * 4, "trained": trained}}
        (folder / learning.ANSWERS).write_text(json.dumps(dict.fromkeys(learning.SPLITS, values)))
        (folder / "cpu-seconds").write_text(str(10 * seed))
    row = learning.learnt(tmp_path, ["rotnet", "cvrl"], [0, 1, 2])[0]
    clips, seeds = np.var([0.5, 1, 1, 0.5], ddof=1) / 4, np.var([0.5, 1], ddof=1) / 2
    assert row == {
        "": "rotnet, accuracy",
        "photographs": "seen",
        "guess": "25.0",
        "untrained": "0.0 ± 0.0",
        "trained": "75.0 ± 35.4",
        "gain": "+75.0",
        "standard errors": f"{0.75 / np.sqrt(clips + seeds):+.1f}",
        "seeds": 2,
        "CPU s per seed": 5,
    }
    assert learning.standard_error(np.array([gains[0]])) == pytest.approx(np.sqrt(1 / 3 / 4))


def test_fine_tuned_networks_are_compared_as_runs_are(learning, tmp_path):
    rng, classes = np.random.default_rng(0), ("pan_left", "pan_right")
    for name in (learning.SCRATCH, "cvrl"):
        folder = tmp_path / "finetuned" / f"{name}-10" / "seed-0"
        folder.mkdir(parents=True)
        write_predictions(
            folder,
            Predictions(
                videos=tuple(map(str, range(40))), splits=("test_seen",) * 20 + ("test_unseen",) * 20, groups=None,
                label="motion", labels=classes * 20, classes=classes, seeds=(0,),
                scores=rng.random((1, 40, 2)).astype(np.float32),
            ),
        )  # fmt: skip
    rows = learning.fine_tuned(tmp_path, ["cvrl", "rotnet"], [0, 1], [10, 40])
    runs = [tmp_path / "finetuned" / f"{name}-10" / "seed-0" for name in (learning.SCRATCH, "cvrl")]
    wanted = compare(runs).splits
    assert [row["photographs"] for row in rows] == ["seen", "unseen"]
    for row, split in zip(rows, learning.SPLITS, strict=True):
        gain = wanted[split].differences[0]
        assert row["from scratch"] == f"{100 * wanted[split].values[0].value:.1f}"
        assert row["difference"] == f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["rotnet", "cvrl"])
def test_a_thin_network_learns(learning, tmp_path, task):
    learning.learn(tmp_path, task, seed=0)
    answers = json.loads((tmp_path / task / "seed-0" / learning.ANSWERS).read_text())["test_seen"]["accuracy"]
    gains = np.array([answers["trained"]]) - np.array([answers["untrained"]])
    assert gains.mean() > 3 * learning.standard_error(gains)
