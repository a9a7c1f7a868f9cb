"""What the benchmarks of SVT count, on real encoded videos."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from featcache.data.decoding import open_video
from featcache.metrics.predictions import Predictions, write_predictions
from featcache.testing.videos import write_video

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Modules of the folder of scripts, by name."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module


def test_decoded_frames_are_counted(benchmark, tmp_path):
    step = benchmark("svt_step")
    path = tmp_path / "a.mp4"
    write_video(path, num_frames=60, options={"g": "60", "bf": "0", "sc_threshold": "0"})
    with open_video(path) as reader:
        views = step.views_of(path, reader)
    ends = [max(view.frames) + 1 for view in views]
    # One key frame: whoever wants a frame decodes all before it, and a view that begins where the decoder stands or a
    # little further on, saves that.
    assert max(ends) - 1 <= step.decoded(path, step.read_together) <= 60
    assert step.decoded(path, step.read_together) < step.decoded(path, step.read_apart) <= sum(ends)
    plain = step.PyAVReader._decode
    step.decoded(path, step.read_together)
    assert step.PyAVReader._decode is plain


def test_seeds_of_a_network_are_one_row(benchmark, tmp_path):
    motion = benchmark("svt_motion")
    classes = ("pan_left", "pan_right", "zoom_in")

    def result(name, value, predicted, unseen=0):
        folder = tmp_path / name
        folder.mkdir()
        labels = ("pan_left", "pan_left", "zoom_in", "pan_right")
        scores = np.eye(len(classes), dtype=np.float32)[[classes.index(each) for each in predicted]]
        write_predictions(
            folder,
            Predictions(
                videos=tuple("abcd"), splits=("test_seen",) * 4, groups=None, label="motion", labels=labels,
                classes=classes, seeds=(0,), scores=scores[None],
            ),
        )  # fmt: skip
        numbers = {"metrics": {"top1": {"value": value}}, "num_videos": 4, "num_unseen": unseen}
        return {"splits": {"test_seen": numbers}, "out": str(folder)}

    probes = {
        "motion": {
            "kNN, trained-0": result("a", 0.5, ["pan_left", "pan_right", "zoom_in", "zoom_in"]),
            "kNN, trained-1": result("b", 0.75, ["pan_left", "pan_left", "zoom_in", "zoom_in"]),
            "kNN, untrained-0": result("c", 0.25, ["pan_right", "zoom_in", "zoom_in", "pan_left"]),
        },
        "picture": {"kNN, trained-0": result("d", 0.0, ["pan_left"] * 4, unseen=4)},
    }
    assert motion.probe_rows(probes) == [
        {
            "": "kNN, trained",
            "motion, seen": "62.5 ± 17.7",
            "axis, seen": "75.0 ± 0.0",
            "direction, seen": "83.3 ± 23.6",
        },
        {"": "kNN, untrained", "motion, seen": "25.0", "axis, seen": "75.0", "direction, seen": "33.3"},
    ]


def test_lines_of_a_log_are_means_over_seeds(benchmark):
    motion = benchmark("svt_motion")

    def line(epoch, seed):
        return {"epoch": epoch + 1.0, **dict.fromkeys(motion.MEASURES, epoch + seed)}

    logs = [[line(epoch, seed) for epoch in range(7)] for seed in (0, 2)]
    rows = motion.log_rows(logs, num_lines=3)
    assert [row["epoch"] for row in rows] == [1, 4, 7]
    assert [row["loss"] for row in rows] == [1, 4, 7]
    assert motion.log_rows(logs, num_lines=1)[0]["epoch"] == 1
