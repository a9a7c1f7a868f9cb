"""Fine-tunes temporal modules and reports accuracy over views, against training from scratch, and by frame order."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.subsets import nested_subset
from featcache.errors import ManifestError, unknown_name
from featcache.loaders.bank import ClipSource
from featcache.loaders.choice import check_test_views, has_training_views, video_splits
from featcache.loaders.online import open_source
from featcache.methods.advise.cost import counted_cost
from featcache.methods.advise.finetune import ORDERS, video_logits
from featcache.methods.advise.run import fine_tune, initial_module
from featcache.methods.advise.settings import TmmFineTuneSettings
from featcache.metrics.intervals import Metric, accuracies, rank_of_truth
from featcache.metrics.result import Coverage
from featcache.metrics.settings import IntervalSettings
from featcache.metrics.splits import fold_numbers
from featcache.seeding import rng_for
from featcache.stages import OnStage, ignore
from featcache.store.reader import Store, open_store
from featcache.summary import Summary, SummaryTable, percent
from featcache.training.seeds import open_runs

NUM_FOLDS = 5
PRETRAINED, SCRATCH = "pretrained", "scratch"

Logits = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One division into training videos and scored videos.

    Attributes:
        name: Folder name of its runs.
        train: int64 [A], numbers of the training videos.
        tests: Split to int64 numbers of the test videos.
    """

    name: str
    train: npt.NDArray[np.int64]
    tests: Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalResult:
    """Test results of fine-tuned temporal modules.

    Attributes:
        folder: The run's folder.
        store: Store of the maps.
        label: Label column.
        protocol: How training and test videos were separated.
        num_classes: Number of classes.
        classes: Names of the classes, in the order of the head's outputs.
        num_train: Number of training videos.
        num_views: Number of views of a test video, clips times crops.
        seeds: Seeds; every number covers all of them.
        metrics: ``arm -> split -> order -> metric``; an arm is ``pretrained`` or ``scratch``.
        delta: ``split -> difference of top-1 between pretrained and scratch``, with the interval of paired resamples.
        coverage: Coverage by split.
        cost: Counts of :func:`featcache.methods.advise.cost.counted_cost`.
        seconds: Wall time.
    """

    folder: str
    store: str
    label: str
    protocol: str
    num_classes: int
    classes: tuple[str, ...]
    num_train: int
    num_views: int
    seeds: tuple[int, ...]
    metrics: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Metric]]]]
    delta: Mapping[str, Metric]
    coverage: Mapping[str, Coverage]
    cost: Mapping[str, float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        return plain

    def summary(self) -> Summary:
        """Accuracies by module, split and order of frames."""
        rows = tuple(
            (
                arm,
                split,
                order,
                *(percent(each.value, each.low, each.high) for each in metrics.values()),
                f"{self.coverage[split].ok}/{self.coverage[split].total}",
            )
            for arm, splits in self.metrics.items()
            for split, orders in splits.items()
            for order, metrics in orders.items()
        )
        names = next(iter(next(iter(next(iter(self.metrics.values())).values())).values()))
        title = (
            f"{self.label!r}: {self.num_classes} classes, {self.protocol}, {self.num_train} training videos, "
            f"{self.num_views} views, {len(self.seeds)} seeds"
        )
        columns = ("module", "split", "frames", *names, "coverage")
        differences = (
            f"pretrained - scratch on {split}: {100 * delta.value:+.1f} "
            f"[{100 * delta.low:+.1f}, {100 * delta.high:+.1f}] points"
            for split, delta in self.delta.items()
        )
        return Summary(
            tables=(SummaryTable(title=title, columns=columns, rows=rows, num_text=3),),
            lines=(*differences, f"written to {self.folder}"),
        )


def run_temporal(
    settings: TmmFineTuneSettings,
    *,
    source: ClipSource | None = None,
    intervals: IntervalSettings | None = None,
    on_stage: OnStage = ignore,
) -> TemporalResult:
    """Fine-tune (and on request train from scratch) with every seed, and score all test views.

    Without splits, five folds over the videos are used, each scored by a module that is trained on the others.

    Args:
        settings: Settings of the run.
        source: Source of the maps; ``None`` opens the one that the settings name.
        intervals: Settings of the intervals.
        on_stage: Called with the stage ``seed N`` after each step.

    Raises:
        ManifestError: There are no labels, only one class, or no videos to score.
        UnknownNameError: There is no such split or label column.
    """
    started = time.monotonic()
    store = open_store(Path(settings.bank.store))
    bank = source or open_source(settings.bank, store=store, device=settings.training.device)
    labels, classes = _labels(store, bank, settings.label)
    splits = video_splits(store, settings.bank.split_column)
    assignments, protocol = _assignments(store, bank, labels, splits, settings)
    runs = open_runs(
        settings, settings.training, name="tmm", of=settings.bank.store, out=settings.out, on_stage=on_stage
    )
    arms = {PRETRAINED if settings.init else SCRATCH: settings}
    if settings.compare_scratch:
        shape, _ = initial_module(settings, seed=settings.training.seeds[0], width_in=bank.shape[2])
        arms[SCRATCH] = settings.model_copy(update={"init": None, "compare_scratch": False, "tmm": shape})
    orders = ORDERS if settings.order_test else ORDERS[:1]
    scored = {split for assignment in assignments for split in assignment.tests}
    videos = {
        split: np.concatenate([assignment.tests[split] for assignment in assignments if split in assignment.tests])
        for split in sorted(scored)
    }
    logits: dict[tuple[str, str, str], list[Logits]] = {}
    for arm, own in arms.items():
        for seed in settings.training.seeds:
            parts: dict[tuple[str, str], list[Logits]] = {}
            for assignment in assignments:
                module = fine_tune(
                    own,
                    bank,
                    runs=runs,
                    videos=assignment.train,
                    labels=labels[assignment.train],
                    num_classes=len(classes),
                    seed=seed,
                    within=f"{arm}/{assignment.name}",
                )
                for split, numbers in assignment.tests.items():
                    for order in orders:
                        scores = video_logits(module, bank, numbers, own, order=order, seed=seed)
                        parts.setdefault((split, order), []).append(scores)
            for (split, order), folds in parts.items():
                logits.setdefault((arm, split, order), []).append(np.concatenate(folds))
    intervals = intervals or IntervalSettings()
    ranks = {key: rank_of_truth(np.stack(scores), labels[videos[key[1]]]) for key, scores in logits.items()}
    metrics: dict[str, dict[str, dict[str, Mapping[str, Metric]]]] = {}
    for (arm, split, order), rank in ranks.items():
        metrics.setdefault(arm, {}).setdefault(split, {})[order] = accuracies(
            rank, labels[videos[split]], num_classes=len(classes), intervals=intervals
        )
    tmm, _ = initial_module(settings, seed=settings.training.seeds[0], width_in=bank.shape[2])
    result = TemporalResult(
        folder=str(runs.folder),
        store=str(store.path),
        label=settings.label,
        protocol=protocol,
        num_classes=len(classes),
        classes=classes,
        num_train=max(len(assignment.train) for assignment in assignments),
        num_views=settings.test_clips * max(bank.num_crops(int(video)) for part in videos.values() for video in part),
        seeds=settings.training.seeds,
        metrics=metrics,
        delta={
            split: paired_difference(ranks[PRETRAINED, split, "true"], ranks[SCRATCH, split, "true"], intervals)
            for split in videos
            if len(arms) > 1
        },
        coverage={split: split_coverage(store, bank, splits, split, labels) for split in videos},
        cost=counted_cost(tmm, shape=bank.shape, num_frames=settings.num_frames, num_classes=len(classes)),
        seconds=time.monotonic() - started,
    )
    return runs.finish(result)


def paired_difference(
    mine: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64], intervals: IntervalSettings
) -> Metric:
    """Difference of top-1 accuracy with a percentile interval over paired resamples of videos and seeds.

    Args:
        mine: int64 [S, M] ranks of the true class.
        theirs: int64 [S, M], for the same seeds and videos.
        intervals: Number of resamples, confidence and seed.
    """
    gain = (mine == 0).astype(np.float64) - (theirs == 0)
    rng = rng_for(intervals.seed, "paired")
    num_seeds, num_videos = gain.shape
    draws = np.empty(intervals.num_resamples)
    for number in range(intervals.num_resamples):
        seeds = rng.integers(num_seeds, size=num_seeds)
        draws[number] = gain[seeds].mean(axis=0)[rng.integers(num_videos, size=num_videos)].mean()
    tail = (1 - intervals.confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Metric(value=float(gain.mean()), low=float(low), high=float(high))


def _labels(store: Store, bank: ClipSource, column: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The class of each video of the bank, -1 if it has none, and the class names."""
    if not store.label_names:
        raise ManifestError(
            f"no video of {store.path} has a label; list them with a column `label` or `label.NAME` and extract again"
        )
    named = store.labels(column)
    classes = tuple(sorted({named[video_id] for video_id in bank.video_ids if video_id in named}))
    if len(classes) < 2:
        raise ManifestError(
            f"the videos of {store.path} have {len(classes)} class in column {column!r}; training needs at least two"
        )
    index = {name: place for place, name in enumerate(classes)}
    return np.array([index.get(named.get(video_id, ""), -1) for video_id in bank.video_ids], np.int64), classes


def _assignments(
    store: Store,
    bank: ClipSource,
    labels: npt.NDArray[np.int64],
    splits: Mapping[str, str],
    settings: TmmFineTuneSettings,
) -> tuple[list[Assignment], str]:
    is_labelled = labels >= 0
    if not splits:
        videos = np.flatnonzero(is_labelled)
        num_folds = min(NUM_FOLDS, len(videos))
        folds = fold_numbers(labels[videos], num_folds=num_folds, seed=0)
        assigned = [
            Assignment(
                name=f"fold-{fold}",
                train=_few(videos[folds != fold], labels, settings.labels_per_class),
                tests={"all": videos[folds == fold]},
            )
            for fold in range(num_folds)
        ]
        return assigned, f"{num_folds} folds over videos"
    train_split = settings.bank.train_split
    known = sorted({split for split in splits.values() if split})
    for split in (train_split, *(settings.test_splits or ())):
        if split not in known:
            raise unknown_name("split", split, known, hint=f"{store.path} has: {', '.join(known)}.")
    names: Sequence[str] = settings.test_splits or [split for split in known if split != train_split]
    in_split = np.array([splits.get(video_id, "") for video_id in bank.video_ids])
    train = np.flatnonzero(is_labelled & (in_split == train_split))
    tests = {split: np.flatnonzero(is_labelled & (in_split == split)) for split in names}
    tests = {split: videos for split, videos in tests.items() if len(videos)}
    if not len(train) or not tests:
        raise ManifestError(
            f"{store.path} has {len(train)} labelled training videos in {train_split!r} and {len(tests)} test splits "
            "with any; see `featcache info` for labels, splits and failures"
        )
    for split, videos in tests.items():
        is_random = has_training_views(store, [bank.video_ids[video] for video in videos])
        check_test_views(store.path, is_random, split=split, column=settings.bank.split_column)
    chosen = _few(train, labels, settings.labels_per_class)
    return [Assignment(name="all", train=chosen, tests=tests)], f"trained on split {train_split!r}"


def _few(videos: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], per_class: int | None) -> npt.NDArray[np.int64]:
    """A given number of videos of each class; a smaller selection is contained in a larger one."""
    if per_class is None:
        return videos
    classes = [str(label) for label in labels[videos]]
    return videos[nested_subset(classes, num_items=min(len(videos), per_class * len(set(classes))))]


def split_coverage(
    store: Store, bank: ClipSource, splits: Mapping[str, str], split: str, labels: npt.NDArray[np.int64]
) -> Coverage:
    """Coverage of a split's videos, or of all videos if there are no splits."""
    mine = [video_id for video_id in store.videos if not splits or splits.get(video_id) == split]
    place = {video_id: number for number, video_id in enumerate(bank.video_ids)}
    ok = [place[video_id] for video_id in mine if video_id in place]
    return Coverage(ok=len(ok), failed=len(mine) - len(ok), total=len(mine), unlabelled=int((labels[ok] < 0).sum()))
