"""Two processes train every method as one does, and a run goes on where the same or another number of them stopped."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from featcache.config import to_yaml
from featcache.extract.run import extract
from featcache.loaders.usable import KEPT
from featcache.methods.advise.tuning import ORDERS
from featcache.testing.videos import write_video
from featcache.training.logs import read_log, read_steps
from featcache.training.loop import trained_state
from tests.methods.shared_runs import METHODS, NUM_STEPS, frame_bank, kill, main, main_online, online, run, write_videos
from tests.training.processes import together, torchrun

ROUNDING = {
    "pretext": 0.05,
    "r3d50": 0.05,
}
"""What may become of rounding in a gradient, if not 1e-4; deep norms of few values enlarge it."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process alone, then two that also go on with a run that one began."""
    folder = tmp_path_factory.mktemp("runs")
    write_videos(folder)
    extract(frame_bank(folder))
    for method in METHODS:
        run(method, folder, "one")
        with pytest.raises(KeyboardInterrupt):
            run(method, folder, "one-then-two", on_stage=kill)
    together(main, folder)
    return folder


def seeds(folder):
    """The folders of a run in which something was trained."""
    return sorted(path.parent.relative_to(folder) for path in folder.glob("**/seed-?/checkpoint.json"))


def distance(theirs, mine):
    """The length of a difference, as a share of what it is a difference from."""
    return float((theirs.double() - mine.double()).norm() / (mine.double().norm() + 1e-4))


def same(mine, theirs, *, num_steps=NUM_STEPS):
    """Equal up to rounding: each step's line of the log, and what is left at the end."""
    assert seeds(mine) == seeds(theirs) != []
    for seed in seeds(mine):
        lines = [read_steps(folder / seed) for folder in (mine, theirs)]
        assert len(lines[0]) == len(lines[1]) == num_steps
        for one, two in zip(*lines, strict=True):
            assert one.keys() == two.keys()
            for name in one.keys() - {"items_per_second", "wait_share"}:
                assert two[name] == pytest.approx(one[name], rel=1e-4), f"{name} of step {one['step']} of {seed}"
        last = [read_log(folder / seed)[-1] for folder in (mine, theirs)]
        assert last[0].get("knn_top1") == last[1].get("knn_top1")
        states = [trained_state(folder / seed) for folder in (mine, theirs)]
        assert states[0].step == states[1].step == num_steps
        assert states[0].identity == states[1].identity
        assert states[0].tensors.keys() == states[1].tensors.keys()
        for name, tensor in states[0].tensors.items():
            allowed = ROUNDING.get(mine.name.partition("-")[0], 1e-4) if name.startswith("optimiser") else 1e-4
            assert distance(states[1].tensors[name], tensor) < allowed, name


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one(runs, method):
    same(runs / f"{method}-one", runs / f"{method}-two")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_one_process_began_is_ended_by_two(runs, method):
    same(runs / f"{method}-one", runs / f"{method}-one-then-two")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_two_processes_began_is_ended_by_one(runs, method):
    here = runs / f"{method}-two-then-one"
    (begun,) = here.glob("**/checkpoint.json")
    assert trained_state(begun.parent).step == 2
    run(method, runs, "two-then-one")
    same(runs / f"{method}-one", here)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_that_were_killed_go_on_with_the_same_bits(runs, method):
    straight, killed = runs / f"{method}-two", runs / f"{method}-two-again"
    assert seeds(straight) == seeds(killed) != []
    for seed in seeds(straight):
        states = [trained_state(folder / seed).tensors for folder in (straight, killed)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


@pytest.mark.parametrize("method", METHODS)
def test_only_the_first_process_writes(runs, method):
    one, two = (sorted(path.name for path in (runs / f"{method}-{name}").iterdir()) for name in ("one", "two"))
    assert one == two
    for seed in seeds(runs / f"{method}-two"):
        assert len(list((runs / f"{method}-two" / seed).glob("checkpoint-*"))) == 1
        assert len(read_log(runs / f"{method}-two" / seed)) == 2
    results = [json.loads((runs / f"{method}-{name}" / "result.json").read_text()) for name in ("one", "two")]
    assert results[0].keys() == results[1].keys()


def test_every_test_video_of_a_temporal_module_is_scored_once(runs):
    results = [json.loads((runs / f"tmm-{name}" / "result.json").read_text()) for name in ("one", "two")]
    for split, num in (("test", 4), ("rare", 1)):  # of which the second process has two and none
        assert results[1]["coverage"][split] == {"ok": num, "failed": 0, "total": num, "unlabelled": 0}
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[1]["metrics"]["scratch"]["test"].keys() == set(ORDERS)
    tables = [pq.read_table(runs / f"tmm-{name}" / "predictions.parquet") for name in ("one", "two")]
    assert tables[0]["video"].to_pylist() == tables[1]["video"].to_pylist()
    scores = [np.array(table["scores"].to_pylist()) for table in tables]
    assert scores[0].shape == (5, 2)
    assert len({tuple(row) for row in scores[0]}) == 5
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_that_encode_in_the_loop_train_as_one_and_the_first_scans(tmp_path):
    write_videos(tmp_path)
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    (tmp_path / "bank.yaml").write_text(to_yaml(frame_bank(tmp_path, source="videos")))
    function, settings = online(tmp_path, "online-one")
    function(settings)
    together(main_online, tmp_path)
    same(tmp_path / "online-one", tmp_path / "online-two", num_steps=6)
    assert (tmp_path / "online-two" / KEPT).exists()
    assert json.loads((tmp_path / "stages-0.json").read_text()) == ["scan", "seed 0"]
    assert json.loads((tmp_path / "stages-1.json").read_text()) == []
    said = [(tmp_path / f"rank-{rank}.log").read_text() for rank in range(2)]
    assert [text.count("left out of") for text in said] == [1, 0]


@pytest.mark.slow
def test_what_processes_cannot_share_is_said_once(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "0.mp4", num_frames=20)
    task = ("train", "pretext", tmp_path / "videos", "--task", "rotnet", "--backbone", "svt-tiny", "--frames", 2)
    flags = ("--input-size", 32, "--batch-size", 2, "--out", tmp_path / "run")
    for device, words in (
        ("cpu", "2 processes share each batch of videos, and there are 1 to train on"),
        ("cuda", "cuda"),
    ):
        done = torchrun(*task, *flags, "--device", device)
        assert done.returncode != 0
        (sentence,) = re.findall(r"^error: .*$", done.stderr, flags=re.MULTILINE)
        assert words in sentence
        assert done.stderr.count("Traceback") == 1, "torchrun's own"
        assert not (tmp_path / "run" / "config.yaml").exists()
