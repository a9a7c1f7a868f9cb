"""The loop against a plain one, and a killed run against a straight one."""

import dataclasses
import itertools
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from featcache.errors import ConfigError, CorruptStoreError, RecipeMismatchError
from featcache.seeding import seed_for
from featcache.testing.faults import DISKS
from featcache.training.checkpoint import NAME, read_checkpoint
from featcache.training.generators import seeded_torch
from featcache.training.identity import Identity
from featcache.training.logs import read_log, read_steps
from featcache.training.loop import StepReport, train
from featcache.training.meter import DivergedError
from featcache.training.objective import Loss
from featcache.training.schedules import learning_rate_factor
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

TOY = Identity(values={"what": "toy"})
RATES = ("items_per_second", "wait_share")


class Toy:
    """Regression through dropout and BatchNorm, so that generators and buffers matter."""

    num_batches = 4
    num_items = 4 * 8

    def __init__(self, *, poisoned_from: int | None = None) -> None:
        with seeded_torch(0, "toy"):
            self.module: nn.Module = nn.Sequential(
                nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1)
            )
        self._poisoned_from = poisoned_from

    def parts(self, epoch, batch):
        generator = torch.Generator().manual_seed(seed_for(0, epoch, batch))
        x = torch.randn(8, 5, generator=generator)
        if self._poisoned_from is not None and epoch >= self._poisoned_from:
            x = x * float("nan")
        return [x[:4], x[4:]]

    def loss(self, part):
        target = part.sum(dim=1, keepdim=True)
        output = self.module(part)
        return Loss(total=functional.mse_loss(output, target), metrics={"size": output.detach().abs().mean()})

    def after_step(self, progress):
        self.progress = progress


SETTINGS = TrainingSettings(
    epochs=6,
    optimiser=OptimiserSettings(lr=0.02, weight_decay=0.1),
    schedule=ScheduleSettings(warmup_fraction=1 / 6),
    clip_norm=1.0,
    tensorboard=False,
)


# What DINO needs: the first layer stays for two epochs and a half, decay grows, each gradient is cut by itself.
LIKE_DINO = SETTINGS.model_copy(
    update={
        "clip_norm": None,
        "clip_each_norm": 0.05,
        "optimiser": OptimiserSettings(lr=0.02, weight_decay=0.1, final_weight_decay=0.5),
    }
)
FROZEN = {"0.": 2.5}


def run(folder, settings=SETTINGS, *, objective=None, on_step=lambda report: None, identity=TOY, frozen_epochs=None):
    return train(
        objective or Toy(),
        settings,
        folder=folder,
        seed=3,
        identity=identity,
        facts={"kind": "toy"},
        frozen_epochs=frozen_epochs or {},
        on_step=on_step,
    )


def equal(mine, theirs):
    left, right = mine.state_dict(), theirs.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_equals_a_plain_loop(tmp_path):
    toy = Toy()
    decayed = [parameter for parameter in toy.module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in toy.module.parameters() if parameter.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}], lr=0.02, fused=True
    )
    toy.module.train()
    for step, (epoch, batch) in enumerate(itertools.product(range(6), range(4))):
        factor = learning_rate_factor(step / 4, epochs=6, schedule=SETTINGS.schedule)
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * factor
        optimiser.zero_grad()
        with seeded_torch(3, "step", step):
            for part in toy.parts(epoch, batch):
                toy.loss(part).total.backward()
        nn.utils.clip_grad_norm_(toy.module.parameters(), 1.0)
        optimiser.step()
    assert equal(run(tmp_path), toy.module)


def test_frozen_parameters_growing_decay_and_clipping_by_parameter_equal_a_plain_loop(tmp_path):
    toy = Toy()
    first_layer = list(toy.module[0].parameters())
    before = [parameter.clone() for parameter in first_layer]
    parameters = list(toy.module.parameters())
    groups = [{"params": [p for p in parameters if (p.ndim > 1) == decays]} for decays in (False, True)]
    optimiser = torch.optim.AdamW(groups, lr=0.02, fused=True)
    toy.module.train()
    num_clipped = 0
    for step, (epoch, batch) in enumerate(itertools.product(range(6), range(4))):
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * learning_rate_factor(step / 4, epochs=6, schedule=SETTINGS.schedule)
        groups = optimiser.param_groups
        groups[0]["weight_decay"] = 0.0
        groups[1]["weight_decay"] = 0.5 - 0.4 * (1 + math.cos(math.pi * step / 24)) / 2
        optimiser.zero_grad()
        with seeded_torch(3, "step", step):
            for part in toy.parts(epoch, batch):
                toy.loss(part).total.backward()
        for parameter in parameters:
            num_clipped += parameter.grad.norm() > 0.05
            nn.utils.clip_grad_norm_([parameter], 0.05)
        if step < 10:
            for parameter in first_layer:
                parameter.grad = None
        optimiser.step()
        assert all(map(torch.equal, before, first_layer)) == (step < 10)
    assert 0 < num_clipped < 24 * len(parameters)
    trained = run(tmp_path, LIKE_DINO, frozen_epochs=FROZEN)
    for name, tensor in toy.module.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_prefix_that_freezes_nothing_is_an_error(tmp_path):
    with pytest.raises(KeyError, match=r"begins with 'head\.'"):
        run(tmp_path, frozen_epochs={"head.": 1.0})


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("settings", "frozen_epochs"),
    [(SETTINGS, {}), (SETTINGS.model_copy(update={"ema_decay": 0.9, "accumulate": 2}), {}), (LIKE_DINO, FROZEN)],
)
def test_killed_and_resumed_equals_straight_bit_for_bit(tmp_path, settings, frozen_epochs):
    straight = run(tmp_path / "straight", settings, frozen_epochs=frozen_epochs)
    often = settings.model_copy(update={"checkpoint_seconds": 0.0})
    for kill_after in (1, 2, 3, 5):
        steps = itertools.count(1)

        def kill(report: StepReport, steps=steps, kill_after=kill_after) -> None:
            if next(steps) > kill_after:
                raise Killed

        with pytest.raises(Killed):
            run(tmp_path / "killed", often, on_step=kill, frozen_epochs=frozen_epochs)
    assert equal(run(tmp_path / "killed", often, frozen_epochs=frozen_epochs), straight)
    logs = [
        [{name: line[name] for name in ("step", "epoch", "lr")} for line in read_log(tmp_path / folder)]
        for folder in ("straight", "killed")
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == settings.epochs
    assert equal(run(tmp_path / "killed", often), straight)  # a finished run is read, not trained again


def test_the_average_follows_the_weights(tmp_path):
    settings = SETTINGS.model_copy(update={"ema_decay": 0.5, "epochs": 2})
    toy = Toy()
    averaged = run(tmp_path, settings, objective=toy)
    assert not equal(averaged, toy.module)
    assert not averaged.training


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    settings = SETTINGS.model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(DivergedError, match="not finite"):
        run(tmp_path, settings, objective=Toy(poisoned_from=2))
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 2 * Toy.num_batches
    assert all(torch.isfinite(tensor.float()).all() for tensor in checkpoint.tensors.values())


def test_another_run_is_refused(tmp_path):
    run(tmp_path, SETTINGS.model_copy(update={"epochs": 2}))
    with pytest.raises(RecipeMismatchError, match="with what 'toy', which is 'another' here"):
        run(tmp_path, identity=Identity(values={"what": "another"}))


def test_damage_is_found(tmp_path):
    run(tmp_path, SETTINGS.model_copy(update={"epochs": 2}))
    path = next(tmp_path.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptStoreError, match="damaged"):
        read_checkpoint(tmp_path)
    path.unlink()
    with pytest.raises(CorruptStoreError):
        read_checkpoint(tmp_path)


def test_a_checkpoint_that_points_outside_is_refused(tmp_path):
    run(tmp_path, SETTINGS.model_copy(update={"epochs": 2}))
    document = json.loads((tmp_path / NAME).read_text())
    document["tensors"] = "../elsewhere.safetensors"
    (tmp_path / NAME).write_text(json.dumps(document))
    with pytest.raises(CorruptStoreError):
        read_checkpoint(tmp_path)


def test_one_checkpoint_is_kept(tmp_path):
    run(tmp_path, SETTINGS.model_copy(update={"checkpoint_seconds": 0.0}))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_disk_without_hard_links_keeps_checkpoints(tmp_path):
    with DISKS["no links"].imitated():
        run(tmp_path, SETTINGS)
    assert read_checkpoint(tmp_path).step > 0


def test_tensorboard_events_are_written(tmp_path):
    run(tmp_path, SETTINGS.model_copy(update={"epochs": 2, "tensorboard": True}))
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    "optimiser",
    [
        OptimiserSettings(name="sgd", lr=0.01),
        OptimiserSettings(name="sgd", lr=0.01, nesterov=True),
        OptimiserSettings(name="lars", lr=0.01),
    ],
)
def test_other_optimisers_resume_too(tmp_path, optimiser):
    settings = SETTINGS.model_copy(update={"epochs": 3, "checkpoint_seconds": 0.0, "optimiser": optimiser})
    straight = run(tmp_path / "straight", settings)
    steps = itertools.count(1)

    def kill(report: StepReport) -> None:
        if next(steps) > 5:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "killed", settings, on_step=kill)
    assert equal(run(tmp_path / "killed", settings), straight)


def test_more_batches_a_step_than_an_epoch_has_is_a_sentence(tmp_path):
    settings = SETTINGS.model_copy(update={"accumulate": 5})
    with pytest.raises(
        ConfigError, match=r"training\.accumulate is 5 and an epoch has 4 batches.*training\.accumulate=4"
    ):
        train(Toy(), settings, folder=tmp_path, seed=0, identity=TOY, facts={})
    assert not list(tmp_path.iterdir())


class Measured(Toy):
    """Also has a metric that is costly, and counts how often it is computed."""

    def __init__(self):
        super().__init__()
        self.losses = []
        self.num_computed = 0

    def loss(self, part):
        loss = super().loss(part)
        self.losses.append(loss.total.item())

        def costly():
            self.num_computed += 1
            return part.sum()

        return dataclasses.replace(loss, seldom={"sum": costly})


def without_rates(lines):
    return [{name: each for name, each in line.items() if name not in RATES} for line in lines]


def test_lines_about_steps_are_means_over_the_steps_since_the_last_and_change_nothing_else(tmp_path):
    settings = SETTINGS.model_copy(update={"log_steps": 5})  # 4 steps per epoch, 24 in all
    toy, plain = Measured(), Measured()
    trained = run(tmp_path / "often", settings, objective=toy)
    assert equal(run(tmp_path / "plain", objective=plain), trained)
    lines, epochs = read_steps(tmp_path / "often"), read_log(tmp_path / "often")
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert [line["epoch"] for line in lines] == [1.25, 2.5, 3.75, 5.0]
    means = [sum(toy.losses[2 * first : 2 * first + 10]) / 10 for first in range(0, 20, 5)]  # two parts a step
    assert [line["loss"] for line in lines] == pytest.approx(means, rel=1e-5)
    assert lines[1]["lr"] == 0.02 * learning_rate_factor(9 / 4, epochs=6, schedule=SETTINGS.schedule)
    assert all(line.keys() == epochs[0].keys() for line in lines)
    assert toy.num_computed == 2 * len({4, 8, 12, 16, 20, 24, 5, 10, 15})
    assert plain.num_computed == 2 * 6
    mine, theirs = (without_rates(read_log(tmp_path / name)) for name in ("often", "plain"))
    assert [{**line, "sum": 0} for line in mine] == [{**line, "sum": 0} for line in theirs]
    assert read_steps(tmp_path / "plain") == []  # fewer steps than the default


def test_a_resumed_run_repeats_no_line_about_steps(tmp_path):
    settings = SETTINGS.model_copy(update={"log_steps": 3, "checkpoint_seconds": 0.0})
    run(tmp_path / "straight", settings)

    def kill(report: StepReport) -> None:
        if report.epoch == 7 / 4:  # the line of step 6 exists, and the checkpoint of step 6
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "killed", settings, on_step=kill)
    run(tmp_path / "killed", settings)
    straight, killed = (without_rates(read_steps(tmp_path / name)) for name in ("straight", "killed"))
    assert killed == straight
    assert [line["step"] for line in killed] == [3, 6, 9, 12, 15, 18, 21, 24]
