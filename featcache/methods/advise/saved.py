"""Loads trained temporal modules from the folders of their runs."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from featcache.errors import ConfigError
from featcache.networks.settings import TmmSettings
from featcache.networks.tmm import TmmClassifier
from featcache.training.checkpoint import Checkpoint, taking_up
from featcache.training.loop import trained_state
from featcache.training.runs import find_seed

ARMS = ("pretrained", "scratch")


def read_module(folder: Path, *, seed: int, width_in: int | None = None) -> tuple[TmmSettings, Checkpoint]:
    """Shape of the module of one run, and its checkpoint.

    Args:
        folder: Folder of the run, or of one of its seeds.
        seed: Seed of the run.
        width_in: Number of channels of its future input maps; ``None``: unknown.

    Raises:
        ConfigError: The folder is not a run of a temporal module, or the module has another width.
    """
    checkpoint = trained_state(find_seed(folder, seed))
    if "tmm" not in checkpoint.facts:
        raise ConfigError(
            f"{folder} is not a run of a temporal module; give one of `featcache train advise` or `train tmm`"
        )
    with taking_up(folder):
        tmm, width = TmmSettings(**checkpoint.facts["tmm"]), checkpoint.facts["width_in"]
    if width_in not in (None, width):
        raise ConfigError(
            f"the module of {folder} was trained on {width} channels, this feature has {width_in}; choose a feature of "
            "that width, or train another module"
        )
    return tmm, checkpoint


def load_module(folder: Path, *, seed: int, shape: tuple[int, int, int]) -> TmmClassifier:
    """The trained module and head of one run, for maps of another store or of the same.

    Args:
        folder: Folder of the run, or of one of its seeds.
        seed: Seed of the run.
        shape: ``(h, w, C)`` of its future input maps; h and w may differ from those it was trained on.

    Returns:
        The module in evaluation mode, on CPU.

    Raises:
        ConfigError: As in :func:`read_module`, or the module needs its own grid.
    """
    height, width, depth = shape
    tmm, checkpoint = read_module(folder, seed=seed, width_in=depth)
    state = checkpoint.weights
    with taking_up(folder), torch.random.fork_rng(devices=[]):
        module = TmmClassifier(tmm, width_in=depth, grid=height, num_classes=len(state["head.fc2.bias"]))
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"the module of {folder} does not fit maps of {height} x {width}; with bank.grid, pool them to the side it "
            "was trained on"
        ) from error
    return module.eval()


def initial_module(
    folder: str | None, tmm: TmmSettings | None, *, seed: int, width_in: int
) -> tuple[TmmSettings, dict[str, Any] | None]:
    """Shape and initial weights of a module that is trained further; the weights are ``None`` from scratch.

    Args:
        folder: Folder of the run whose module is the initial one; ``None``: from scratch.
        tmm: The shape that is asked for; ``None``: that of the run, or the released one.
        seed: Seed of the run.
        width_in: Number of channels of the input maps.

    Raises:
        ConfigError: Shape or width differ from those of the run.
    """
    if folder is None:
        return tmm or TmmSettings(), None
    own, checkpoint = read_module(Path(folder), seed=seed, width_in=width_in)
    if tmm is not None and dataclasses.replace(own, head_hidden=tmm.head_hidden, dropout=tmm.dropout) != tmm:
        raise ConfigError(f"{folder} holds another module ({own}); leave tmm out to take its shape")
    return tmm or own, checkpoint.weights_of("tmm")


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
