"""Batches that processes share through a network with BatchNorm, and what each of two processes saw."""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from featcache.networks.catalogue import build_network
from featcache.seeding import seed_for
from featcache.training.generators import seeded_torch
from featcache.training.objective import Loss
from featcache.training.shared import SharedLoss
from featcache.training.shared_norm import share_batch_norms, uncounted
from featcache.training.world import ALONE, World, join_world

BATCH, STEPS, CLASSES = 8, 5, 3
ROWS = (3, 5)
KINDS = {
    "affine": {},
    "plain": {"affine": False},
    "average": {"momentum": None},
    "none": {"track_running_stats": False},
}


class Classified(nn.Module):
    """A thin R3D and a linear layer."""

    def __init__(self):
        super().__init__()
        self.network = build_network("r3d", width=1 / 16)
        self.head = nn.Linear(self.network.width, CLASSES)

    def forward(self, clips):
        return self.head(self.network(clips).vector)


class Toy:
    """Classification of noise; each process has its share of a batch."""

    def __init__(self, world: World, *, is_shared: bool):
        with seeded_torch(0, "norms"):
            self.module: nn.Module = Classified()
        if is_shared:
            share_batch_norms(self.module, world)
        self._share = world.share(BATCH)

    def batch(self, step):
        generator = torch.Generator().manual_seed(seed_for(0, "norms", step))
        clips = torch.randn(BATCH, 3, 8, 32, 32, generator=generator)
        clips *= torch.linspace(0.5, 2, BATCH).view(-1, 1, 1, 1, 1)  # so that halves of a batch differ
        labels = torch.randint(CLASSES, (BATCH,), generator=generator)
        return clips[self._share], labels[self._share]

    def loss(self, part):
        clips, labels = part
        return Loss(total=functional.cross_entropy(self.module(clips), labels), metrics={})


def trained(world: World = ALONE, *, is_shared: bool = True):
    """Losses of some steps, as means over all processes, and the state after them."""
    toy = Toy(world, is_shared=is_shared)
    loss = SharedLoss(toy, world)
    optimiser = torch.optim.SGD(toy.module.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for step in range(STEPS):
        optimiser.zero_grad()
        total = loss(toy.batch(step)).total
        total.backward()
        optimiser.step()
        losses.append(float(world.mean_(total.detach().clone())))
    return {"losses": torch.tensor(losses), **toy.module.state_dict()}


def rows():
    """Values [8, 6, 2] and weights of a loss."""
    generator = torch.Generator().manual_seed(1)
    return 5 + 3 * torch.randn(sum(ROWS), 6, 2, generator=generator), torch.randn(sum(ROWS), 6, 2, generator=generator)


def normed(own: slice, world: World = ALONE, **kind):
    """Values, gradients and running statistics of two training batches and an evaluation, for some rows of a batch."""
    values, weights = rows()
    norm = share_batch_norms(nn.Sequential(nn.BatchNorm1d(6, **kind)), world)
    for parameter in norm.parameters():
        parameter.data = torch.linspace(0.5, 1.5, 6)
    norm(-2 * values[own])
    x = values[own].requires_grad_()
    y = norm(x)
    (y.sigmoid() * weights[own]).sum().backward()
    gradients = {name: parameter.grad for name, parameter in norm.named_parameters()}
    if kind.get("track_running_stats", True):
        norm.eval()
    return {"y": y.detach(), "of_x": x.grad, "later": norm(x).detach()}, gradients, dict(norm.named_buffers())


def partly_counted(own: slice, then: slice, world: World = ALONE, *, is_counted: bool = True):
    """What two training batches leave behind, of which the first may not count in this process."""
    values, _ = rows()
    norms = share_batch_norms(nn.Sequential(nn.BatchNorm1d(6)), world)
    with nullcontext() if is_counted else uncounted(norms):
        y = norms(values[own])
    norms(values[then])
    return {"y": y.detach(), **dict(norms.named_buffers())}


def gathered(world: World):
    """The gathered rows, and the gradient of this process's row."""
    x = torch.tensor([[1.0 + world.rank, 10.0]], requires_grad=True)
    every = world.gather_trained(x)
    weights = torch.arange(2.0 * world.size).view(world.size, 2) * (1 + world.rank)
    (every.square() * weights).sum().backward()
    return {"every": every.detach(), "of_x": x.grad}


def main(folder: Path) -> None:
    """Leave what this process saw in ``rank-N.pt``."""
    torch.set_num_threads(1)
    with join_world() as world:
        first = sum(ROWS[: world.rank])
        own = slice(first, first + ROWS[world.rank])
        seen = {
            "shared": trained(world),
            "separate": trained(world, is_shared=False),
            "gathered": gathered(world),
            "partly": partly_counted(own, own, world, is_counted=world.is_first),
            "norms": {name: normed(own, world, **kind) for name, kind in KINDS.items()},
        }
    torch.save(seen, folder / f"rank-{world.rank}.pt")
