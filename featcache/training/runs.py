"""Folders of runs: ``config.yaml``, ``result.json``, and one folder a seed with its checkpoint and log."""

import hashlib
from pathlib import Path

import torch

from featcache.config import Settings, to_yaml
from featcache.errors import ConfigError, StoppedError
from featcache.machine import num_cores, resolve_device, set_matmul
from featcache.training.settings import TrainingSettings
from featcache.training.world import ALONE, World, find_world


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


def prepare_torch(settings: TrainingSettings, *, world: World | None = None) -> torch.device:
    """Fix threads and products of float32, and return the device of a run, each process its own.

    Args:
        settings: Device, threads and products.
        world: The processes that share the run; ``None`` where a run cannot be shared.

    Raises:
        ConfigError: No such device, one for several processes, or several processes for a run that cannot be shared.
        StoppedError: The first process raises the last.
    """
    if world is None:
        refuse_company("this command trains in one, since its loss or its norms are over a whole batch")
        world = ALONE
    torch.set_num_threads(settings.threads or cores_of(world))
    set_matmul(settings.matmul)
    device = torch.device(resolve_device(settings.device))
    return device if world.size == 1 or device.type == "cpu" else _own_gpu(settings.device, world)


def refuse_company(why: str) -> None:
    """Stop where torchrun started several processes for what one can do.

    Raises:
        ConfigError: It did.
        StoppedError: The same in the other processes, of which one speaks.
    """
    world = find_world()
    if not world.is_first:
        raise StoppedError("the first process says why it stopped")
    if world.size > 1:
        raise ConfigError(f"torchrun started {world.size} processes and {why}; start it without torchrun")


def cores_of(world: World) -> int:
    """Cores for this process where those of a machine are divided among its processes; at least one."""
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
