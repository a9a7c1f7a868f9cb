"""Trains several seeds as one stack of modules, each on its own batches, and writes the usual folders at the end.

The network and its heads run for all seeds at once (``torch.vmap`` over the stacked weights), so that the overhead of a
step is paid once. The contrastive losses run seed by seed: only the logits of one chunk of one seed are in memory.
"""

import copy
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from featcache.methods.scale.objective import ScaleObjective, SetBatch, compared
from featcache.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from featcache.training.identity import Identity
from featcache.training.logs import RunLog, read_log
from featcache.training.loop import StepReport, train, trained_state
from featcache.training.objective import Loss
from featcache.training.runs import seed_folder
from featcache.training.seeds import SeedRuns

NAME = "stack"
"""Name of the folder of a stack in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsBatch:
    """A batch of each of S seeds.

    Attributes:
        stack: Tensors of all seeds, [S, ...]; lists of clips are padded with 0.
        num_masked: Number of masked clips of each seed.
        num_present: Number of clips of each seed.
    """

    stack: SetBatch
    num_masked: tuple[int, ...]
    num_present: tuple[int, ...]


class StackObjective:
    """The tasks of several seeds as one; the loss is their sum, so each seed gets the same gradient as alone.

    See :class:`featcache.training.objective.Objective`.

    Attributes:
        module: The modules as one, see :func:`stacked`.
        num_batches: Number of batches per epoch, the same for each seed.
        num_items: Number of videos per epoch, over all seeds.
    """

    def __init__(self, objectives: Mapping[int, ScaleObjective]) -> None:
        self._objectives = dict(objectives)
        self._first = next(iter(self._objectives.values()))
        self.module: nn.Module = stacked([each.module for each in self._objectives.values()])
        self.num_batches = self._first.num_batches
        self.num_items = self._first.num_items * len(self._objectives)

    def parts(self, epoch: int, batch: int) -> list[SeedsBatch]:
        """One part with the batches that the seeds would have alone."""
        joined = join([each.draw(epoch, batch) for each in self._objectives.values()])
        return [dataclasses.replace(joined, stack=self._first.ahead(joined.stack))]

    def loss(self, part: SeedsBatch) -> Loss:
        """The sum of the losses over the seeds; the metrics of each seed are called ``seed-N/<name>``."""
        own = self._first.arrived(part.stack)
        assert own.features is not None, "clips are gathered"
        assert own.positions is not None, "positions are gathered"
        inputs = [own.features, own.positions, own.masked, own.masked_at]
        if own.present is not None and own.present_at is not None:
            inputs += [own.present, own.present_at]

        def project(parameters: Mapping[str, Tensor], *inputs: Tensor) -> dict[str, Tensor]:
            projected: dict[str, Tensor] = functional_call(self.module, dict(parameters), inputs)
            return projected

        with sdpa_kernel(SDPBackend.MATH):  # other kernels do not support vmap on every device
            projected = torch.vmap(project, randomness="different")(dict(self.module.named_parameters()), *inputs)
        totals: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        for place, seed in enumerate(self._objectives):
            mine = {name: vectors[place] for name, vectors in projected.items()}
            for name, count in (("predictions", part.num_masked), ("targets", part.num_present)):
                if name in mine:
                    mine[name] = mine[name][: count[place]]
            loss = compared(mine, own.positive[place, : part.num_masked[place]], self._first.settings)
            totals.append(loss.total)
            named = {"loss": loss.total.detach(), **loss.metrics}
            metrics |= {f"{_tag(seed)}{name}": value for name, value in named.items()}
        return Loss(total=torch.stack(totals).sum(), metrics=metrics)

    def after_step(self, progress: float) -> None:
        """Do nothing."""


def stacked(modules: Sequence[nn.Module]) -> nn.Module:
    """One module whose parameters are those of all modules, [S, ...] under the same names.

    It runs only under ``torch.vmap``. Its ``not_decayed`` names the parameters that are vectors in a single module:
    optimisers apply no weight decay to them, and cannot recognise them by the stacked shape.
    """
    parameters, buffers = stack_module_state(list(modules))
    assert not buffers, "a predictor and its heads have no buffers"
    stack = copy.deepcopy(modules[0])
    for name, values in parameters.items():
        owner, _, leaf = name.rpartition(".")
        setattr(stack.get_submodule(owner), leaf, nn.Parameter(values.detach()))
    stack.not_decayed = frozenset(  # type: ignore[assignment]
        name for name, parameter in modules[0].named_parameters() if parameter.ndim <= 1
    )
    return stack


def join(parts: Sequence[SetBatch]) -> SeedsBatch:
    """Join the batches of several seeds into one, padded to the largest."""
    size = max(part.rows.shape[1] for part in parts)
    is_full = all(part.present is None and part.rows.shape[1] == size for part in parts)
    there = [torch.ones_like(part.masked) if part.present is None else part.present for part in parts]
    present = torch.stack([_widened(each, size) for each in there])
    masked = torch.stack([_widened(part.masked, size) for part in parts])
    return SeedsBatch(
        stack=SetBatch(
            rows=torch.stack([_widened(part.rows, size) for part in parts]),
            masked=masked,
            present=None if is_full else present,
            present_at=None if is_full else _listed([each.flatten().nonzero()[:, 0] for each in present]),
            masked_at=_listed([each.flatten().nonzero()[:, 0] for each in masked]),
            positive=_listed([part.positive for part in parts]),
        ),
        num_masked=tuple(len(part.masked_at) for part in parts),
        num_present=tuple(int(each.sum()) for each in present),
    )


def train_stack(
    objectives: Mapping[int, ScaleObjective],
    runs: SeedRuns,
    *,
    identities: Mapping[int, Identity],
    facts: Mapping[str, Any],
) -> None:
    """Train several seeds as one, then write the folder of each as if it had been trained alone.

    A killed run resumes where it stopped, even if it was killed while writing the folders.

    Args:
        objectives: Objectives by seed, with their modules on the device.
        runs: The run; a folder within its own holds the stack until it is split.
        identities: Identities of the checkpoints by seed.
        facts: Facts to keep in each checkpoint.

    Raises:
        DivergedError: The loss of a seed is not finite; the last checkpoint is kept.
        RecipeMismatchError: The folder holds another run.
    """
    runs.write_settings()
    seeds = list(objectives)
    folders = {seed: seed_folder(runs.folder, seed) for seed in seeds}
    left = [seed for seed in seeds if read_checkpoint(folders[seed], identity=identities[seed]) is None]
    stack = runs.folder / NAME
    if left:

        def report(step: StepReport) -> None:
            rate = step.items_per_second / len(seeds)
            share = dataclasses.replace(step, loss=step.loss / len(seeds), items_per_second=rate)
            for seed in seeds:
                runs.reporting(seed)(share)

        train(
            StackObjective(objectives),
            runs.training.model_copy(update={"tensorboard": False}),
            folder=stack,
            seed=seeds[0],
            identity=Identity(values={f"seed {seed}": identities[seed].digest for seed in seeds}),
            facts=facts,
            on_step=report,
        )
        checkpoint, lines = trained_state(stack), read_log(stack)
        for place, seed in enumerate(seeds):
            if seed in left:
                _write_log(folders[seed], lines, seed, len(seeds), tensorboard=runs.training.tensorboard)
                write_checkpoint(folders[seed], _own(checkpoint, place, identity=identities[seed].values))
    if stack.exists():
        shutil.rmtree(stack)
    runs.lines.update({seed: read_log(folder)[-1] for seed, folder in folders.items()})


def _own(checkpoint: Checkpoint, place: int, *, identity: Mapping[str, Any]) -> Checkpoint:
    """The part of one seed; scalars, such as step counts, are shared by all seeds."""
    own = {name: tensor[place] if tensor.ndim else tensor for name, tensor in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, identity=identity, tensors=own)


def _write_log(folder: Path, lines: list[dict[str, Any]], seed: int, num_seeds: int, *, tensorboard: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tag = _tag(seed)
    with RunLog(folder, first_step=0, tensorboard=tensorboard) as log:
        for line in lines:
            shared = {name: value for name, value in line.items() if "/" not in name and name != "step"}
            shared["items_per_second"] /= num_seeds
            own = {name.removeprefix(tag): value for name, value in line.items() if name.startswith(tag)}
            log.write(line["step"], {**shared, **own})


def _tag(seed: int) -> str:
    return f"seed-{seed}/"


def _widened(values: Tensor, size: int) -> Tensor:
    """Pad [2B, K] with 0 to [2B, ``size``]."""
    return functional.pad(values, (0, size - values.shape[1]))


def _listed(lists: Sequence[Tensor]) -> Tensor:
    """Lists of different lengths as int64 [S, longest], padded with 0."""
    return nn.utils.rnn.pad_sequence(list(lists), batch_first=True)
