"""Trains several seeds as one stack of modules, and writes the usual folders at the end.

The modules run at once (``torch.vmap`` over the stacked weights), so that what a step costs beside its arithmetic is
paid once.
"""

import copy
import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.func import stack_module_state

from featcache.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from featcache.training.identity import Identity
from featcache.training.logs import RunLog, read_log, read_steps
from featcache.training.loop import StepReport, train, trained_state
from featcache.training.objective import Objective
from featcache.training.runs import seed_folder
from featcache.training.seeds import SeedRuns

B = TypeVar("B")
NAME = "stack"
"""Name of the folder of a stack in training."""


def stacked(modules: Sequence[nn.Module]) -> nn.Module:
    """One module whose parameters are those of all modules, [S, ...] under the same names.

    It runs only under ``torch.vmap``. Its ``not_decayed`` names the parameters that are vectors in a single module:
    optimisers apply no weight decay to them, and cannot recognise them by the stacked shape.
    """
    parameters, buffers = stack_module_state(list(modules))
    assert not buffers, "modules with buffers cannot be stacked"
    stack = copy.deepcopy(modules[0])
    for name, values in parameters.items():
        owner, _, leaf = name.rpartition(".")
        setattr(stack.get_submodule(owner), leaf, nn.Parameter(values.detach()))
    stack.not_decayed = frozenset(  # type: ignore[assignment]
        name for name, parameter in modules[0].named_parameters() if parameter.ndim <= 1
    )
    return stack


def train_stack(
    build: Callable[[], Objective[B]],
    runs: SeedRuns,
    *,
    identities: Mapping[int, Identity],
    facts: Mapping[str, Any],
) -> None:
    """Train several seeds as one, then write the folder of each as if it had been trained alone.

    A killed run resumes where it stopped, even if it was killed while writing the folders.

    Args:
        build: Makes the task of all seeds; its loss is the sum over the seeds, its module that of :func:`stacked`.
        runs: The run; a folder within its own holds the stack until it is split.
        identities: Identities of the checkpoints by seed.
        facts: Facts to keep in each checkpoint.

    Raises:
        DivergedError: The loss of a seed is not finite; the last checkpoint is kept.
        RecipeMismatchError: The folder holds another run.
    """
    runs.write_settings()
    seeds = list(identities)
    folders = {seed: seed_folder(runs.folder, seed) for seed in seeds}
    stack, world = runs.folder / NAME, runs.world
    left = world.from_first(
        lambda: [seed for seed in seeds if read_checkpoint(folders[seed], identity=identities[seed]) is None]
    )
    if left:

        def report(step: StepReport) -> None:
            rate = step.items_per_second / len(seeds)
            loss = None if step.loss is None else step.loss / len(seeds)
            share = dataclasses.replace(step, loss=loss, items_per_second=rate)
            for seed in seeds:
                runs.reporting(seed)(share)

        train(
            build(),
            runs.training.model_copy(update={"tensorboard": False}),
            folder=stack,
            seed=seeds[0],
            identity=Identity(values={f"seed {seed}": identities[seed].digest for seed in seeds}),
            facts=facts,
            world=world,
            on_step=report,
        )

    def split() -> dict[int, Mapping[str, float]]:
        if left:
            checkpoint = trained_state(stack)
            for place, seed in enumerate(seeds):
                if seed in left:
                    _write_log(folders[seed], stack, seed, len(seeds), tensorboard=runs.training.tensorboard)
                    write_checkpoint(folders[seed], _own(checkpoint, place, identity=identities[seed].values))
        if stack.exists():
            shutil.rmtree(stack)
        return {seed: read_log(folder)[-1] for seed, folder in folders.items()}

    runs.lines.update(world.from_first(split))


def _own(checkpoint: Checkpoint, place: int, *, identity: Mapping[str, Any]) -> Checkpoint:
    """The part of one seed; scalars, such as step counts, are shared by all seeds."""
    own = {name: tensor[place] if tensor.ndim else tensor for name, tensor in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, identity=identity, tensors=own)


def _write_log(folder: Path, stack: Path, seed: int, num_seeds: int, *, tensorboard: bool) -> None:
    """Write one seed's part of the logs of a stack."""
    folder.mkdir(parents=True, exist_ok=True)
    mine = tag(seed)

    def own(line: Mapping[str, Any]) -> dict[str, Any]:
        shared = {name: value for name, value in line.items() if "/" not in name and name != "step"}
        shared["items_per_second"] /= num_seeds
        return shared | {name.removeprefix(mine): value for name, value in line.items() if name.startswith(mine)}

    with RunLog(folder, first_step=0, tensorboard=tensorboard) as log:
        for line in read_log(stack):
            log.write(line["step"], own(line))
        for line in read_steps(stack):
            log.write_steps(line["step"], own(line))


def tag(seed: int) -> str:
    """What the names of a seed's metrics begin with in the log of a stack."""
    return f"seed-{seed}/"
