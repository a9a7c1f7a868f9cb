"""Two processes fine-tune and score as one does, and go on where another number of them stopped."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from featcache.backbones.trainable import has_unused
from featcache.errors import ConfigError
from featcache.methods.finetune.module import build_classifier
from featcache.methods.finetune.run import WEIGHTS, finetune
from featcache.training.logs import read_steps
from featcache.training.loop import trained_state
from tests.methods.finetune.helpers import training
from tests.methods.finetune.shared_runs import NUM_STEPS, chosen, main, write_videos
from tests.training.processes import together


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process alone, then two that also go on with a run that one began."""
    folder = tmp_path_factory.mktemp("runs")
    write_videos(folder)
    finetune(chosen(folder, "one"))
    finetune(chosen(folder, "head-one", frozen=True))

    def kill(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done == 1.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(chosen(folder, "one-then-two"), on_stage=kill)
    assert trained_state(folder / "one-then-two" / "seed-0").step == 2
    together(main, folder)
    return folder


def same(mine, theirs):
    """Equal up to rounding: the log, what is left at the end, and the scores of each test video."""
    lines = [read_steps(folder / "seed-0") for folder in (mine, theirs)]
    assert len(lines[0]) == len(lines[1]) == NUM_STEPS
    for one, two in zip(*lines, strict=True):
        assert [two[name] for name in ("step", "lr", "accuracy")] == [one[name] for name in ("step", "lr", "accuracy")]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4), f"loss of step {one['step']}"
    states = [trained_state(folder / "seed-0") for folder in (mine, theirs)]
    assert states[0].step == states[1].step == NUM_STEPS
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, tensor in states[0].part("module").items():
        atol = 1e-4 if "running_" in name else 2e-6  # deep norms enlarge rounding; their own shares differ by 0.05
        torch.testing.assert_close(
            states[1].part("module")[name], tensor, rtol=1e-4, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )
    tables = [pq.read_table(folder / "predictions.parquet") for folder in (mine, theirs)]
    assert tables[0]["video"].to_pylist() == tables[1]["video"].to_pylist()
    scores = [np.array(table["scores"].to_pylist()) for table in tables]
    assert scores[0].shape == (5, 2)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4, atol=1e-5)


def test_two_processes_train_and_score_as_one(runs):
    same(runs / "one", runs / "two")
    results = [json.loads((runs / name / "result.json").read_text()) for name in ("one", "two")]
    splits = [result["splits"]["test"] for result in results]
    assert splits[0] == splits[1]
    assert splits[1]["num_videos"] == 5
    assert splits[1]["coverage"]["ok"] == 5
    weights = [load_file(runs / name / "seed-0" / WEIGHTS) for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()


def test_a_run_that_one_process_began_is_ended_by_two(runs):
    same(runs / "one", runs / "one-then-two")


def test_a_run_that_two_processes_began_is_ended_by_one(runs):
    assert trained_state(runs / "two-then-one" / "seed-0").step == 2
    finetune(chosen(runs, "two-then-one"))
    same(runs / "one", runs / "two-then-one")


def test_a_frozen_backbone_keeps_its_running_statistics(runs):
    same(runs / "head-one", runs / "head-two")


def test_what_takes_no_part_is_found_and_nothing_changes(runs):
    for backbone, size, expected in (("timm/test_resnet", 64, True), ("svt-tiny", 32, False)):
        settings = chosen(runs, "unused", backbone=backbone, input_size=size)
        module = build_classifier(settings, num_classes=2, seed=0, device=torch.device("cpu")).train()
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        draws = torch.get_rng_state()
        assert has_unused(module) == expected
        assert module.training
        assert torch.equal(torch.get_rng_state(), draws)
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())


def test_a_batch_that_processes_cannot_share_is_told_before_videos_are_listed(monkeypatch, tmp_path):
    from featcache.methods.finetune import run
    from featcache.training.world import World

    settings = chosen(tmp_path, "unused", training=training(batch_size=5))
    with pytest.raises(ConfigError, match=r"batch_size is 5, which 2 processes cannot share equally"):
        run._finetune(settings, World(size=2, local_size=2), intervals=run.IntervalSettings(), on_stage=run.ignore)
