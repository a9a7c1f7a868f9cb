"""Loads trained temporal modules from the folders of their runs."""

from collections.abc import Iterator
from pathlib import Path

import torch

from featcache.errors import ConfigError
from featcache.networks.settings import TmmSettings
from featcache.networks.tmm import TmmClassifier
from featcache.training.checkpoint import taking_up
from featcache.training.loop import trained_state
from featcache.training.runs import find_seed

ARMS = ("pretrained", "scratch")


def load_module(folder: Path, *, seed: int, shape: tuple[int, int, int]) -> TmmClassifier:
    """The trained module and head of one run, for maps of another store or of the same.

    Args:
        folder: Folder of the run, or of one of its seeds.
        seed: Seed of the run.
        shape: ``(h, w, C)`` of its future input maps; h and w may differ from those it was trained on.

    Returns:
        The module in evaluation mode, on CPU.

    Raises:
        ConfigError: The folder is not a run of a temporal module, or the module has another width or needs its own
            grid.
    """
    checkpoint = trained_state(find_seed(folder, seed))
    if "tmm" not in checkpoint.facts:
        raise ConfigError(
            f"{folder} is not a run of a temporal module; give one of `featcache train advise` or `train tmm`"
        )
    with taking_up(folder):
        width = checkpoint.facts["width_in"]
    if width != shape[2]:
        raise ConfigError(
            f"the module of {folder} was trained on {width} channels, this feature has {shape[2]}; choose a feature of "
            "that width, or train another module"
        )
    state = checkpoint.weights
    with taking_up(folder), torch.random.fork_rng(devices=[]):
        module = TmmClassifier(
            TmmSettings(**checkpoint.facts["tmm"]),
            width_in=width,
            grid=shape[0],
            num_classes=len(state["head.fc2.bias"]),
        )
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"the module of {folder} does not fit maps of {shape[0]} x {shape[1]}; with bank.grid, pool them to the "
            "side it was trained on"
        ) from error
    return module.eval()


def module_settings(folder: Path, *, seed: int) -> TmmSettings:
    """Shape of the module of one run."""
    checkpoint = trained_state(find_seed(folder, seed))
    with taking_up(folder):
        return TmmSettings(**checkpoint.facts["tmm"])


def arms_of(run: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of each arm of a run: those of ``pretrained`` and ``scratch`` that it has.

    Any other run has a single arm ``module``, its own folder.

    Raises:
        ConfigError: There is no trained run, or it was trained on folds.
    """
    found = [(arm, run / arm / "all") for arm in ARMS if (run / arm / "all").is_dir()]
    if not found and any((run / arm).is_dir() for arm in ARMS):
        raise ConfigError(
            f"{run} was trained by folds, a module each; give the run of a store with splits, or the folder of one fold"
        )
    yield from found or [("module", run)]
