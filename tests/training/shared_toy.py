"""A task that processes share, and what each of two of them does with it."""

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from featcache.errors import FeatcacheError, ManifestError
from featcache.seeding import seed_for
from featcache.training.generators import seeded_torch
from featcache.training.identity import Identity
from featcache.training.loop import train
from featcache.training.objective import Loss
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings
from featcache.training.world import ALONE, World, join_world

SETTINGS = TrainingSettings(
    epochs=6,
    batch_size=8,
    accumulate=2,
    optimiser=OptimiserSettings(lr=0.02, weight_decay=0.1),
    schedule=ScheduleSettings(warmup_fraction=1 / 6),
    clip_each_norm=0.05,
    ema_decay=0.5,
    tensorboard=False,
)
FROZEN = {"0.": 2.5}
TOY = Identity(values={"what": "toy"})


class SharedToy:
    """Regression in two parts a batch, with a moving mean over all; from an epoch on the second process is poisoned."""

    num_batches = 4
    num_items = 4 * 8

    def __init__(self, world: World = ALONE, *, poisoned_from: int | None = None) -> None:
        with seeded_torch(0, "toy"):
            self.module: nn.Module = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
        self.module.register_buffer("mean", torch.zeros(5))
        self._world = world
        self._share = world.share(4)
        self._poisoned_from = poisoned_from

    def parts(self, epoch, batch):
        generator = torch.Generator().manual_seed(seed_for(0, epoch, batch))
        x = torch.randn(8, 5, generator=generator)
        if self._poisoned_from is not None and epoch >= self._poisoned_from and self._world.rank == 1:
            x = x * float("nan")
        return [part[self._share] for part in x.chunk(2)]

    def loss(self, part):
        self.module.mean.lerp_(self._world.mean_(part.mean(dim=0)), 0.1)
        output = self.module(part) + 0.1 * (part - self.module.mean).square().sum(dim=1, keepdim=True)
        target = part.sum(dim=1, keepdim=True)
        return Loss(total=functional.mse_loss(output, target), metrics={"size": output.detach().square().mean()})

    def after_step(self, progress):
        self.progress = progress


def run(folder, world=ALONE, *, objective=None, settings=SETTINGS):
    return train(
        objective or SharedToy(world),
        settings,
        folder=folder,
        seed=3,
        identity=TOY,
        facts={},
        frozen_epochs=FROZEN,
        world=world,
    )


def timeout(group):
    """How long a group's exchanges on the CPU may take."""
    return group._get_backend(torch.device("cpu")).options._timeout


def broken():
    raise ManifestError("no videos")


def main(folder: Path) -> None:
    """Leave what this process saw in ``rank-N.json``."""
    torch.set_num_threads(1)
    seen = {}
    with join_world() as world:
        number = torch.tensor([[1.0 + world.rank, 10.0]])
        seen["gathered"] = world.gather(number).tolist()
        seen["mean"] = world.mean_(number).tolist()
        seen["any"] = [world.any(world.rank == 1), world.any(world.rank == 7)]
        seen["collected"] = [
            world.collect(torch.tensor([[item, 0.5] for item in world.mine(count)]).reshape(-1, 2), count).tolist()
            for count in range(6)
        ]
        every, first = world.gather_rows(torch.full((3 * world.rank, 2), 5.0 + world.rank))
        seen["rows"] = [every.tolist(), first]
        seen["from_first"] = world.from_first(lambda: {"made by": world.rank})
        seen["timeouts"] = [timeout(group).total_seconds() for group in (torch.distributed.group.WORLD, world.patient)]
        torch.save(run(folder / "two", world).state_dict(), folder / f"rank-{world.rank}.pt")
        with seeded_torch(0, "drop", *world.keys):
            seen["draw"] = torch.rand(()).item()
    often = SETTINGS.model_copy(update={"checkpoint_seconds": 0.0})
    failing = {
        "diverged": lambda world: run(
            folder / "diverged", world, settings=often, objective=SharedToy(world, poisoned_from=2)
        ),
        "first": lambda world: world.from_first(broken),
        "unequal": lambda world: run(folder / f"unequal-{world.rank}", world),
    }
    for name, fail in failing.items():
        try:
            with join_world() as world:
                fail(world)
        except FeatcacheError as error:
            seen[name] = [type(error).__name__, str(error)]
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(seen))
