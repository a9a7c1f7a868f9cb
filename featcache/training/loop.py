"""The loop: steps over batches by number, resumed exactly, stopped at the first loss that is not finite."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from featcache.errors import ConfigError, FeatcacheError
from featcache.machine import keep_freed_memory
from featcache.training.checkpoint import (
    Checkpoint,
    optimiser_tensors,
    read_checkpoint,
    restore_optimiser,
    taking_up,
    write_checkpoint,
)
from featcache.training.generators import seeded_torch
from featcache.training.gradients import clip_each_, clipped_together, drop_gradients, named
from featcache.training.identity import Identity
from featcache.training.kept import KeptEpochs
from featcache.training.logs import RunLog
from featcache.training.meter import Meter
from featcache.training.objective import Loss, Objective
from featcache.training.optimisers import build_optimiser, peak_lr
from featcache.training.schedules import cosine, learning_rate_factor
from featcache.training.settings import TrainingSettings
from featcache.training.shared import SharedLoss
from featcache.training.world import ALONE, World

B = TypeVar("B")
BATCHES_AHEAD = 2
NOTHING_FROZEN: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """Progress of a run after a step.

    Attributes:
        epoch: Fractional number of epochs done.
        epochs: Total number of epochs.
        loss: Mean loss over the epoch so far; on a GPU that of the last line of the log, ``None`` before the first.
        items_per_second: Items per second since the run, or its resumption, began.
        wait_share: Share of that time that was spent waiting for batches.
        measured: What was last measured at the end of an epoch.
    """

    epoch: float
    epochs: int
    loss: float | None
    items_per_second: float
    wait_share: float
    measured: Mapping[str, float] = field(default_factory=dict)


OnStep = Callable[[StepReport], None]


OnEpoch = Callable[[int], Mapping[str, float]]


def ignore(report: StepReport) -> None:
    """Ignore the report."""


def measure_nothing(epoch: int) -> Mapping[str, float]:
    """Add nothing to the log."""
    return {}


def train(
    objective: Objective[B],
    settings: TrainingSettings,
    *,
    folder: Path,
    seed: int,
    identity: Identity,
    facts: Mapping[str, Any],
    frozen_epochs: Mapping[str, float] = NOTHING_FROZEN,
    world: World = ALONE,
    has_unused: bool = False,
    kept: KeptEpochs | None = None,
    on_epoch: OnEpoch = measure_nothing,
    on_step: OnStep = ignore,
) -> nn.Module:
    """Train ``objective.module`` in place; a folder with a checkpoint of the same run is resumed where it stopped.

    On CPU with the same number of threads, a run that was killed and resumed equals an uninterrupted one, bit for bit.
    Random layers (dropout, drop path) draw from torch's generators, which are seeded at each step by the run's seed and
    the step, and in processes other than the first also by their rank.

    All processes that share a run call this, each with its own objective. The first one writes; the numbers in the log
    are means over all processes. A run may be resumed with another number of processes.

    Args:
        objective: The task, with its module already on the device.
        settings: Epochs, optimiser, precision.
        folder: Folder for checkpoint and logs.
        seed: Seed of this run.
        identity: Identity with which a checkpoint must have been made.
        facts: Facts to keep in the checkpoint for code that loads it.
        frozen_epochs: Number of epochs at the start in which parameters are frozen, by a prefix of their names in
            ``objective.module``, e.g. ``{"student.head.last_layer.": 1.0}`` (DINO).
        world: The processes that share the run; ``objective`` gives this one's share of each batch.
        has_unused: Whether trained parameters may take no part in a loss; processes that share a run have to know.
        kept: Writes the network at chosen epochs, in the first process, each time after a checkpoint.
        on_epoch: Called after each epoch, in all processes, with the number of epochs done. What it returns is added to
            the epoch's line of the log; the time that it takes does not lower the rates.
        on_step: Called after each step, in the first process.

    Returns:
        The module to use, in evaluation mode: the averaged one if ``ema_decay`` is set, otherwise the trained one.

    Raises:
        ConfigError: Processes find different checkpoints, an epoch has too few batches for a step, or an epoch to keep
            has passed.
        DivergedError: The loss is not finite; the last checkpoint is kept.
        KeyError: No trained parameter has one of the prefixes.
        RecipeMismatchError: The folder holds another run.
        UnknownNameError: No trained parameter has a name for which ``lr_factors`` has a factor.
    """
    run = _Run(
        objective,
        settings,
        folder=folder,
        seed=seed,
        identity=identity,
        facts=facts,
        frozen_epochs=frozen_epochs,
        world=world,
        has_unused=has_unused,
        kept=kept,
    )
    first = run.restore()
    world.from_first(lambda: run.keep_resumed(first))
    if first >= run.num_steps:
        return run.result
    run.module.train()
    with (
        _log(folder, settings, first_step=first, world=world) as log,
        _batches(objective, first * settings.accumulate, run.num_steps * settings.accumulate, settings) as batches,
    ):
        saved_at = time.monotonic()
        measured: Mapping[str, float] = {}
        for step in range(first, run.num_steps):
            lr = run.step(step, batches)
            done, meter = step + 1, run.meter
            # Clocks differ, and all processes must take the same decision.
            is_late = time.monotonic() - saved_at >= settings.checkpoint_seconds
            is_due = world.any(is_late or done == run.num_steps or run.is_kept(done))
            if run.is_logged(done) or is_due:
                meter.check_finite(step=done, folder=folder)
            at = {"epoch": done / run.steps_an_epoch, "lr": lr}
            if done % settings.log_steps == 0:
                line = at | meter.end_recent()
                if log is not None:
                    log.write_steps(done, line)
            if done % run.steps_an_epoch == 0:
                with meter.leaving_out():
                    found = on_epoch(done // run.steps_an_epoch)
                measured = found or measured
                line = {**at, **meter.end_epoch(), **found}
                if log is not None:
                    log.write(done, line)
            if world.is_first:
                on_step(
                    StepReport(
                        epoch=at["epoch"],
                        epochs=settings.epochs,
                        loss=meter.last_loss,
                        measured=measured,
                        **meter.rates(),
                    )
                )
            if is_due:
                if world.is_first:
                    run.save(done)
                    run.keep(done)
                saved_at = time.monotonic()
    world.barrier()  # all processes see what the first has written
    return run.result


class _Run:
    """State of a run: module, optimiser, averaged module, sums for the log."""

    def __init__(
        self,
        objective: Objective[B],
        settings: TrainingSettings,
        *,
        folder: Path,
        seed: int,
        identity: Identity,
        facts: Mapping[str, Any],
        frozen_epochs: Mapping[str, float],
        world: World,
        has_unused: bool,
        kept: KeptEpochs | None,
    ) -> None:
        self.module = objective.module
        self._kept = kept
        self._objective = objective
        self._world = world
        self._settings = settings
        self._folder, self._seed, self._identity, self._facts = folder, seed, identity, facts
        self._lr = peak_lr(settings.optimiser, batch_size=settings.batch_size * settings.accumulate)
        self._optimiser = build_optimiser(self.module, settings.optimiser, lr=self._lr, factors=settings.lr_factors)
        self._average: AveragedModel | None = None
        if settings.ema_decay is not None:
            update = get_ema_multi_avg_fn(settings.ema_decay)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(self.module, multi_avg_fn=update, use_buffers=True)
        self._frozen = [(named(self.module, prefix), epochs) for prefix, epochs in frozen_epochs.items()]
        self._device = next(self.module.parameters()).device
        keep_freed_memory(self._device.type)
        self.steps_an_epoch = settings.steps_an_epoch(objective.num_batches)
        self.num_steps = settings.epochs * self.steps_an_epoch
        self.meter = Meter(self._device, world, items_a_step=objective.num_items / self.steps_an_epoch)
        self._loss = SharedLoss(objective, world, has_unused=has_unused)

    @property
    def used(self) -> nn.Module:
        """The module to use, in the mode that it is in."""
        module: nn.Module = self.module if self._average is None else self._average.module
        return module

    @property
    def result(self) -> nn.Module:
        """The module to use, in evaluation mode."""
        return self.used.eval()

    def restore(self) -> int:
        """Load the folder's checkpoint, if there is one; returns the number of steps done."""
        saved = read_checkpoint(self._folder, identity=self._identity)
        steps = self._world.gather(torch.tensor([0 if saved is None else saved.step])).tolist()
        if len(set(steps)) > 1:
            raise ConfigError(
                f"processes find {self._folder} at different steps, {steps}; put the run on a disk that all "
                "machines share"
            )
        if saved is None:
            return 0
        with taking_up(self._folder):
            self.module.load_state_dict(saved.part("module"))
            restore_optimiser(self._optimiser, saved.part("optimiser"))
            if self._average is not None:
                self._average.load_state_dict(saved.part("ema"))
        return saved.step

    def save(self, step: int) -> None:
        """Publish a checkpoint."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser_tensors(self._optimiser).items()}
        if self._average is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self._average.state_dict().items()}
        write_checkpoint(
            self._folder,
            Checkpoint(step=step, identity=self._identity.values, tensors=_unshared(tensors), facts=self._facts),
        )

    def is_kept(self, done: int) -> bool:
        """Whether the network is written after so many steps."""
        epoch, rest = divmod(done, self.steps_an_epoch)
        return self._kept is not None and not rest and epoch in self._kept.epochs

    def keep(self, done: int) -> None:
        """Write the network, if it is to be after so many steps, of which there is a checkpoint."""
        if self._kept is not None and self.is_kept(done):
            self._kept.write(done // self.steps_an_epoch, self.used)

    def keep_resumed(self, done: int) -> None:
        """Write what a kill right after the checkpoint of ``done`` steps has prevented.

        Raises:
            ConfigError: An epoch to keep has passed without being kept.
        """
        if self._kept is not None:
            self._kept.check(done / self.steps_an_epoch)
        self.keep(done)

    def is_logged(self, done: int) -> bool:
        """Whether a line of the log follows after so many steps."""
        return done % self._settings.log_steps == 0 or done % self.steps_an_epoch == 0

    def step(self, number: int, batches: Iterator[list[Any]]) -> float:
        """Take one optimiser step; returns its learning rate."""
        settings = self._settings
        epoch = number / self.steps_an_epoch
        lr = self._lr * learning_rate_factor(epoch, epochs=settings.epochs, schedule=settings.schedule)
        for group in self._optimiser.param_groups:
            group["lr"] = lr * group["lr_factor"]
            if settings.optimiser.final_weight_decay is not None and group["weight_decay"]:
                start, end = settings.optimiser.weight_decay, settings.optimiser.final_weight_decay
                group["weight_decay"] = cosine(start, end, number / self.num_steps)
        with seeded_torch(self._seed, "step", number, *self._world.keys, device=self._device):
            for batch in range(settings.accumulate):
                waiting = time.monotonic()
                parts = next(batches)
                self.meter.waited(time.monotonic() - waiting)
                for place, part in enumerate(parts):
                    is_last = batch == settings.accumulate - 1 and place == len(parts) - 1
                    loss = self._pass(part, is_last=is_last)
                    self.meter.add(loss, num_parts=len(parts), is_logged=self.is_logged(number + 1))
        self.meter.end_step()
        for parameters, epochs in self._frozen:
            if epoch < epochs:
                drop_gradients(parameters)
        if settings.clip_norm is not None:
            for part in clipped_together(self.module):
                clip_grad_norm_(part.parameters(), settings.clip_norm)
        if settings.clip_each_norm is not None:
            clip_each_(self.module.parameters(), settings.clip_each_norm)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._objective.after_step((number + 1) / self.num_steps)
        if self._average is not None:
            self._average.update_parameters(self.module)
        return lr

    def _pass(self, part: Any, *, is_last: bool) -> Loss:
        """Run forward and backward pass; after the last part of a step gradients are means over all processes."""
        is_low = self._settings.precision == "bfloat16"
        with self._loss.passing(is_last=is_last):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=is_low):
                loss = self._loss(part)
            (loss.total / self._settings.accumulate).backward()  # type: ignore[no-untyped-call]
        return loss


def _log(
    folder: Path, settings: TrainingSettings, *, first_step: int, world: World
) -> AbstractContextManager[RunLog | None]:
    """The log of a run, in the first process."""
    if not world.is_first:
        return nullcontext()
    return RunLog(folder, first_step=first_step, tensorboard=settings.tensorboard)


def trained_state(folder: Path) -> Checkpoint:
    """Read the checkpoint of a finished or stopped run.

    Raises:
        FeatcacheError: There is no checkpoint.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint is None:
        raise FeatcacheError(f"{folder} holds no checkpoint; give the folder of a run (it has a checkpoint.json)")
    return checkpoint


@contextmanager
def _batches(objective: Objective[B], first: int, stop: int, settings: TrainingSettings) -> Iterator[Iterator[list[B]]]:
    """Batches ``first`` to ``stop`` of the whole run, prepared a few steps ahead in another thread."""
    an_epoch = settings.steps_an_epoch(objective.num_batches) * settings.accumulate

    def make(number: int) -> list[B]:
        return objective.parts(number // an_epoch, number % an_epoch)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        pending = [pool.submit(make, number) for number in range(first, min(first + BATCHES_AHEAD, stop))]

        def each() -> Iterator[list[B]]:
            following = first + len(pending)
            while pending:
                parts = pending.pop(0).result()
                if following < stop:
                    pending.append(pool.submit(make, following))
                    following += 1
                yield parts

        try:
            yield each()
        finally:
            for future in pending:
                future.cancel()


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory, which safetensors refuses."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result
