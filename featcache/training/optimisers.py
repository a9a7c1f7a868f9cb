"""Builds optimisers of torch and timm from settings."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from timm.optim._param_groups import param_groups_weight_decay
from timm.optim.lars import Lars
from torch import nn

from featcache.errors import unknown_name
from featcache.training.settings import OptimiserSettings

NO_FACTORS: Mapping[str, float] = MappingProxyType({})


def peak_lr(settings: OptimiserSettings, *, batch_size: int) -> float:
    """The peak learning rate: ``lr``, or ``lr * batch_size / lr_batch`` (Goyal et al., 2017)."""
    return settings.lr * (batch_size / settings.lr_batch if settings.lr_batch else 1.0)


def build_optimiser(
    module: nn.Module, settings: OptimiserSettings, *, lr: float, factors: Mapping[str, float] = NO_FACTORS
) -> torch.optim.Optimizer:
    """An optimiser over the parameters that require gradients.

    Args:
        module: Module to train; parameters that its attribute ``not_decayed`` names get no weight decay either.
        settings: Settings of the optimiser.
        lr: Peak learning rate; the loop sets the current one before each step, times the ``lr_factor`` of each group.
        factors: Factors of the learning rate by what parameters' names begin with; the longest that fits counts.

    Raises:
        UnknownNameError: There are no trained parameters whose names begin so.
    """
    if settings.decay_all:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": trained, "weight_decay": settings.weight_decay}]
    else:
        spared = getattr(module, "not_decayed", ())
        groups = param_groups_weight_decay(module, weight_decay=settings.weight_decay, no_weight_decay_list=spared)
    factor_of = _factors(module, factors)
    groups = [
        {**group, "params": parameters, "lr": lr * factor, "lr_factor": factor}
        for group in groups
        for factor, parameters in _by_factor(group["params"], factor_of).items()
    ]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=settings.betas, fused=True)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov)
    lars: torch.optim.Optimizer = Lars(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov)
    return lars


def _factors(module: nn.Module, factors: Mapping[str, float]) -> dict[nn.Parameter, float]:
    """The factor of each trained parameter that has one."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for prefix in factors:
        if not any(name.startswith(prefix) for name in trained):
            parts = [name.split(".") for name in trained]
            starts = {".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}
            raise unknown_name("start of a parameter's name in training.lr_factors", prefix, starts)
    found = {}
    for name, parameter in trained.items():
        if fitting := [prefix for prefix in factors if name.startswith(prefix)]:
            found[parameter] = factors[max(fitting, key=len)]
    return found


def _by_factor(
    parameters: Iterable[nn.Parameter], factors: Mapping[nn.Parameter, float]
) -> dict[float, list[nn.Parameter]]:
    """Parameters by their factors, in order."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return groups
