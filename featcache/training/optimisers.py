"""Builds optimisers of torch and timm from settings."""

import torch
from timm.optim._param_groups import param_groups_weight_decay
from timm.optim.lars import Lars
from torch import nn

from featcache.training.settings import OptimiserSettings


def peak_lr(settings: OptimiserSettings, *, batch_size: int) -> float:
    """The peak learning rate: ``lr``, or ``lr * batch_size / lr_batch`` (Goyal et al., 2017)."""
    return settings.lr * (batch_size / settings.lr_batch if settings.lr_batch else 1.0)


def build_optimiser(module: nn.Module, settings: OptimiserSettings, *, lr: float) -> torch.optim.Optimizer:
    """An optimiser over the parameters that require gradients.

    Args:
        module: Module to train; parameters that its attribute ``not_decayed`` names get no weight decay either.
        settings: Settings of the optimiser.
        lr: Peak learning rate; the loop sets the current one before each step.
    """
    if settings.decay_all:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        groups = [{"params": trained, "weight_decay": settings.weight_decay}]
    else:
        spared = getattr(module, "not_decayed", ())
        groups = param_groups_weight_decay(module, weight_decay=settings.weight_decay, no_weight_decay_list=spared)
    groups = [group for group in groups if group["params"]]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=settings.betas, fused=True)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov)
    lars: torch.optim.Optimizer = Lars(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov)
    return lars
