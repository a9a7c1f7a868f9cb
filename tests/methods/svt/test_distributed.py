"""Two processes train SVT as one does, and go on where another number of them stopped."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from featcache.config import to_yaml
from featcache.methods.svt.run import TEACHER, pretrain_svt
from featcache.training.checkpoint import NAME
from featcache.training.logs import read_log
from featcache.training.loop import trained_state
from tests.methods.svt.shared_runs import NUM_STEPS, PAIRED, SINGLE, main, settings, write_videos
from tests.training.processes import ROOT, TORCHRUN, environment, together, torchrun

MEASURES = ("loss", "entropy", "mean_entropy", "feature_deviation", "rank")


def same(mine, theirs):
    """Equal up to rounding, each step's line of the log and what is left at the end."""
    lines = [read_log(folder / "seed-0") for folder in (mine, theirs)]
    assert len(lines[0]) == len(lines[1]) == NUM_STEPS
    for one, two in zip(*lines, strict=True):
        assert two["lr"] == one["lr"]
        for name in MEASURES:
            assert two[name] == pytest.approx(one[name], rel=1e-4), f"{name} of step {one['step']}"
    neighbours = [[line.get("knn_top1") for line in each] for each in lines]
    assert neighbours[0] == neighbours[1]
    assert [value is None for value in neighbours[0]] == [True, True, False, False]
    states = [trained_state(folder / "seed-0") for folder in (mine, theirs)]
    assert states[0].step == states[1].step == NUM_STEPS
    assert states[0].identity == states[1].identity
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert_close(states[0].part("module"), states[1].part("module"))


def assert_close(mine, theirs):
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process alone, then two that also go on with a run that one began."""
    folder = tmp_path_factory.mktemp("runs")
    write_videos(folder)
    pretrain_svt(settings(folder, "one"))

    def kill(stage, done, total, note="", num_failed=0):
        if (stage, done) == ("seed 0", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_svt(settings(folder, "one-then-two"), on_stage=kill)
    assert trained_state(folder / "one-then-two" / "seed-0").step == 2
    together(main, folder)
    return folder


def test_two_processes_train_as_one(runs):
    same(runs / "one", runs / "two")
    first, *_, last = read_log(runs / "two" / "seed-0")
    assert first["loss"] != pytest.approx(last["loss"], rel=1e-3), "something was learned"
    alone, both = (load_file(runs / name / "seed-0" / TEACHER) for name in ("one", "two"))
    assert_close(alone, both)


def test_a_run_that_one_process_began_is_ended_by_two(runs):
    same(runs / "one", runs / "one-then-two")


def test_a_run_that_two_processes_began_is_ended_by_one(runs):
    assert trained_state(runs / "two-then-one" / "seed-0").step == 2
    pretrain_svt(settings(runs, "two-then-one"))
    same(runs / "one", runs / "two-then-one")


def test_one_teacher_view_is_the_same_for_all_and_blocks_may_be_recomputed(runs):
    pretrain_svt(settings(runs, "single-one", **SINGLE))
    same(runs / "single-one", runs / "single-two")


def test_clips_and_their_reversals_are_shared_too(runs):
    pretrain_svt(settings(runs, "paired-one", **PAIRED))
    same(runs / "paired-one", runs / "paired-two")


def test_only_the_first_process_writes_and_speaks(runs):
    said = [(runs / f"rank-{rank}.log").read_text() for rank in range(2)]
    assert [text.count("videos are shorter than some of their views") for text in said] == [4, 0]  # once a run
    assert sorted(path.name for path in (runs / "two").iterdir()) == ["config.yaml", "result.json", "seed-0"]
    assert len(list((runs / "two" / "seed-0").glob("checkpoint-*"))) == 1
    result = json.loads((runs / "two" / "result.json").read_text())
    assert result["seeds"]["0"]["step"] == NUM_STEPS


def errors(text):
    return re.findall(r"^error: .*$", text, flags=re.MULTILINE)


@pytest.mark.slow
def test_a_video_that_breaks_for_one_process_stops_both_with_one_sentence(tmp_path):
    write_videos(tmp_path)
    (tmp_path / "run.yaml").write_text(to_yaml(settings(tmp_path, "run")))
    (tmp_path / "videos" / "3.mp4").write_bytes(b"cut off")
    done = torchrun("run", tmp_path / "run.yaml")
    assert done.returncode != 0
    (sentence,) = errors(done.stderr)
    assert re.search(r"changed: '3\.mp4' passed the scan and cannot be used now", sentence)
    assert done.stderr.count("Traceback") == 1, "torchrun's own"


@pytest.mark.slow
def test_what_every_process_finds_is_said_once(tmp_path):
    write_videos(tmp_path)
    done = torchrun("train", "svt", tmp_path / "videos", "--size", "tiny", "--device", "cpu", "--batch-size", 5)
    (sentence,) = errors(done.stderr)
    assert "training.batch_size is 5, which 2 processes cannot share equally" in sentence


@pytest.mark.slow
def test_a_process_that_is_killed_takes_the_other_with_it_and_the_run_goes_on(tmp_path):
    write_videos(tmp_path)
    pretrain_svt(settings(tmp_path, "one"))
    (tmp_path / "run.yaml").write_text(to_yaml(settings(tmp_path, "two")))
    command = [*TORCHRUN, "run", str(tmp_path / "run.yaml")]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        deadline = time.monotonic() + 120
        while not (tmp_path / "two" / "seed-0" / NAME).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        run.communicate(timeout=60)
        assert run.returncode != 0
    assert trained_state(tmp_path / "two" / "seed-0").step < NUM_STEPS
    done = torchrun("run", tmp_path / "run.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seeds"]["0"]["step"] == NUM_STEPS
    same(tmp_path / "one", tmp_path / "two")
