"""Several seeds as one against the same seeds alone."""

import dataclasses
import shutil

import pytest
import torch

from featcache.config import parse
from featcache.errors import ConfigError, RecipeMismatchError
from featcache.methods.scale.batched import StackObjective
from featcache.methods.scale.objective import ScaleObjective
from featcache.methods.scale.run import build_module, pretrain_scale, with_heads
from featcache.methods.scale.saved import load_predictor
from featcache.methods.scale.settings import ScaleHeadSettings, ScaleLossSettings, ScaleSettings
from featcache.networks.set_predictor import SetPredictor
from featcache.networks.settings import SetPredictorSettings
from featcache.training import stack
from featcache.training.checkpoint import read_checkpoint
from featcache.training.generators import seeded_torch
from featcache.training.logs import read_log, read_steps
from featcache.training.stack import stacked

from .helpers import located_sets

SEEDS = (0, 3, 7)
RAGGED = [16, 5, 9, 2, 1, 16, 16, 7, 16, 16, 3, 16]


def settings_for(folder, *, dropout=0.0, optimiser=None, loss=None, is_batched=True, **training):
    return parse(
        ScaleSettings,
        {
            "sets": {"store": "none"},
            "clips_per_set": 4,
            "predictor": {"width": 32, "depth": 1, "position_hidden": 16, "dropout": dropout},
            "heads": {"width": 16, "target_hidden": 32, "hidden": 32},
            "loss": loss or {},
            "training": {
                "epochs": 3,
                "batch_size": 5,
                "optimiser": {"lr": 3e-3, "weight_decay": 1.0, **(optimiser or {})},
                "seeds": list(SEEDS),
                "tensorboard": False,
                "log_steps": 2,
                "threads": 1,
                "device": "cpu",
                **training,
            },
            "batched_seeds": is_batched,
            "out": str(folder),
        },
    )


def objectives_for(sets, loss):
    found = {}
    for seed in SEEDS:
        with seeded_torch(seed, "test"):
            shape = SetPredictorSettings(width=32, depth=1, position_hidden=16, dropout=0.0)
            heads = ScaleHeadSettings(width=8, target_hidden=16, hidden=16)
            module = with_heads(SetPredictor(shape, width_in=sets.features.shape[1]), heads, loss)
        found[seed] = ScaleObjective(sets, loss, module=module, clips_per_set=4, batch_size=5, seed=seed)
    return found


@pytest.mark.parametrize("counts", [None, RAGGED])
@pytest.mark.parametrize(
    "loss",
    [
        ScaleLossSettings(),
        ScaleLossSettings(symmetric=True, set_weight=0),
        ScaleLossSettings(mcm_per="video"),
        ScaleLossSettings(set_loss="regression", mcm_weight=2),
        ScaleLossSettings(set_loss="clustering", mcm_weight=0, num_prototypes=5),
    ],
)
def test_losses_and_gradients_are_those_of_each_seed(loss, counts):
    sets = located_sets(12, counts=counts)
    alone = objectives_for(sets, loss)
    stack = StackObjective(alone)
    assert stack.num_batches == 2
    assert stack.num_items == len(SEEDS) * 10
    result = stack.loss(stack.parts(1, 1)[0])
    names = [name for name, _ in stack.module.named_parameters()]
    gradients = dict(zip(names, torch.autograd.grad(result.total, list(stack.module.parameters())), strict=True))
    for place, (seed, objective) in enumerate(alone.items()):
        wanted = objective.loss(objective.parts(1, 1)[0])
        torch.testing.assert_close(result.metrics[f"seed-{seed}/loss"], wanted.total.detach())
        for name, value in wanted.metrics.items():
            torch.testing.assert_close(result.metrics[f"seed-{seed}/{name}"], value)
        own = torch.autograd.grad(wanted.total, list(objective.module.parameters()))
        for name, gradient in zip(names, own, strict=True):
            torch.testing.assert_close(gradients[name][place], gradient, rtol=1e-3, atol=1e-5)


def told_apart(name, values):
    """Without the keys' biases: softmax does not see them, so AdamW makes steps of the rounding of their gradient."""
    if not name.endswith("qkv.bias"):
        return values
    query, key, value = values.chunk(3)
    return torch.cat([query, torch.zeros_like(key), value])


@pytest.mark.parametrize(
    ("counts", "changes"),
    [(None, {}), (RAGGED, {"ema_decay": 0.9}), (None, {"optimiser": {"name": "sgd", "lr": 0.1, "weight_decay": 0.3}})],
)
def test_equals_runs_of_one_seed(tmp_path, counts, changes):
    sets = located_sets(12, counts=counts)
    one = pretrain_scale(settings_for(tmp_path / "one", is_batched=False, **changes), sets=sets)
    many = pretrain_scale(settings_for(tmp_path / "many", **changes), sets=sets)
    own = {"folder": "", "seeds": {}, "next_command": ""}
    assert dataclasses.replace(one, **own) == dataclasses.replace(many, **own)
    assert not (tmp_path / "many" / stack.NAME).exists()
    for seed in SEEDS:
        wanted, got = (read_checkpoint(tmp_path / name / f"seed-{seed}") for name in ("one", "many"))
        assert wanted.step == got.step == 6
        assert wanted.facts == got.facts
        assert wanted.tensors.keys() == got.tensors.keys()
        for name in wanted.tensors:
            mine, other = (told_apart(name, each.tensors[name]) for each in (got, wanted))
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        for read in (read_log, read_steps):
            lines = [read(tmp_path / name / f"seed-{seed}") for name in ("one", "many")]
            assert lines[0]
            assert [line.keys() for line in lines[0]] == [line.keys() for line in lines[1]]
            for line, other in zip(*lines, strict=True):
                for name in line.keys() - {"items_per_second", "wait_share"}:
                    assert other[name] == pytest.approx(line[name], rel=1e-3, abs=1e-5)
        assert load_predictor(tmp_path / "many", seed=seed).settings.width == 32


class KilledError(Exception):
    pass


@pytest.mark.parametrize("moment", ["a step", "the split"])
def test_killed_and_resumed_equals_straight_bit_for_bit(tmp_path, monkeypatch, moment):
    sets = located_sets(12, counts=RAGGED)
    options = {"dropout": 0.1, "checkpoint_seconds": 0.0}
    pretrain_scale(settings_for(tmp_path / "straight", **options), sets=sets)
    settings = settings_for(tmp_path / "killed", **options)

    def kill(stage, done, total, note="", num_failed=0):
        if moment == "a step" and stage == f"seed {SEEDS[-1]}" and round(done * 2) == 3:
            raise KilledError

    written = []

    def write_one(folder, checkpoint):
        if written:
            raise KilledError
        written.append(folder)
        write(folder, checkpoint)

    write = stack.write_checkpoint
    if moment == "the split":
        monkeypatch.setattr(stack, "write_checkpoint", write_one)
    with pytest.raises(KilledError):
        pretrain_scale(settings, sets=sets, on_stage=kill)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "killed" / stack.NAME).step == (2 if moment == "a step" else 6)
    assert (tmp_path / "killed/seed-0/checkpoint.json").exists() == (moment == "the split")
    pretrain_scale(settings, sets=sets)
    for seed in SEEDS:
        straight, resumed = (read_checkpoint(tmp_path / name / f"seed-{seed}") for name in ("straight", "killed"))
        assert all(torch.equal(straight.tensors[name], resumed.tensors[name]) for name in straight.tensors)
        lines = [read_log(tmp_path / name / f"seed-{seed}") for name in ("straight", "killed")]
        assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
        assert len(lines[1]) == 3


def test_what_is_done_is_left_as_it_is(tmp_path):
    sets = located_sets(8)
    settings = settings_for(tmp_path, epochs=1)
    pretrain_scale(settings, sets=sets)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(*figures):
        raise AssertionError("a step was done")

    pretrain_scale(settings, sets=sets, on_stage=refuse)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    with pytest.raises(RecipeMismatchError):
        pretrain_scale(settings_for(tmp_path, epochs=1, is_batched=False), sets=sets)
    with pytest.raises(RecipeMismatchError):
        pretrain_scale(settings_for(tmp_path, epochs=1, seeds=[0, 3]), sets=sets)
    shutil.rmtree(tmp_path / "seed-3")  # the others stay, and it comes back
    pretrain_scale(settings, sets=sets)
    assert read_checkpoint(tmp_path / "seed-3").step == 1


def test_one_seed_alone_is_no_stack(tmp_path):
    sets = located_sets(8)
    for name, is_batched in (("one", False), ("many", True)):
        pretrain_scale(settings_for(tmp_path / name, dropout=0.1, seeds=[5], is_batched=is_batched), sets=sets)
    one, many = (read_checkpoint(tmp_path / name / "seed-5") for name in ("one", "many"))
    assert one.identity == many.identity
    assert all(torch.equal(one.tensors[name], many.tensors[name]) for name in one.tensors)


def test_dropout_differs_from_seed_to_seed():
    settings = settings_for("none", dropout=0.5)
    modules = [build_module(settings, width_in=12, seed=0).train() for _ in range(2)]
    sets = located_sets(12)
    same = {
        seed: ScaleObjective(sets, settings.loss, module=module, clips_per_set=4, batch_size=5, seed=0)
        for seed, module in enumerate(modules)
    }
    stack = StackObjective(same)
    with seeded_torch(0, "test"):
        metrics = stack.loss(stack.parts(0, 0)[0]).metrics
    assert metrics["seed-0/loss"] != metrics["seed-1/loss"]


def test_vectors_are_told_by_name():
    module = build_module(settings_for("none"), width_in=12, seed=0)
    stack = stacked([module, module])
    wanted = {name for name, value in module.named_parameters() if value.ndim == 1}
    assert stack.not_decayed == wanted
    assert {"predictor.cls_token", "predictor.mask_token", "predictor.norm.weight"} <= wanted
    assert all(value.shape == (2, *module.get_parameter(name).shape) for name, value in stack.named_parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip_norm": 1.0}, "clip_norm bounds the gradient of one seed"),
        ({"optimiser": {"name": "lars"}}, "lars looks at whole layers of one seed"),
    ],
)
def test_refuses_what_mixes_seeds(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        settings_for(tmp_path, **changes)
    settings_for(tmp_path, is_batched=False, **changes)
