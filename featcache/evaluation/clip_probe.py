"""Runs a task for every probe that trains on clips: choose from the grid, train again, score the test videos."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from featcache.errors import ConfigError
from featcache.evaluation.choosing import Mask, Trial, choose
from featcache.evaluation.clip_training import ClipTable, Indices, clip_table, iter_outputs, train_stack
from featcache.evaluation.probe import Prediction, Task
from featcache.evaluation.settings import Candidate, ClipTraining
from featcache.evaluation.stack import Embedding, Stack
from featcache.metrics.intervals import rank_of_truth

CLIPS_IN_STACK = 2**15
"""Number of clips of a step of all networks that are trained as one, which bounds the memory."""
OUTPUTS_IN_STACK = 2**27
"""Number of outputs of a step of all linear layers that are trained as one."""
AS_RELEASED = "best test epoch, as released"
Floats = npt.NDArray[np.floating]


def probe_clips(task: Task, embedding: Embedding, training: ClipTraining) -> Prediction:
    """Choose the setting on held-out training videos, train it on all of them with every seed, score the test videos.

    A video's scores are the softmax averaged over its clips after the last epoch (for regression: the mean output).

    Raises:
        ConfigError: The chosen setting has diverged.
    """
    table = clip_table(task.data, form=embedding.form, coordinates=embedding.coordinates, device=task.device)
    problem = _Problem(task, training)

    def evaluate(kept: Mask, held: Mask) -> list[Trial]:
        return _evaluate(problem, embedding, table, task.train[kept], task.train[held])

    choice = choose(
        training.candidates,
        problem.places(task.train),
        groups=task.groups_of(task.train),
        fraction=training.validation_fraction,
        fallback=len(training.lrs) // 2,
        evaluate=evaluate,
    )
    chosen = training.candidates[choice.index]
    scores = np.full((len(training.seeds), len(task.test), len(task.data.classes)), -np.inf)
    best = np.full_like(scores, -np.inf)
    stage = _Stage(task, "chosen", num_networks=len(training.seeds), epochs=training.epochs)
    for number, (_, seeds) in enumerate(
        _stacks(embedding, table, task.train, (chosen,), training, num_outputs=problem.num_outputs)
    ):
        first = training.seeds.index(seeds[0])
        mine = slice(first, first + len(seeds))
        watch = _BestEpoch(problem, table, num_seeds=len(seeds)) if training.as_released else None
        stack = problem.train(
            embedding, table, task.train, (chosen,), seeds, name=f"chosen-{number}", stage=stage, after_epoch=watch
        )
        if not stack.loss.isfinite().all():
            raise ConfigError(
                f"the chosen training diverged ({chosen.optimizer}, lr {chosen.lr:g}) on feature "
                f"{task.data.feature!r} of {task.data.store}; give smaller learning rates or batch_norms true"
            )
        scores[mine][..., problem.classes] = problem.scores(stack, table, task.test)[0]
        if watch is not None:
            best[mine][..., problem.classes] = watch.scores
    return Prediction(
        scores=scores,
        variants={AS_RELEASED: best} if training.as_released else {},
        table=choice.table,
        notes=choice.notes,
        seeds=training.seeds,
    )


class _Stage:
    """Progress over the networks of a stage, stack by stack."""

    def __init__(self, task: Task, name: str, *, num_networks: int, epochs: int) -> None:
        self._task, self._name, self._total, self._epochs = task, name, num_networks, epochs
        self._done = 0

    def of(self, num_networks: int) -> Callable[[float], None]:
        """A callback for the epochs of a stack of so many networks."""

        def report(epochs: float) -> None:
            done = self._done + num_networks * epochs / self._epochs
            self._task.on_stage(self._name, done, self._total, f"epoch {epochs:.1f} of {self._epochs}")

        return report

    def skip(self, num_networks: int) -> None:
        """Count networks as done."""
        self._done += num_networks
        self._task.on_stage(self._name, self._done, self._total)


def _stacks(
    embedding: Embedding,
    table: ClipTable,
    videos: Indices,
    candidates: Sequence[Candidate],
    training: ClipTraining,
    *,
    num_outputs: int,
) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Which candidates (by place) and seeds are trained as one: equal shapes, and no more clips than fit."""
    clips = min(training.num_clips, int(table.counts[videos].max()))

    def shape(place: int) -> tuple[int, bool]:
        each = candidates[place]
        return each.batch_size, not embedding.is_frozen and each.batch_norm

    order = sorted(range(len(candidates)), key=shape)
    for (batch_size, _), group in itertools.groupby(order, key=shape):
        places = list(group)
        per_network = min(batch_size, len(videos)) * clips
        num_networks = max(1, CLIPS_IN_STACK // per_network)
        num_seeds = min(num_networks, len(training.seeds))
        if embedding.is_frozen:  # candidates share its vectors
            num_networks = max(1, OUTPUTS_IN_STACK // (per_network * num_outputs))
        each = max(1, num_networks // num_seeds)
        for first, seed in itertools.product(range(0, len(places), each), range(0, len(training.seeds), num_seeds)):
            yield places[first : first + each], training.seeds[seed : seed + num_seeds]


class _Problem:
    """Classification or regression: the targets of a task, and how outputs become scores."""

    def __init__(self, task: Task, training: ClipTraining) -> None:
        self.task = task
        self.training = training
        self.classes = np.unique(task.data.labels[task.train])
        self.numbers = task.data.targets
        self.num_outputs = len(self.classes)  # one for regression

    def places(self, videos: Indices) -> Indices:
        """int64 [A], position of each video's class among the trained classes; 0 for regression."""
        return np.searchsorted(self.classes, self.task.data.labels[videos]).astype(np.int64)

    def targets(self, videos: Indices) -> torch.Tensor:
        """Targets of the loss, on the device."""
        if self.numbers is None:
            return torch.from_numpy(self.places(videos)).to(self.task.device)
        return torch.from_numpy(self.numbers[videos].astype(np.float32)).to(self.task.device)

    def train(
        self,
        embedding: Embedding,
        table: ClipTable,
        videos: Indices,
        candidates: Sequence[Candidate],
        seeds: Sequence[int],
        *,
        name: str,
        stage: "_Stage",
        after_epoch: Callable[[Stack], None] | None = None,
    ) -> Stack:
        """Train a stack on some videos; see :func:`train_stack`."""
        num_networks = len(candidates) * len(seeds)
        stack = train_stack(
            embedding,
            table,
            videos,
            self.targets(videos),
            candidates,
            seeds,
            self.training,
            num_outputs=self.num_outputs,
            name=name,
            parts=self.task.parts,
            on_epochs=stage.of(num_networks),
            after_epoch=after_epoch,
        )
        stage.skip(num_networks)
        return stack

    def scores(self, stack: Stack, table: ClipTable, videos: Indices, *, mean_logits: bool = False) -> Floats:
        """Float32 [C, S, M, O]: the mean softmax of each video; for regression, or on request, the mean output."""
        logits = mean_logits or self.numbers is not None
        parts = [(b if logits else a).cpu().numpy() for _, a, b in iter_outputs(stack, table, videos)]
        return np.concatenate(parts, axis=2)


def _evaluate(problem: _Problem, embedding: Embedding, table: ClipTable, kept: Indices, held: Indices) -> list[Trial]:
    """Train each candidate with every seed on ``kept`` and measure it on ``held``; finished stacks are kept."""
    training, candidates, parts = problem.training, problem.training.candidates, problem.task.parts
    top1, loss, diverged = np.zeros(len(candidates)), np.zeros(len(candidates)), np.zeros(len(candidates), bool)
    num_networks = len(candidates) * len(training.seeds)
    stage = _Stage(problem.task, "grid", num_networks=num_networks, epochs=training.epochs)
    for number, (places, seeds) in enumerate(
        _stacks(embedding, table, kept, candidates, training, num_outputs=problem.num_outputs)
    ):
        name, own = f"grid-{number}", [candidates[place] for place in places]
        saved = parts.read(name)
        if saved is None or "right" not in saved.tensors:
            stack = problem.train(embedding, table, kept, own, seeds, name=name, stage=stage)
            right, wrong = _measure(problem, stack, table, held)
            failed = ~stack.loss.isfinite().all(dim=1).cpu()
            measured = {"right": torch.from_numpy(right), "wrong": torch.from_numpy(wrong), "diverged": failed}
            parts.write(name, step=training.epochs, tensors=measured, facts={})
        else:
            measured = dict(saved.tensors)
            stage.skip(len(places) * len(seeds))
        top1[places] += measured["right"].numpy().sum(axis=1) / len(training.seeds)
        loss[places] += measured["wrong"].numpy().sum(axis=1) / len(training.seeds)
        diverged[places] |= measured["diverged"].numpy()
    loss = np.where(np.isnan(loss), np.inf, loss)
    return [
        Trial(top1=float(top1[place]), loss=float(loss[place]), diverged=bool(diverged[place]))
        for place in range(len(candidates))
    ]


def _measure(problem: _Problem, stack: Stack, table: ClipTable, videos: Indices) -> tuple[Floats, Floats]:
    """Top-1 accuracy (0 for regression) and mean loss of each network over videos, both float64 [C, S]."""
    right, loss = np.zeros(stack.loss.shape), np.zeros(stack.loss.shape)
    for part, probabilities, outputs in iter_outputs(stack, table, videos):
        if problem.numbers is not None:
            gap = outputs[..., 0].double().cpu().numpy() - problem.numbers[videos[part]]
            loss += np.square(gap).sum(axis=2)
            continue
        scores, truth = probabilities.cpu().numpy(), problem.places(videos[part])
        right += (rank_of_truth(scores, truth) == 0).sum(axis=2)
        chosen = np.take_along_axis(scores, truth[None, None, :, None], axis=-1)
        loss -= np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).sum(axis=(2, 3))  # NaN stays NaN
    return right / len(videos), loss / len(videos)


class _BestEpoch:
    """Keeps the scores of the epoch and the kind of average that do best on the test videos, as SCALE's code does."""

    def __init__(self, problem: _Problem, table: ClipTable, *, num_seeds: int) -> None:
        self.problem, self.table = problem, table
        self.best = [-np.inf] * num_seeds
        self._scores: list[Floats] = [np.zeros(0)] * num_seeds

    @property
    def scores(self) -> Floats:
        """Float32 [S, M, O], the best of each seed."""
        return np.stack(self._scores)

    def __call__(self, stack: Stack) -> None:
        problem, test = self.problem, self.problem.task.test
        for mean_logits in (False, True):
            for place, scores in enumerate(problem.scores(stack, self.table, test, mean_logits=mean_logits)[0]):
                if problem.numbers is None:
                    known = np.isin(problem.task.data.labels[test], problem.classes)
                    found = float((rank_of_truth(scores[known], problem.places(test[known])) == 0).sum())
                else:
                    found = -float(np.square(scores[:, 0] - problem.numbers[test]).mean())
                if found > self.best[place] or not len(self._scores[place]):
                    self.best[place], self._scores[place] = found, scores
