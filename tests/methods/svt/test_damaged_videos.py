"""A run with damaged videos: two processes, and a kill, leave the ledger and the weights of one straight run."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from featcache.config import parse, read_mapping, to_yaml
from featcache.loaders.stand_ins import StandIns
from featcache.methods.svt.module import build_module
from featcache.methods.svt.run import TEACHER, pretrain_svt
from featcache.methods.svt.settings import SvtSettings
from featcache.training.loop import trained_state
from featcache.training.skips import NAME, read_skips
from tests.methods.svt.damaged_runs import main, settings, write_videos
from tests.training.processes import ROOT, TORCHRUN, environment, together, torchrun

ROUNDING = 1e-4


def same(straight, other):
    """The same entries to the byte, and weights that are equal up to rounding."""
    ledgers = [(folder / "seed-0" / NAME).read_bytes() for folder in (straight, other)]
    assert ledgers[0] == ledgers[1]
    assert [path.name for path in (other / "seed-0").glob("skipped*")] == [NAME]
    results = [json.loads((folder / "result.json").read_text()) for folder in (straight, other)]
    assert results[0]["replaced"] == results[1]["replaced"]
    assert trained_state(straight / "seed-0").step == trained_state(other / "seed-0").step
    assert (other / "seed-0" / TEACHER).exists()
    assert distance(straight, other) < ROUNDING


def distance(straight, other):
    """Distance of the weights of two runs, as a share of the way that those of the first have gone."""
    chosen = parse(SvtSettings, read_mapping(straight / "config.yaml"))
    start = build_module(chosen, seed=0).state_dict()
    ends = [trained_state(folder / "seed-0").part("module") for folder in (straight, other)]
    apart, gone = (
        torch.cat([(one[name] - ends[0][name]).flatten().double() for name in start]).norm() for one in (ends[1], start)
    )
    return float(apart / gone)


def test_two_processes_and_a_run_that_goes_on_skip_the_same_videos(tmp_path, monkeypatch):
    damaged = write_videos(tmp_path, num_videos=60, num_damaged=3)
    pretrain_svt(settings(tmp_path, "one"))
    skips = read_skips(tmp_path / "one" / "seed-0")
    assert {skip.epoch for skip in skips} == {0, 1}
    assert {skip.video for skip in skips} == damaged
    together(main, tmp_path)
    same(tmp_path / "one", tmp_path / "two")
    left = tmp_path / "two-then-one"
    assert trained_state(left / "seed-0").step == 8
    assert {path.name for path in (left / "seed-0").glob("skipped*")} == {NAME, "skipped-1.jsonl"}, "both saw some"
    pretrain_svt(settings(tmp_path, "two-then-one"))
    same(tmp_path / "one", left)
    candidates = StandIns.candidates
    monkeypatch.setattr(
        StandIns, "candidates", lambda self, video, *, epoch: reversed(list(candidates(self, video, epoch=epoch)))
    )
    pretrain_svt(settings(tmp_path, "others"))
    assert distance(tmp_path / "one", tmp_path / "others") > 10 * ROUNDING, "other videos would show"
    assert (tmp_path / "two" / "videos.parquet").exists()
    assert int((tmp_path / "sent").read_text()) < 2000, "no process is sent the manifest"


def killed(command, folder, *, step):
    """Start a command of two processes and kill one of them when a checkpoint of that step is there."""
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        deadline = time.monotonic() + 600
        while (done := steps_done(folder)) < step:
            assert time.monotonic() < deadline
            assert run.poll() is None, run.stderr.read().decode()
            time.sleep(0.05)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        run.communicate(timeout=120)
        assert run.returncode != 0
    return done


def steps_done(folder):
    path = folder / "seed-0" / "checkpoint.json"
    return json.loads(path.read_text())["step"] if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_five_thousand_videos_of_which_one_in_a_hundred_is_damaged_and_two_kills(tmp_path):
    damaged = write_videos(tmp_path, num_videos=5000, num_damaged=50)
    training = {"batch_size": 50, "epochs": 2, "checkpoint_seconds": 2.0}
    started = time.monotonic()
    straight = pretrain_svt(settings(tmp_path, "straight", lr=0.01, training=training))
    seconds = {"straight": time.monotonic() - started}
    (tmp_path / "run.yaml").write_text(to_yaml(settings(tmp_path, "killed", lr=0.01, training=training)))
    command = [*TORCHRUN, "run", str(tmp_path / "run.yaml")]
    stops = [killed(command, tmp_path / "killed", step=step) for step in (60, 160)]
    done = torchrun("run", tmp_path / "run.yaml", "--json")
    seconds["killed twice"] = time.monotonic() - started - seconds["straight"]
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["seeds"]["0"]["step"] == 200
    skips = read_skips(tmp_path / "straight" / "seed-0")
    assert {skip.video for skip in skips} == damaged
    assert result["replaced"] == {"num_videos": 50, "num_times": len(skips)}
    assert straight.replaced.num_times == len(skips)
    same(tmp_path / "straight", tmp_path / "killed")
    apart = distance(tmp_path / "straight", tmp_path / "killed")
    print(f"stopped after {stops} of 200 steps; {len(skips)} skips; weights apart {apart:.2g} of their way; {seconds}")
