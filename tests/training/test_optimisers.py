"""Optimisers against their formulas."""

import pytest
import torch
from torch import nn

from featcache.config import parse
from featcache.errors import ConfigError, UnknownNameError
from featcache.training.generators import seeded_torch
from featcache.training.identity import Identity, identity_of
from featcache.training.loop import train
from featcache.training.objective import Loss
from featcache.training.optimisers import build_optimiser
from featcache.training.schedules import learning_rate_factor
from featcache.training.settings import OptimiserSettings, TrainingSettings

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01
OLD = {
    name: value
    for name, value in identity_of(TrainingSettings(), inputs={}, seed=0).values.items()
    if not name.startswith("lr_factors")
}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_either_momentum(nesterov):
    module = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    settings = OptimiserSettings(name="sgd", momentum=MOMENTUM, weight_decay=DECAY, decay_all=True, nesterov=nesterov)
    optimiser = build_optimiser(module, settings, lr=LR)
    weights, velocity = module.weight.detach().clone(), torch.zeros(1, 3, dtype=torch.float64)
    for step in range(4):
        gradient = torch.tensor([[1.0, -2.0, 0.5 * step]], dtype=torch.float64)
        module.weight.grad = gradient.clone()
        optimiser.step()
        decayed = gradient + DECAY * weights
        velocity = MOMENTUM * velocity + decayed
        weights = weights - LR * (decayed + MOMENTUM * velocity if nesterov else velocity)
        torch.testing.assert_close(module.weight.detach(), weights)


@pytest.mark.parametrize(("name", "momentum"), [("adamw", 0.9), ("sgd", 0.0)])
def test_what_has_no_nesterov_momentum_is_a_sentence(name, momentum):
    with pytest.raises(ConfigError, match=r"optimiser\.nesterov needs sgd or lars with a momentum above 0"):
        parse(OptimiserSettings, {"name": name, "momentum": momentum, "nesterov": True})


class Headed(nn.Module):
    def __init__(self):
        super().__init__()
        with seeded_torch(0, "headed"):
            self.network = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
            self.head = nn.Linear(3, 2)
        self.network[0].bias.requires_grad_(False)

    def forward(self, x):
        return self.head(self.network(x))


class Objective:
    num_batches, num_items = 3, 6

    def __init__(self):
        self.module = Headed()

    def parts(self, epoch, batch):
        return [torch.linspace(-1, 1, 8).reshape(2, 4) * (1 + batch)]

    def loss(self, part):
        return Loss(total=self.module(part).square().mean())

    def after_step(self, progress):
        pass


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_factors_of_the_learning_rate_equal_groups_made_by_hand(tmp_path, name, decay_all):
    factors = {"head.": 10.0, "network.": 0.5, "network.1.weight": 2.0}
    settings = TrainingSettings(
        epochs=4,
        optimiser=OptimiserSettings(name=name, lr=LR, weight_decay=DECAY, decay_all=decay_all),
        lr_factors=factors,
        tensorboard=False,
    )
    by_loop = train(
        Objective(), settings, folder=tmp_path, seed=0, identity=Identity(values={}), facts={}
    )  # fmt: skip

    objective = Objective()
    module = objective.module
    by_hand = {
        10.0: [module.head.weight, module.head.bias],
        0.5: [module.network[0].weight, module.network[1].bias],
        2.0: [module.network[1].weight],
    }
    groups = [
        {"params": [each], "factor": factor, "weight_decay": DECAY if decay_all or each.ndim > 1 else 0.0}
        for factor, parameters in by_hand.items()
        for each in parameters
    ]
    if name == "adamw":
        optimiser = torch.optim.AdamW(groups, lr=LR, fused=True)
    else:
        optimiser = torch.optim.SGD(groups, lr=LR, momentum=0.9)
    for step in range(12):
        for group in optimiser.param_groups:
            group["lr"] = LR * learning_rate_factor(step / 3, epochs=4, schedule=settings.schedule) * group["factor"]
        optimiser.zero_grad()
        objective.loss(objective.parts(step // 3, step % 3)[0]).total.backward()
        optimiser.step()
    start = Headed().state_dict()
    for key, tensor in module.state_dict().items():
        torch.testing.assert_close(by_loop.state_dict()[key], tensor)
        assert (key == "network.0.bias") == torch.equal(start[key], tensor)


def test_a_factor_for_no_parameter_is_a_sentence():
    with pytest.raises(UnknownNameError, match=r"training\.lr_factors 'heads'; did you mean 'head'"):
        build_optimiser(Headed(), OptimiserSettings(), lr=LR, factors={"heads": 2.0})
    with pytest.raises(UnknownNameError, match=r"'network\.0\.bias'"):  # it is frozen
        build_optimiser(Headed(), OptimiserSettings(), lr=LR, factors={"network.0.bias": 2.0})
    for bad in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match=r"lr_factors\.head\."):
            parse(TrainingSettings, {"lr_factors": {"head.": bad}})


def test_factors_are_part_of_a_run_and_none_are_not(tmp_path):
    before = {"epochs": 5}  # the identity of a run that is older than factors
    assert identity_of(TrainingSettings(epochs=5), inputs={}, seed=0).difference({**OLD, **before}) is None
    chosen = TrainingSettings(epochs=5, lr_factors={"head.": 10.0})
    now = identity_of(chosen, inputs={}, seed=0)
    assert "lr_factors" in now.difference({**OLD, **before})
    other = identity_of(chosen.model_copy(update={"lr_factors": {"head.": 5.0}}), inputs={}, seed=0)
    assert "with lr_factors.head. 10.0, which is 5.0 here" in other.difference(now.values)
