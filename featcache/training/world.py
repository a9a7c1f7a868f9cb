"""The processes that share a run, started by torchrun: each has a GPU and a share of every batch.

Tensors on the CPU are exchanged through gloo, so that common decisions do not wait for a GPU; tensors on a GPU are
exchanged through NCCL. Both give up after half an hour, so that a process that hangs is found. Only what waits for the
first process's own work, such as listing the videos, is patient, through a gloo group of its own.
"""

import datetime
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from featcache.errors import ConfigError, FeatcacheError, StoppedError

T = TypeVar("T")

# What an exchange within a step may take; a step takes seconds, writing a checkpoint minutes.
TIMEOUT = datetime.timedelta(minutes=30)
# The others wait while the first process lists the videos, which can take hours. If a process dies, torchrun ends those
# that wait for it.
PATIENCE = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes of a run from the view of one of them; by default it is the only one, and the methods cost nothing.

    Methods marked as collective must be called by all processes, in the same order.

    Attributes:
        rank: Number of this process.
        size: Total number of processes.
        local_rank: Number of this process on its machine, which is also the number of its GPU.
        local_size: Number of processes on this machine.
        patient: The same processes as a group that waits for hours; ``None`` is the group of all exchanges.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    patient: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size, f"process {self.rank} of {self.size}"
        assert 0 <= self.local_rank < self.local_size, f"process {self.local_rank} of {self.local_size} of a machine"

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    @property
    def keys(self) -> tuple[str | int, ...]:
        """Keys of this process for random draws; none for the first, which draws as a single process does."""
        return () if self.is_first else ("rank", self.rank)

    def share(self, batch_size: int) -> slice:
        """The places of a batch that belong to this process; the parts are equal and consecutive.

        Raises:
            ConfigError: Processes cannot share the batch equally.
        """
        each, rest = divmod(batch_size, self.size)
        if rest:
            raise ConfigError(
                f"training.batch_size is {batch_size}, which {self.size} processes cannot share equally; set "
                f"training.batch_size={(each + 1) * self.size}, or start another number of processes"
            )
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean_(self, tensor: Tensor) -> Tensor:
        """Replace a floating tensor by its mean over all processes, and return it; collective."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors [N, ...] of all processes as one [size * N, ...], by rank, without a gradient; collective."""
        if self.size == 1:
            return tensor
        every = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(every, tensor.contiguous())
        return torch.cat(every)

    def gather_trained(self, tensor: Tensor) -> Tensor:
        """As :meth:`gather`, with a gradient; collective, and so is its backward pass.

        A process gets the gradient of the sum of all processes' losses, of which
        :class:`featcache.training.shared.SharedLoss` makes that of their mean.
        """
        gathered: Tensor = tensor if self.size == 1 else _Gather.apply(tensor, self)
        return gathered

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """As :meth:`gather_trained` for rows [n, ...] of which each process may have another number n; collective.

        Returns:
            The rows of all processes, by rank, and the place of this process's first one among them.
        """
        if self.size == 1:
            return rows, 0
        counts = self.gather(torch.tensor([len(rows)])).tolist()
        padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
        gathered = torch.unflatten(self.gather_trained(padded), 0, (self.size, max(counts)))
        own = [part[:count] for part, count in zip(gathered, counts, strict=True)]
        return torch.cat(own), sum(counts[: self.rank])

    def mine(self, count: int) -> range:
        """Which of ``count`` items belong to this process, e.g. for scoring: every one to one process, none twice."""
        return range(self.rank, count, self.size)

    def collect(self, rows: Tensor, count: int) -> Tensor:
        """The rows of all ``count`` items [count, ...] in order, of which each process has its own; collective.

        Args:
            rows: Rows of the items :meth:`mine` of this process.
            count: Number of items of all processes.
        """
        assert len(rows) == len(self.mine(count)), f"{len(rows)} rows of {self.mine(count)}"
        each = -(-count // self.size)
        padded = torch.cat([rows, rows.new_zeros(each - len(rows), *rows.shape[1:])])
        self.barrier()  # shares take different times
        gathered = torch.unflatten(self.gather(padded), 0, (self.size, each))
        return gathered.transpose(0, 1).flatten(0, 1)[:count]

    def any(self, condition: bool, *, patiently: bool = False) -> bool:
        """Whether a condition holds in at least one process; collective, and waits for all processes.

        Args:
            condition: What this process says.
            patiently: Wait for hours, where another process may have work of its own before.
        """
        if self.size == 1:
            return condition
        flag = torch.tensor(int(condition))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.patient if patiently else None)
        return bool(flag)

    def barrier(self) -> None:
        """Wait for all processes, for hours if one has work of its own before; collective."""
        self.any(condition=False, patiently=True)

    def from_first(self, make: Callable[[], T]) -> T:
        """Send a value that the first process makes to the others, which wait for hours; collective.

        Args:
            make: Function that makes the value, called only in the first process.

        Raises:
            StoppedError: In the other processes, if the first could not make it.
        """
        if self.size == 1:
            return make()
        made: list[T | None] = [None]
        failure: FeatcacheError | OSError | None = None
        if self.is_first:
            try:
                made[0] = make()
            except (FeatcacheError, OSError) as error:
                failure = error
        if self.any(failure is not None, patiently=True):
            raise failure or StoppedError("the first process of the run stopped, whose own message says why")
        dist.broadcast_object_list(made, group=self.patient, device=torch.device("cpu"))
        return cast("T", made[0])


ALONE = World()


class _Gather(torch.autograd.Function):
    """The tensors of all processes; torch's own does not know a group that has both gloo and NCCL."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world, ctx.num_rows = world, len(tensor)
        return world.gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.world.rank * ctx.num_rows :][: ctx.num_rows], None


def find_world(environment: Mapping[str, str] = os.environ) -> World:
    """The processes that torchrun has started; :data:`ALONE` if it has started none or one.

    Raises:
        ConfigError: Another program has started several processes without numbering them.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    missing = [name for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE") if name not in environment]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {size} and {', '.join(missing)} is not set; start the processes with torchrun, or unset "
            "WORLD_SIZE"
        )
    return World(
        rank=int(environment["RANK"]),
        size=size,
        local_rank=int(environment["LOCAL_RANK"]),
        local_size=int(environment["LOCAL_WORLD_SIZE"]),
    )


@contextmanager
def join_world() -> Iterator[World]:
    """Join the other processes that torchrun has started, for a ``with`` block; a single process does nothing.

    A user's error that several processes find is raised in one of them, and becomes a :class:`StoppedError` in the
    others.

    Raises:
        ConfigError: See :func:`find_world`.
        StoppedError: Another process raises the same error, or has ended.
    """
    world = find_world()
    if world.size == 1:
        yield world
        return
    everything, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    # A process may join again, and must not find entries from before.
    store = dist.PrefixStore(f"joined {everything.add(f'joined by {rank}', 1)}", everything)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield replace(world, patient=cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=PATIENCE)))
    except StoppedError:
        raise
    except FeatcacheError as error:
        if store.add(f"told: {error}", 1) > 1:
            raise StoppedError(str(error)) from error
        raise
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise StoppedError(
            f"process {world.rank} of {world.size} lost another one, whose own message says why; the last checkpoint "
            "is good, run the same command again to go on"
        ) from error
    finally:
        dist.destroy_process_group()


def _is_loss(error: RuntimeError) -> bool:
    """Whether a collective failed because a process has ended; gloo has no exception class for it."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
