"""Means of losses and metrics over spans of steps; sums stay on the device until a line of the log is written."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from featcache.errors import FeatcacheError
from featcache.training.objective import Loss
from featcache.training.world import World


class DivergedError(FeatcacheError, ArithmeticError):
    """A loss that is not finite."""


class Span:
    """Sums over consecutive steps, and how long they took.

    Attributes:
        num_steps: Number of steps.
        waited_seconds: Time spent waiting for batches.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches: dict[str, float] = {}
        self._began = time.monotonic()
        self.num_steps = 0
        self.waited_seconds = 0.0

    def add(self, values: Mapping[str, Tensor], *, weight: float) -> None:
        """Add values that are multiplied already by the share ``weight`` that they have in a batch."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._batches[name] = self._batches.get(name, 0.0) + weight

    def mean(self, name: str) -> float:
        """Mean of a value over the batches that had it; waits for a GPU."""
        return float(self._sums[name]) / self._batches[name]

    def means(self) -> dict[str, float]:
        """Means of all values; waits for a GPU."""
        return {name: self.mean(name) for name in self._sums}

    def is_finite(self) -> bool:
        """Whether the loss has been finite; waits for a GPU."""
        return bool(torch.isfinite(self._sums["loss"]))

    def rates(self, *, items_a_step: float) -> dict[str, float]:
        """``items_per_second`` and ``wait_share``, as this process sees them."""
        seconds = time.monotonic() - self._began
        return {
            "items_per_second": items_a_step * self.num_steps / seconds,
            "wait_share": self.waited_seconds / seconds,
        }

    def leave_out(self, seconds: float) -> None:
        """Do not count some time that was not spent on steps."""
        self._began += seconds


class Meter:
    """Measures a run: as a whole, the epoch in progress, and the steps since the last line about steps.

    Attributes:
        run: Steps since the run, or its resumption, began; holds no values.
        epoch: Steps of the epoch.
        recent: Steps since the last line about steps.
        last_loss: Mean loss of the epoch so far; on a GPU, which nobody waits for, the mean in the last line of the
            log, and ``None`` before the first.
    """

    def __init__(self, device: torch.device, world: World, *, items_a_step: float) -> None:
        """Begin to measure.

        Args:
            device: Device of the losses.
            world: The processes whose means are logged.
            items_a_step: Number of items of a step of all processes, for rates.
        """
        self._device = device
        self._world = world
        self._items_a_step = items_a_step
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.run, self.epoch, self.recent = Span(), Span(), Span()
        self.last_loss: float | None = None

    @property
    def spans(self) -> tuple[Span, Span, Span]:
        """All spans."""
        return self.run, self.epoch, self.recent

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for a batch."""
        for span in self.spans:
            span.waited_seconds += seconds

    def add(self, loss: Loss, *, num_parts: int, is_logged: bool) -> None:
        """Add one of ``num_parts`` parts of a batch; collective.

        Args:
            loss: Its loss and metrics.
            num_parts: Number of parts of the batch.
            is_logged: Whether a line of the log follows this step, so that costly metrics are computed too.
        """
        values = {"loss": loss.total.detach(), **loss.metrics}
        if is_logged:
            with torch.no_grad():
                values |= {name: compute() for name, compute in loss.seldom.items()}
        shares = {name: value / num_parts for name, value in self._over_all(values).items()}
        for span in (self.epoch, self.recent):
            span.add(shares, weight=1 / num_parts)
        if self._device.type == "cpu":  # on another device, reading it would have to wait
            self.last_loss = self.epoch.mean("loss")

    @contextmanager
    def leaving_out(self) -> Iterator[None]:
        """Do not count the time of a ``with`` block, which does no steps."""
        began = time.monotonic()
        yield
        for span in self.spans:
            span.leave_out(time.monotonic() - began)

    def _over_all(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over all processes, in one message and without waiting for a GPU."""
        if self._world.size == 1:
            return values
        return dict(zip(values, self._world.mean_(torch.stack(list(values.values()))).unbind(), strict=True))

    def end_step(self) -> None:
        """Count a step."""
        for span in self.spans:
            span.num_steps += 1

    def end_epoch(self) -> dict[str, float]:
        """Means over the epoch, and rates of the whole run; the next epoch begins. Collective."""
        line = self._line(self.epoch, self.run)
        self.last_loss = line["loss"]
        self.epoch = Span()
        return line

    def end_recent(self) -> dict[str, float]:
        """Means and rates since the last line about steps. Collective."""
        line = self._line(self.recent, self.recent)
        if self._device.type != "cpu":
            self.last_loss = line["loss"]
        self.recent = Span()
        return line

    def rates(self) -> dict[str, float]:
        """Rates of the whole run, as this process sees them."""
        return self.run.rates(items_a_step=self._items_a_step)

    def _line(self, span: Span, timed: Span) -> dict[str, float]:
        rates = timed.rates(items_a_step=self._items_a_step)
        shared = self._world.mean_(torch.tensor(list(rates.values()), dtype=torch.float64)).tolist()
        return span.means() | self._memory() | dict(zip(rates, shared, strict=True))

    def _memory(self) -> dict[str, float]:
        """Peak memory of a GPU; on a CPU, a process has a single peak for everything that ran in it."""
        if self._device.type != "cuda":
            return {}
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(self._device)}

    def check_finite(self, *, step: int, folder: Path) -> None:
        """Check the losses since the last line about steps and those of the epoch; waits for a GPU.

        Raises:
            DivergedError: One is not finite.
        """
        if not all(span.is_finite() for span in (self.epoch, self.recent) if span.num_steps):
            raise DivergedError(
                f"the loss is not finite by step {step} of {folder}; the last checkpoint there is good: "
                "lower the learning rate, set clip_norm, or look for features that are not finite"
            )
