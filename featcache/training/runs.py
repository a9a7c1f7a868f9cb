"""Folders of runs: ``config.yaml``, ``result.json``, and one folder per seed with its checkpoint and log."""

import hashlib
import re
from pathlib import Path

import torch

from featcache.config import Settings, to_yaml
from featcache.errors import ConfigError, StoppedError
from featcache.machine import num_cores, resolve_device, set_matmul
from featcache.training.checkpoint import checkpoint_digest
from featcache.training.identity import digest
from featcache.training.settings import TrainingSettings
from featcache.training.world import ALONE, World, find_world


def run_folder(settings: Settings, *, out: str | None, store: str, name: str) -> Path:
    """Folder of a run: ``out``, or ``runs/<store>/<name>-<hash of the settings>``."""
    if out is not None:
        return Path(out)
    short = hashlib.sha256(to_yaml(settings).encode()).hexdigest()[:12]
    return Path("runs") / Path(store).name / f"{name}-{short}"


def seed_folder(folder: Path, seed: int) -> Path:
    """The folder of one seed of a run."""
    return folder / f"seed-{seed}"


def find_seed(folder: Path, seed: int) -> Path:
    """The run of a seed under ``folder``, or the only run there, or ``folder`` itself if it is one.

    Raises:
        ConfigError: There is no run, or there are several and none has this seed.
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


def run_content(folder: Path) -> str:
    """A digest of the trained weights of all seeds of a run; other code reads them by :func:`find_seed`."""
    found = sorted(path.parent for path in folder.glob("seed-*/checkpoint.json"))
    return digest([[path.name, checkpoint_digest(path)] for path in found] or [["", checkpoint_digest(folder)]])


def only_seed(folder: Path) -> int:
    """The seed of a run with one seed; any number if there is nothing to choose from.

    Raises:
        ConfigError: There are several seeds.
    """
    found = [re.fullmatch(r"seed-(\d{1,18})", path.parent.name, re.ASCII) for path in folder.glob("*/checkpoint.json")]
    seeds = sorted(int(match[1]) for match in found if match)
    if len(seeds) > 1:
        raise ConfigError(f"{folder} has runs of seeds {', '.join(map(str, seeds))}; name one of them")
    return seeds[0] if seeds else 0


def prepare_torch(settings: TrainingSettings, *, world: World | None = None) -> torch.device:
    """Set the number of threads and the float32 precision, and return the device of a run, one per process.

    Args:
        settings: Device, threads and float32 precision.
        world: The processes that share the run; ``None`` for a run that cannot be shared.

    Raises:
        ConfigError: There is no such device, it is one for several processes, or there are several processes for a run
            that cannot be shared.
        StoppedError: In the other processes, when the first raises the last of these errors.
    """
    if world is None:
        refuse_company("this command trains in one")
        world = ALONE
    torch.set_num_threads(settings.threads or cores_of(world))
    set_matmul(settings.matmul)
    device = torch.device(resolve_device(settings.device))
    return device if world.size == 1 or device.type == "cpu" else _own_gpu(settings.device, world)


def refuse_company(why: str) -> None:
    """Refuse several processes started by torchrun for a command that runs in one process.

    Raises:
        ConfigError: In the first of several processes.
        StoppedError: In the other processes, which print no message.
    """
    world = find_world()
    if not world.is_first:
        raise StoppedError("the first process says why it stopped")
    if world.size > 1:
        raise ConfigError(f"torchrun started {world.size} processes and {why}; start it without torchrun")


def cores_of(world: World) -> int:
    """Number of cores for this process if those of a machine are divided among its processes; at least one."""
    return max(1, num_cores() // world.local_size)


def _own_gpu(device: str, world: World) -> torch.device:
    if device.startswith("cuda:"):
        raise ConfigError(f"device {device!r} is one for {world.size} processes; give 'cuda', and each takes its own")
    if world.local_size > (num_gpus := torch.cuda.device_count()):
        raise ConfigError(
            f"torchrun started {world.local_size} processes where torch sees {num_gpus} GPUs; start {num_gpus} or fewer"
        )
    own = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(own)
    return own
