"""Optimisers against their formulas."""

import pytest
import torch
from torch import nn

from featcache.config import parse
from featcache.errors import ConfigError
from featcache.training.optimisers import build_optimiser
from featcache.training.settings import OptimiserSettings

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


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
