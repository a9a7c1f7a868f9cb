"""One runner for every method: the seeds of a run, their folders, logs and checkpoints, and the result.

A method opens its data, then builds an objective for each seed and gives it to :meth:`SeedRuns.train`; unfinished runs
in the folder are resumed, finished ones are kept. At the end the method writes its result with
:meth:`SeedRuns.finish`.
"""

import dataclasses
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from featcache.config import Settings, to_yaml
from featcache.errors import ConfigError
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.stages import OnStage, ignore
from featcache.summary import Result, SummaryTable
from featcache.training.identity import Identity, identity_of
from featcache.training.kept import KeptEpochs, NetworkFile
from featcache.training.logs import read_log
from featcache.training.loop import NOTHING_FROZEN, OnEpoch, OnStep, StepReport, measure_nothing, train
from featcache.training.objective import Objective
from featcache.training.runs import prepare_torch, run_folder, seed_folder
from featcache.training.settings import TrainingSettings
from featcache.training.skips import Replaced, SkipLedger, begin_skips, merge_skips
from featcache.training.world import ALONE, World

B = TypeVar("B")
R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRuns:
    """The seeds of one run; see :func:`open_runs`.

    Attributes:
        settings: Settings of the method, which are written to ``config.yaml``.
        training: The part of them that the loop reads.
        folder: The run's folder.
        device: Device on which modules are trained.
        world: The processes that share the run; the first one writes.
        items: Name of the items that the objective counts, e.g. ``videos``, for progress.
        network_name: Name of the weights file of each seed; ``None`` if the method writes none.
        on_stage: Called after every step with the stage ``seed N``.
        weights: The weights file of each seed, filled by :meth:`train`; empty if the method writes none.
        lines: The last line of each seed's log, filled by :meth:`train`.
        skipped: How often each damaged video was replaced, by the folder of a seed, filled by :meth:`train`.
    """

    settings: Settings
    training: TrainingSettings
    folder: Path
    device: torch.device
    world: World
    items: str
    network_name: str | None
    on_stage: OnStage
    weights: dict[int, str] = field(default_factory=dict)
    lines: dict[int, Mapping[str, float]] = field(default_factory=dict)
    skipped: dict[Path, Mapping[str, int]] = field(default_factory=dict)

    def train(
        self,
        objective: Objective[B],
        *,
        seed: int,
        identity: Identity,
        facts: Mapping[str, Any],
        within: str = "",
        frozen_epochs: Mapping[str, float] = NOTHING_FROZEN,
        has_unused: bool = False,
        network: NetworkFile | None = None,
        on_epoch: OnEpoch = measure_nothing,
        on_step: OnStep | None = None,
    ) -> nn.Module:
        """Train one seed and write its network; see :func:`featcache.training.loop.train`, also for the errors.

        Args:
            objective: The task of this seed, with its module on the device.
            seed: One of the seeds of the settings.
            identity: Identity with which a checkpoint must have been made; see :meth:`identity`.
            facts: Facts to keep in the checkpoint for code that loads it.
            within: Parent of the seed's folder, relative to the run's folder.
            frozen_epochs: Number of epochs in which parameters are frozen, by a prefix of their names.
            has_unused: Whether trained parameters may take no part in a loss.
            network: How the network is written; given where the method writes one.
            on_epoch: Called after every epoch in all processes; what it returns is added to the log.
            on_step: Called after every step, in addition to ``on_stage``.

        Returns:
            The module to use, in evaluation mode.
        """
        assert (network is None) == (self.network_name is None), f"{self.network_name} and {network}"
        self.write_settings()
        here = seed_folder(self.folder / within, seed)
        self.world.from_first(lambda: begin_skips(here))
        trained = train(
            objective,
            self.training,
            folder=here,
            seed=seed,
            identity=identity,
            facts=facts,
            frozen_epochs=frozen_epochs,
            world=self.world,
            has_unused=has_unused,
            kept=None
            if network is None
            else KeptEpochs(folder=here, seed=seed, epochs=self.training.keep_epochs, network=network),
            on_epoch=on_epoch,
            on_step=self.reporting(seed, on_step=on_step),
        )
        self.lines[seed] = self.world.from_first(lambda: read_log(here)[-1])
        self.skipped[here] = self.world.from_first(lambda: merge_skips(here))
        if network is not None and self.network_name is not None:
            self.weights[seed] = str(here / self.network_name)
            if self.world.is_first:
                network.write(here / self.network_name, trained, beside={"seed": seed})
        return trained

    def skips(self, seed: int, videos: Sized, max_damaged: float, *, within: str = "") -> SkipLedger:
        """The ledger of the damaged videos of a seed.

        Args:
            seed: One of the seeds of the settings.
            videos: The videos that are trained on.
            max_damaged: Share of them that may be damaged.
            within: As in :meth:`train`.
        """
        here = seed_folder(self.folder / within, seed)
        return SkipLedger(here, run=self.folder, rank=self.world.rank, num_videos=len(videos), max_damaged=max_damaged)

    @property
    def replaced(self) -> Replaced:
        """How much was replaced in the seeds that have been trained."""
        return Replaced.of(self.skipped.values())

    def identity(self, seed: int, inputs: Mapping[str, str], *, beside: Mapping[str, Any] | None = None) -> Identity:
        """The identity of a seed of these settings; see :func:`featcache.training.identity.identity_of`."""
        return identity_of(self.settings, inputs=inputs, seed=seed, beside=beside)

    def reporting(self, seed: int, *, on_step: OnStep | None = None) -> OnStep:
        """A callback for the loop that reports its progress as the stage ``seed N``."""

        def report(step: StepReport) -> None:
            rates = f"{step.items_per_second:.0f} {self.items}/s wait {step.wait_share:.0%}"
            known = "" if step.loss is None else f"loss {step.loss:.3f} "
            measured = "".join(f"{name} {value:.3f} " for name, value in step.measured.items())
            self.on_stage(f"seed {seed}", step.epoch, step.epochs, f"{known}{measured}{rates}")
            if on_step is not None:
                on_step(step)

        return report

    def write_settings(self) -> None:
        """Write ``config.yaml``, after everything has been checked, so that an error leaves no folder."""
        if self.world.is_first:
            put_replace(self.folder / "config.yaml", to_yaml(self.settings).encode())

    def finish(self, result: R) -> R:
        """Write ``result.json`` and return the result."""
        if self.world.is_first:
            put_replace(self.folder / "result.json", canonical_json(result.to_dict()))
        return result


def open_runs(
    settings: Settings,
    training: TrainingSettings,
    *,
    name: str,
    of: str,
    out: str | None,
    items: str = "clips",
    network: str | None = None,
    world: World | None = None,
    on_stage: OnStage = ignore,
) -> SeedRuns:
    """Prepare torch and choose the folder of a run; nothing is written yet.

    Args:
        settings: Settings of the method.
        training: The part of them that the loop reads.
        name: Name of the method, for the folder.
        of: Store or source of the training data, for the folder.
        out: The folder; ``None``: ``runs/<of>/<name>-<hash of the settings>``.
        items: Name of the items that the objective counts, for progress.
        network: Name of the weights file that the method writes for each seed; ``None``: it writes none.
        world: The processes that share the run; ``None`` if it cannot be shared.
        on_stage: Called after every step.

    Raises:
        ConfigError: There is no such device, there are several processes for a run that cannot be shared, they cannot
            share a batch equally, or epochs are to be kept of a method that writes no network.
        StoppedError: In the other processes, when the first raises an error.
    """
    if training.keep_epochs and network is None:
        raise ConfigError(
            "training.keep_epochs names epochs whose network is to be kept, and this run writes no network of its own; "
            "leave training.keep_epochs out"
        )
    if world is not None:
        world.share(training.batch_size)
    return SeedRuns(
        settings=settings,
        training=training,
        folder=run_folder(settings, out=out, store=of, name=name),
        device=prepare_torch(training, world=world),
        world=world or ALONE,
        items=items,
        network_name=network,
        on_stage=on_stage,
    )


def result_dict(result: Any) -> dict[str, Any]:
    """JSON-ready values of a result that is a dataclass; seeds that are keys become text."""
    return {
        name: {str(key): each for key, each in value.items()} if isinstance(value, Mapping) else value
        for name, value in dataclasses.asdict(result).items()
    }


def last_epochs(title: str, lines: Mapping[int, Mapping[str, float]], columns: Mapping[str, str]) -> SummaryTable:
    """A table of the last epoch of each seed, to three digits.

    Args:
        title: Heading of the table.
        weights: The weights file of each seed, filled by :meth:`train`; empty if the method writes none.
        lines: The last line of each seed's log.
        columns: Heading of each column by the name of its value; a value that is not in the log is left empty.
    """
    return SummaryTable(
        title=title,
        columns=("seed", *columns.values()),
        rows=tuple(
            (str(seed), *(f"{line[name]:.3g}" if name in line else "" for name in columns))
            for seed, line in lines.items()
        ),
    )
