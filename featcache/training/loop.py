"""The loop: steps over batches by number, resumed exactly, stopped at the first loss that is not finite."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from featcache.errors import FeatcacheError
from featcache.training.checkpoint import (
    Checkpoint,
    optimiser_tensors,
    read_checkpoint,
    restore_optimiser,
    write_checkpoint,
)
from featcache.training.generators import seeded_torch
from featcache.training.logs import RunLog
from featcache.training.objective import Loss, Objective
from featcache.training.optimisers import build_optimiser, peak_lr
from featcache.training.schedules import learning_rate_factor
from featcache.training.settings import TrainingSettings

B = TypeVar("B")
BATCHES_AHEAD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is.

    Attributes:
        epoch: Fractional epochs done.
        epochs: Epochs in all.
        loss: Mean over the epoch so far.
        items_per_second: Since the run, or its resumption, began.
        wait_share: Share of that time spent waiting for batches.
    """

    epoch: float
    epochs: int
    loss: float
    items_per_second: float
    wait_share: float


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Report nothing."""


class DivergedError(FeatcacheError, ArithmeticError):
    """A loss that is not finite."""


def train(
    objective: Objective[B],
    settings: TrainingSettings,
    *,
    folder: Path,
    seed: int,
    identity: str,
    facts: Mapping[str, Any],
    on_progress: OnProgress = ignore,
) -> nn.Module:
    """Train ``objective.module`` in place; a folder with a checkpoint of the same run is taken up where it stopped.

    On CPU with the same threads, killed and resumed equals straight, bit for bit. Random layers (dropout, drop path)
    draw from torch's generators, seeded at each step by the run's seed and the step.

    Args:
        objective: The task, its module on the device already.
        settings: Epochs, optimiser, precision.
        folder: Where checkpoint and logs go.
        seed: Of this run.
        identity: What a checkpoint must have been made with.
        facts: Kept in the checkpoint for those who load it.
        on_progress: Called after each step.

    Returns:
        The module to use, in evaluation mode: the averaged one where ``ema_decay`` is set, else the trained one.

    Raises:
        DivergedError: The loss is not finite; the last checkpoint is kept.
        RecipeMismatchError: The folder holds another run.
    """
    module = objective.module
    lr = peak_lr(settings.optimiser, batch_size=settings.batch_size * settings.accumulate)
    optimiser = build_optimiser(module, settings.optimiser, lr=lr)
    average = (
        AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
        if settings.ema_decay
        else None
    )
    steps_an_epoch = max(1, objective.num_batches // settings.accumulate)
    num_steps = settings.epochs * steps_an_epoch
    device = next(module.parameters()).device
    first = 0
    if (saved := read_checkpoint(folder, identity=identity)) is not None:
        first = saved.step
        module.load_state_dict(saved.part("module"))
        restore_optimiser(optimiser, saved.part("optimiser"))
        if average is not None:
            average.load_state_dict(saved.part("ema"))
    result: nn.Module = module if average is None else average.module
    if first >= num_steps:
        return result.eval()

    def save(step: int) -> None:
        tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser_tensors(optimiser).items()}
        if average is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in average.state_dict().items()}
        write_checkpoint(folder, Checkpoint(step=step, identity=identity, tensors=_unshared(tensors), facts=facts))

    meter = _Meter(device)
    saved_at = began = time.monotonic()
    module.train()
    with (
        RunLog(folder, first_step=first, tensorboard=settings.tensorboard) as log,
        _batches(objective, first * settings.accumulate, num_steps * settings.accumulate, settings) as batches,
    ):
        for step in range(first, num_steps):
            factor = learning_rate_factor(step / steps_an_epoch, epochs=settings.epochs, schedule=settings.schedule)
            for group in optimiser.param_groups:
                group["lr"] = lr * factor
            with seeded_torch(seed, "step", step, device=device):
                for _ in range(settings.accumulate):
                    waiting = time.monotonic()
                    parts = next(batches)
                    meter.waited += time.monotonic() - waiting
                    for part in parts:
                        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                            loss = objective.loss(part)
                        (loss.total / settings.accumulate).backward()  # type: ignore[no-untyped-call]
                        meter.add(loss, num_parts=len(parts))
            if settings.clip_norm is not None:
                clip_grad_norm_(module.parameters(), settings.clip_norm)
            optimiser.step()
            optimiser.zero_grad()
            objective.after_step((step + 1) / num_steps)
            if average is not None:
                average.update_parameters(module)
            done = step + 1
            now = time.monotonic()
            ends_epoch = done % steps_an_epoch == 0
            due = now - saved_at >= settings.checkpoint_seconds
            if ends_epoch or due or done == num_steps:
                meter.check_finite(step=done, folder=folder)
            seconds = now - began
            items = objective.num_items * (done - first) / steps_an_epoch
            if ends_epoch:
                log.write(
                    done,
                    {
                        "epoch": done / steps_an_epoch,
                        "lr": lr * factor,
                        **meter.means(),
                        "items_per_second": items / seconds,
                        "wait_share": meter.waited / seconds,
                    },
                )
            on_progress(
                Progress(
                    epoch=done / steps_an_epoch,
                    epochs=settings.epochs,
                    loss=meter.last_loss,
                    items_per_second=items / seconds,
                    wait_share=meter.waited / seconds,
                )
            )
            if ends_epoch:
                meter.reset()
            if due or done == num_steps:
                save(done)
                saved_at = time.monotonic()
    return result.eval()


def trained_state(folder: Path) -> Checkpoint:
    """The checkpoint of a finished or stopped run.

    Raises:
        FeatcacheError: There is none.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint is None:
        raise FeatcacheError(f"{folder} holds no checkpoint; give the folder of a run (it has a checkpoint.json)")
    return checkpoint


class _Meter:
    """Sums of losses and metrics that stay on the device until an epoch ends."""

    def __init__(self, device: torch.device) -> None:
        self._on_cpu = device.type == "cpu"
        self.waited = 0.0
        self.last_loss = float("nan")
        self.reset()

    def reset(self) -> None:
        self._loss: Tensor | float = 0.0
        self._metrics: dict[str, Tensor] = {}
        self._batches = 0.0

    def add(self, loss: Loss, *, num_parts: int) -> None:
        self._loss = self._loss + loss.total.detach() / num_parts
        for name, value in loss.metrics.items():
            self._metrics[name] = self._metrics.get(name, torch.zeros_like(value)) + value / num_parts
        self._batches += 1 / num_parts
        if self._on_cpu:  # elsewhere reading it would wait for the device
            self.last_loss = float(self._loss) / max(self._batches, 1e-9)

    def means(self) -> dict[str, float]:
        self.last_loss = float(self._loss) / self._batches
        return {"loss": self.last_loss} | {name: float(value) / self._batches for name, value in self._metrics.items()}

    def check_finite(self, *, step: int, folder: Path) -> None:
        if not torch.isfinite(torch.as_tensor(self._loss)):
            raise DivergedError(
                f"the loss is not finite by step {step} of {folder}; the last checkpoint there is good: "
                "lower the learning rate, set clip_norm, or look for features that are not finite"
            )


@contextmanager
def _batches(objective: Objective[B], first: int, stop: int, settings: TrainingSettings) -> Iterator[Iterator[list[B]]]:
    """Batches ``first`` to ``stop`` of the whole run, made a few ahead in another thread."""
    an_epoch = max(1, objective.num_batches // settings.accumulate) * settings.accumulate

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
    """Copies of tensors that share memory, which safetensors refuses."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result
