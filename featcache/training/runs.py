"""Folders of runs: ``config.yaml``, ``result.json``, and one folder a seed with its checkpoint and log."""

import hashlib
from pathlib import Path

import torch

from featcache.config import Settings, to_yaml
from featcache.errors import ConfigError
from featcache.extract.encode import resolve_device
from featcache.extract.prepare import num_cores
from featcache.training.settings import TrainingSettings


def run_folder(settings: Settings, *, out: str | None, store: str, name: str) -> Path:
    """Where a run goes: ``out``, or ``runs/<store>/<name>-<hash of the settings>``."""
    if out is not None:
        return Path(out)
    digest = hashlib.sha256(to_yaml(settings).encode()).hexdigest()[:12]
    return Path("runs") / Path(store).name / f"{name}-{digest}"


def seed_folder(folder: Path, seed: int) -> Path:
    """The folder of one seed of a run."""
    return folder / f"seed-{seed}"


def find_seed(folder: Path, seed: int) -> Path:
    """The run of a seed under ``folder``, or the only one there is, or ``folder`` itself if it is one.

    Raises:
        ConfigError: No run there, or several and none of this seed.
    """
    if (folder / "checkpoint.json").exists():
        return folder
    found = sorted(path.parent for path in folder.glob("seed-*/checkpoint.json"))
    mine = seed_folder(folder, seed)
    if mine in found:
        return mine
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{folder} holds no trained run; give the folder that `featcache train` wrote to")
    raise ConfigError(
        f"{folder} has runs of {', '.join(path.name for path in found)} and none of seed {seed}; name one"
    )


def prepare_torch(settings: TrainingSettings) -> torch.device:
    """Fix the threads and return the device of a run."""
    torch.set_num_threads(settings.threads or num_cores())
    return torch.device(resolve_device(settings.device))
