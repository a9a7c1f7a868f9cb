"""The single path from features to reported numbers: every probe runs through :func:`run_probe`."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data import subsets
from featcache.errors import ConfigError, ManifestError, unknown_name
from featcache.evaluation.companions import about_groups
from featcache.evaluation.data import UNLABELLED, ProbeData
from featcache.evaluation.folds import Outcome, predict
from featcache.evaluation.parts import NOTHING_KEPT, Parts
from featcache.evaluation.probe import ProbeEntry, Task, find_probe
from featcache.evaluation.result import ProbeResult
from featcache.extract.encode import float32_products
from featcache.loaders.choice import check_test_views
from featcache.machine import resolve_device
from featcache.metrics.intervals import Metric, accuracies, mean_error, nearer_than_truth, rank_of_truth, recalls
from featcache.metrics.predictions import Predictions
from featcache.metrics.result import Coverage, SplitResult
from featcache.metrics.settings import IntervalSettings
from featcache.stages import OnStage, ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The training videos and the scored videos; ``splits`` maps a split to int64 indices of labelled videos."""

    train: npt.NDArray[np.int64]
    splits: Mapping[str, npt.NDArray[np.int64]]
    train_coverage: Coverage
    coverage: Mapping[str, Coverage]
    notes: tuple[str, ...]
    has_splits: bool


def run_probe(
    name: str,
    data: ProbeData,
    settings: Any = None,
    *,
    train_split: str = "train",
    test_splits: Sequence[str] | None = None,
    device: str = "auto",
    intervals: IntervalSettings | None = None,
    low_shot: float | None = None,
    on_stage: OnStage = ignore,
    parts: Parts = NOTHING_KEPT,
) -> ProbeResult:
    """Train a probe on one split and report every other split.

    Without splits, each video is scored by a probe that was not trained on it: by leave-one-out if the probe does that
    in one call or there are fewer than 30 videos, otherwise by 5 folds over the videos, balanced over classes; the
    split is then called ``all``. If the data have groups, all of this is done by group: no video is scored by a probe
    that was trained on another video of its group, the choice of settings holds out groups, low-shot training takes
    whole groups, and intervals resample groups.

    Args:
        name: Registered probe.
        data: Features and labels.
        settings: An instance of the probe's settings; ``None`` for the defaults.
        train_split: Split to train on.
        test_splits: Splits to report; ``None`` for every other split.
        device: Device of the computation: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        intervals: Settings of the intervals; ``None`` for the defaults.
        low_shot: Train on the first ``max(1, floor(low_shot * n))`` of each class's n training videos, in the order of
            the list (SCALE's 10 % protocol: 0.1); ``None``: on all.
        on_stage: Called with the progress of probes that train.
        parts: Where finished parts are kept, so that a killed probe goes on with the others.

    Raises:
        UnknownNameError: There is no such probe or split.
        ManifestError: There are no videos to train on or to score.
        ConfigError: The settings belong to another probe, the probe cannot predict this kind of labels, needs positions
            that the data lack or other vectors out of maps, or the device does not exist.
    """
    started = time.perf_counter()
    device = resolve_device(device)
    entry = find_probe(name)
    chosen = entry.settings() if settings is None else settings
    if not isinstance(chosen, entry.settings):
        raise ConfigError(f"probe {name!r} takes {entry.settings.__name__}, not {type(chosen).__name__}")
    _check_fit(name, entry, data, chosen)
    intervals = intervals or IntervalSettings()
    plan = _plan(data, train_split, test_splits, low_shot)
    num_classes = 0 if data.targets is not None else len(np.unique(data.labels[plan.train]))
    videos = np.unique(np.concatenate(list(plan.splits.values())))
    task = Task(data=data, train=plan.train, test=videos, device=device, on_stage=on_stage, parts=parts)
    with float32_products("highest"):
        outcome = predict(entry, task, chosen, has_splits=plan.has_splits)
    place = {split: np.searchsorted(outcome.videos, videos) for split, videos in plan.splits.items()}

    def measure(scores: npt.NDArray[np.floating], split: str) -> Mapping[str, Metric]:
        if data.targets is not None:
            errors = np.square(scores[:, place[split], 0] - data.targets[plan.splits[split]])
            return {"mse": mean_error(errors, intervals=intervals, groups=groups[split])}
        labels = data.labels[plan.splits[split]]
        if ks := outcome.prediction.ks:
            nearer = nearer_than_truth(scores[:, place[split]], labels)
            return recalls(nearer, ks=ks, intervals=intervals, groups=groups[split])
        ranks = rank_of_truth(scores[:, place[split]], labels)
        return accuracies(ranks, labels, num_classes=num_classes, intervals=intervals, groups=groups[split])

    groups = {split: None if data.groups is None else data.groups[videos] for split, videos in plan.splits.items()}
    about = about_groups(data, plan.train, plan.splits, leaves_groups_out=entry.leaves_groups_out, device=device)
    notes = [*plan.notes, *outcome.prediction.notes, *about]
    splits = {}
    for split, videos in plan.splits.items():
        unseen = int((~outcome.is_trained[place[split]]).sum())
        if unseen:
            notes.append(f"{unseen} videos of {split!r} have a class that no training video has and count as wrong")
        splits[split] = SplitResult(
            metrics=measure(outcome.prediction.scores, split),
            coverage=plan.coverage[split],
            num_videos=len(videos),
            num_unseen=unseen,
        )
    return ProbeResult(
        probe=name,
        store=data.store,
        feature=data.feature,
        label=data.label,
        protocol=_of_splits(data, train_split, low_shot) if plan.has_splits else outcome.protocol,
        num_classes=num_classes,
        train=plan.train_coverage,
        splits=splits,
        settings=dataclasses.asdict(chosen),
        intervals=dataclasses.asdict(intervals),
        variants={
            variant: {split: measure(scores, split) for split in splits}
            for variant, scores in outcome.prediction.variants.items()
        },
        table=outcome.prediction.table,
        predictions=_by_video(data, outcome, plan.splits),
        device=device,
        notes=tuple(dict.fromkeys(notes)),
        seconds=time.perf_counter() - started,
    )


def _by_video(data: ProbeData, outcome: Outcome, splits: Mapping[str, npt.NDArray[np.int64]]) -> Predictions:
    """The scores of every reported video, split by split."""
    videos = np.concatenate(list(splits.values()))
    scores = outcome.prediction.scores[:, np.searchsorted(outcome.videos, videos)]
    labels = data.labels if data.targets is None else data.targets
    return Predictions(
        videos=tuple(data.videos[video] for video in videos),
        splits=tuple(split for split, mine in splits.items() for _ in mine),
        groups=None if data.groups is None else data.groups[videos],
        label=data.label,
        labels=tuple(
            data.classes[labels[video]] if data.targets is None else repr(float(labels[video])) for video in videos
        ),
        classes=data.classes if data.targets is None else (),
        seeds=outcome.prediction.seeds or tuple(range(len(scores))),
        scores=scores,
        ks=outcome.prediction.ks,
    )


def _check_fit(name: str, entry: ProbeEntry, data: ProbeData, settings: Any) -> None:
    """Check that a probe fits the request and the data."""
    if data.targets is not None and entry.predicts == "classes":
        raise ConfigError(
            f"probe {name!r} tells classes apart, and column {data.label!r} was read as numbers; leave numbers "
            "out, or use the probe ridge"
        )
    if data.targets is None and entry.predicts == "numbers":
        raise ConfigError(
            f"probe {name!r} predicts numbers, and column {data.label!r} was read as classes; add --numbers, or "
            "use the probe linear"
        )
    form = entry.position_form(settings)
    if form is not None and form not in data.positions:
        raise ConfigError(
            f"probe {name!r} looks at where clips lie in their videos, and {data.store} came without positions; "
            f"read it by read_data(..., positions={form!r})"
        )
    if (pool := entry.pool_of(settings)) != data.pool:
        raise ConfigError(
            f"probe {name!r} has pool {pool!r}, and {data.store} was read with pool {data.pool!r}; read it by "
            f"read_data(..., pool={pool!r})"
        )


def _of_splits(data: ProbeData, train_split: str, low_shot: float | None) -> str:
    where = f" of column {data.split_column!r}" if data.split_column else ""
    part = "of" if data.targets is not None else "of each class of"
    share = "" if low_shot is None else f"the first {100 * low_shot:g} % {part} "
    return f"trained on {share}split {train_split!r}{where}"


def _plan(data: ProbeData, train_split: str, test_splits: Sequence[str] | None, low_shot: float | None) -> _Plan:
    is_labelled = data.labels != UNLABELLED
    if not is_labelled.any():
        raise ManifestError(
            f"no video of {data.store} has a label in column {data.label!r}; put videos in one folder per class, or "
            "list them in a CSV with a label column, and extract again"
        )
    has_splits = bool(set(data.coverage) - {""})
    in_split = np.array(data.splits)
    notes: list[str] = []
    if has_splits:
        names = _test_splits(data, train_split, test_splits)
        train = np.flatnonzero(is_labelled & (in_split == train_split))
        splits = {split: np.flatnonzero(is_labelled & (in_split == split)) for split in names}
        coverage = {split: data.coverage[split] for split in names}
        train_coverage = data.coverage[train_split]
        notes += [
            f"split {split!r} has no video with features and a label and is not reported"
            for split in names
            if not len(splits[split])
        ]
        splits = {split: videos for split, videos in splits.items() if len(videos)}
        for split, videos in splits.items():
            if data.is_random is not None:
                check_test_views(data.store, data.is_random[videos], split=split, column=data.split_column)
        if unused := sum(split == "" for split in data.splits):
            notes.append(f"{unused} videos belong to no split and are not used")
        if not len(train) or not splits:
            where = f"split {train_split!r}" if not len(train) else f"the test splits ({', '.join(names)})"
            raise ManifestError(
                f"no video in {where} of {data.store} has features and a label in column {data.label!r}; "
                "see `featcache info` for labels, splits and failures"
            )
    else:
        if train_split != "train" or test_splits:
            raise ManifestError(f"{data.store} has no splits to choose from; leave the options for splits out")
        if low_shot is not None:
            raise ManifestError(
                f"{data.store} has no splits, and low_shot keeps a part of the training split; give the videos splits"
            )
        train = np.flatnonzero(is_labelled)
        splits = {"all": train}
        coverage = {"all": data.coverage[""]}
        train_coverage = data.coverage[""]
    if low_shot is not None:
        kept = subsets.low_shot(
            [str(label) for label in data.labels[train]],
            fraction=low_shot,
            order="first",
            groups=None if data.groups is None else [str(group) for group in data.groups[train]],
        )
        notes.append(f"{len(kept)} of {len(train)} training videos are used: low_shot {low_shot:g}")
        train = train[kept]
    if not has_splits and data.groups is not None and len(np.unique(data.groups[train])) < 2:
        raise ManifestError(
            f"all {len(train)} labelled videos of {data.store} are of one group in column {data.group_column!r}, and "
            "videos of one group do not score each other; correct the column, or name 'none' as the group column"
        )
    classes = np.unique(data.labels[train])
    if data.targets is None and len(classes) < 2:
        raise ManifestError(
            f"all {len(train)} training videos of {data.store} have the label {data.classes[classes[0]]!r} in column "
            f"{data.label!r}; a probe needs at least two classes, so add videos or choose another column"
        )
    return _Plan(
        train=train,
        splits=splits,
        train_coverage=train_coverage,
        coverage=coverage,
        notes=tuple(notes),
        has_splits=has_splits,
    )


def _test_splits(data: ProbeData, train_split: str, test_splits: Sequence[str] | None) -> tuple[str, ...]:
    known = [split for split in data.coverage if split]
    for split in (train_split, *(test_splits or ())):
        if split not in known:
            raise unknown_name("split", split, known, hint=f"{data.store} has: {', '.join(known)}.")
    names = tuple(dict.fromkeys(test_splits)) if test_splits else tuple(s for s in known if s != train_split)
    if not names:
        raise ManifestError(
            f"{data.store} has the split {train_split!r} alone; add videos of a test split, or scan without splits"
        )
    if train_split in names:
        raise ManifestError(f"split {train_split!r} cannot be both trained on and reported; name another test split")
    return names
