"""Calls a probe once, or once per fold of a store without splits, and keeps the folds that are finished."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.evaluation.data import ProbeData
from featcache.evaluation.probe import Prediction, ProbeEntry, Task
from featcache.metrics.splits import fold_numbers
from featcache.stages import OnStage

NUM_FOLDS = 5
"""Number of folds over the videos, or groups of videos, of a store without splits."""

SMALL_STORE_VIDEOS = 30
"""With fewer labelled videos (or groups) than this, each fold holds a single one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Predictions for ``videos``; ``is_trained`` says whether a video's class was among the trained ones."""

    videos: npt.NDArray[np.int64]
    is_trained: npt.NDArray[np.bool_]
    prediction: Prediction
    protocol: str


def predict(entry: ProbeEntry, task: Task, settings: object, *, has_splits: bool) -> Outcome:
    """Make one call if there are splits or the probe does leave-one-out itself, otherwise one call per fold.

    Args:
        entry: The probe.
        task: The training videos and all videos to score, the same without splits.
        settings: Settings of the probe.
        has_splits: Whether the training videos are a split of their own.
    """
    data, videos = task.data, task.test
    labels = data.labels[videos]
    if has_splits or entry.leaves_one_out:
        prediction = entry.run(task, settings)
        num_teachers = np.bincount(data.labels[task.train], minlength=len(data.classes))[labels]
        num_own = 0 if has_splits else _companions(labels, None if data.groups is None else data.groups[videos])
        return Outcome(
            videos=videos, is_trained=num_teachers > num_own, prediction=prediction, protocol=leave_one_out(data)
        )

    groups = videos if data.groups is None else data.groups[videos]
    num_groups = len(np.unique(groups))
    num_folds = num_groups if num_groups < SMALL_STORE_VIDEOS else NUM_FOLDS
    folds = fold_numbers(labels, num_folds=num_folds, seed=0, groups=groups)
    is_trained = np.zeros(len(videos), dtype=np.bool_)
    parts: list[tuple[int, npt.NDArray[np.int64], Prediction]] = []
    for fold in range(num_folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        is_trained[test] = np.isin(labels[test], labels[train])
        own = dataclasses.replace(
            task,
            train=videos[train],
            test=videos[test],
            on_stage=_of_fold(task.on_stage, fold, num_folds),
            parts=task.parts.within(f"fold-{fold}"),
        )
        if len(classes := np.unique(labels[train])) > 1 or data.targets is not None:
            prediction = _kept(entry, own, settings)
        else:  # a probe of a single class can only predict that class
            scores = np.where(np.arange(len(data.classes)) == classes[0], 0.0, -np.inf)
            prediction = Prediction(scores=np.broadcast_to(scores, (1, len(test), len(scores))))
        parts.append((fold, test, prediction))
    units = "videos" if data.groups is None else f"groups of column {data.group_column!r}"
    protocol = leave_one_out(data) if num_folds == num_groups else f"{num_folds} folds over {units}"
    return Outcome(videos=videos, is_trained=is_trained, prediction=_join(parts, len(videos)), protocol=protocol)


def _of_fold(on_stage: OnStage, fold: int, num_folds: int) -> OnStage:
    """The same callback, with the number of the fold before each stage."""

    def pass_on(stage: str, done: float, total: float, note: str = "", num_failed: int = 0, /) -> None:
        on_stage(f"fold {fold + 1}/{num_folds} {stage}", done, total, note, num_failed)

    return pass_on


_PREDICTION = "prediction"


def _kept(entry: ProbeEntry, task: Task, settings: object) -> Prediction:
    """The prediction of a fold: the kept one, if there is one."""
    if (saved := task.parts.read(_PREDICTION)) is not None:
        return Prediction(
            scores=saved.tensors["scores"].numpy(),
            variants={name: tensor.numpy() for name, tensor in saved.part("variants").items()},
            table=tuple(saved.facts["table"]),
            notes=tuple(saved.facts["notes"]),
            seeds=tuple(saved.facts["seeds"]),
            ks=tuple(saved.facts.get("ks", ())),
        )
    made = entry.run(task, settings)
    if task.parts.folder is not None:
        import torch  # not every probe needs it

        arrays = {"scores": made.scores, **{f"variants.{name}": scores for name, scores in made.variants.items()}}
        tensors = {name: torch.from_numpy(np.array(each)) for name, each in arrays.items()}
        facts = {"table": list(made.table), "notes": list(made.notes), "seeds": list(made.seeds), "ks": list(made.ks)}
        task.parts.write(_PREDICTION, step=1, tensors=tensors, facts=facts)
    return made


def leave_one_out(data: ProbeData) -> str:
    """Name of the protocol in which each video, or each group of videos, is scored by all others."""
    if data.groups is None:
        return "leave-one-out over videos"
    return f"leave-one-group-out over groups of column {data.group_column!r}"


def _companions(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64] | int:
    """Number of videos of each video's own class and group, itself included; they do not help to score it."""
    if groups is None:
        return 1
    _, kind, counts = np.unique(np.stack([labels, groups]), axis=1, return_inverse=True, return_counts=True)
    return counts[kind.reshape(-1)]


def _join(parts: Sequence[tuple[int, npt.NDArray[np.int64], Prediction]], num_videos: int) -> Prediction:
    """Join the predictions given as (fold, positions of its videos, prediction)."""
    num_seeds = max(len(part.scores) for _, _, part in parts)

    def gather(name: str | None) -> npt.NDArray[np.floating]:
        joined = np.empty((num_seeds, num_videos, parts[0][2].scores.shape[-1]))
        for _, test, part in parts:
            joined[:, test] = part.scores if name is None else part.variants.get(name, part.scores)
        return joined

    return Prediction(
        scores=gather(None),
        seeds=max((part.seeds for _, _, part in parts), key=len),
        ks=max((part.ks for _, _, part in parts), key=len),
        variants={name: gather(name) for name in dict.fromkeys(name for _, _, part in parts for name in part.variants)},
        table=tuple({"fold": fold, **row} for fold, _, part in parts for row in part.table),
        notes=tuple(dict.fromkeys(note for _, _, part in parts for note in part.notes)),
    )
