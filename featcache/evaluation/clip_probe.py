"""Runs a task for every probe that trains on clips: choose from the grid, train again, score the test videos."""

import itertools

import numpy as np
import numpy.typing as npt
import torch

from featcache.errors import ConfigError
from featcache.evaluation.choosing import Mask, Trial, choose
from featcache.evaluation.clip_training import ClipTable, Embedding, Indices, Net, clip_table, iter_outputs, train_net
from featcache.evaluation.probe import Prediction, Task
from featcache.evaluation.settings import Candidate, ClipTraining
from featcache.metrics.intervals import rank_of_truth

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
    for place, seed in enumerate(training.seeds):
        watch = _BestEpoch(problem, table) if training.as_released else None
        net = train_net(
            embedding,
            table,
            task.train,
            problem.targets(task.train),
            (chosen,),
            training,
            num_outputs=problem.num_outputs,
            seed=seed,
            after_epoch=watch,
        )
        if not net.loss.isfinite().all():
            raise ConfigError(
                f"the chosen training diverged ({chosen.optimizer}, lr {chosen.lr:g}) on feature "
                f"{task.data.feature!r} of {task.data.store}; give smaller learning rates or batch_norms true"
            )
        scores[place][:, problem.classes] = problem.scores(net, table, task.test)[0]
        if watch is not None:
            best[place][:, problem.classes] = watch.scores
    return Prediction(
        scores=scores,
        variants={AS_RELEASED: best} if training.as_released else {},
        table=choice.table,
        notes=choice.notes,
        seeds=training.seeds,
    )


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

    def scores(self, net: Net, table: ClipTable, videos: Indices, *, mean_logits: bool = False) -> Floats:
        """Float32 [H, M, C]: the mean softmax of each video; for regression, or on request, the mean output."""
        logits = mean_logits or self.numbers is not None
        return np.concatenate([(b if logits else a).cpu().numpy() for _, a, b in iter_outputs(net, table, videos)], 1)


def _evaluate(problem: _Problem, embedding: Embedding, table: ClipTable, kept: Indices, held: Indices) -> list[Trial]:
    """Train each candidate with every seed on ``kept`` and measure it on ``held``. Frozen embedders are shared."""
    training, candidates = problem.training, problem.training.candidates
    order = sorted(range(len(candidates)), key=lambda place: candidates[place].batch_size)
    groups = (
        [list(group) for _, group in itertools.groupby(order, key=lambda place: candidates[place].batch_size)]
        if embedding.is_frozen
        else [[place] for place in order]
    )
    top1, loss, diverged = np.zeros(len(candidates)), np.zeros(len(candidates)), np.zeros(len(candidates), bool)
    for group, seed in itertools.product(groups, training.seeds):
        own: list[Candidate] = [candidates[place] for place in group]
        targets = problem.targets(kept)
        net = train_net(embedding, table, kept, targets, own, training, num_outputs=problem.num_outputs, seed=seed)
        diverged[group] |= ~net.loss.isfinite().numpy()
        right, wrong = _measure(problem, net, table, held)
        top1[group] += right / len(training.seeds)
        loss[group] += wrong / len(training.seeds)
    loss = np.where(np.isnan(loss), np.inf, loss)
    return [
        Trial(top1=float(top1[place]), loss=float(loss[place]), diverged=bool(diverged[place]))
        for place in range(len(candidates))
    ]


def _measure(problem: _Problem, net: Net, table: ClipTable, videos: Indices) -> tuple[Floats, Floats]:
    """Top-1 accuracy (0 for regression) and mean loss of each head over videos, both float64 [H]."""
    right, loss = np.zeros(len(net.heads)), np.zeros(len(net.heads))
    for part, probabilities, logits in iter_outputs(net, table, videos):
        if problem.numbers is not None:
            gap = logits[..., 0].double().cpu().numpy() - problem.numbers[videos[part]]
            loss += np.square(gap).sum(axis=1)
            continue
        scores, truth = probabilities.cpu().numpy(), problem.places(videos[part])
        right += (rank_of_truth(scores, truth) == 0).sum(axis=1)
        chosen = np.take_along_axis(scores, truth[None, :, None], axis=-1)
        loss -= np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).sum(axis=(1, 2))  # NaN stays NaN
    return right / len(videos), loss / len(videos)


class _BestEpoch:
    """Keeps the scores of the epoch and the kind of average that do best on the test videos, as SCALE's code does."""

    def __init__(self, problem: _Problem, table: ClipTable) -> None:
        self.problem, self.table = problem, table
        self.best = -np.inf
        self.scores: Floats = np.zeros(0)

    def __call__(self, net: Net) -> None:
        problem, test = self.problem, self.problem.task.test
        for mean_logits in (False, True):
            scores = problem.scores(net, self.table, test, mean_logits=mean_logits)[0]
            if problem.numbers is None:
                known = np.isin(problem.task.data.labels[test], problem.classes)
                found = float((rank_of_truth(scores[known], problem.places(test[known])) == 0).sum())
            else:
                found = -float(np.square(scores[:, 0] - problem.numbers[test]).mean())
            if found > self.best or not len(self.scores):
                self.best, self.scores = found, scores
