"""Fine-tunes temporal modules and reports accuracy over views, against training from scratch, and by frame order."""

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from featcache.loaders.assignments import assignments_of, labels_of, split_coverage
from featcache.loaders.bank import ClipSource
from featcache.loaders.choice import groups_of, video_splits
from featcache.loaders.online import open_source
from featcache.methods.advise.run import fine_tune, initial_module
from featcache.methods.advise.settings import TmmFineTuneSettings
from featcache.methods.advise.tuning import ORDERS, video_logits
from featcache.metrics.intervals import Metric, accuracies, paired_difference, rank_of_truth
from featcache.metrics.result import Coverage
from featcache.metrics.settings import IntervalSettings
from featcache.metrics.splits import Groups
from featcache.networks.tmm_cost import counted_cost
from featcache.stages import OnStage, ignore
from featcache.store.reader import open_store
from featcache.summary import Summary, SummaryTable, percent
from featcache.training.seeds import open_runs

PRETRAINED, SCRATCH = "pretrained", "scratch"

Logits = npt.NDArray[np.float64]


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
        cost: Counts of :func:`featcache.networks.tmm_cost.counted_cost`.
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
    labels, classes = labels_of(store, bank, settings.label)
    splits = video_splits(store, settings.bank.split_column)
    groups = groups_of(store, bank.video_ids)
    assignments, protocol = assignments_of(
        store,
        bank,
        labels,
        settings.bank,
        test_splits=settings.test_splits,
        labels_per_class=settings.labels_per_class,
    )
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
                    scores = video_logits([module], bank, numbers, own, orders=orders, seeds=[seed])
                    for order in orders:
                        parts.setdefault((split, order), []).append(scores[order][0])
            for (split, order), folds in parts.items():
                logits.setdefault((arm, split, order), []).append(np.concatenate(folds))
    ranks = {key: rank_of_truth(np.stack(scores), labels[videos[key[1]]]) for key, scores in logits.items()}
    tmm, _ = initial_module(settings, seed=settings.training.seeds[0], width_in=bank.shape[2])
    return runs.finish(
        TemporalResult(
            folder=str(runs.folder),
            store=str(store.path),
            label=settings.label,
            protocol=protocol,
            num_classes=len(classes),
            classes=classes,
            num_train=max(len(assignment.train) for assignment in assignments),
            num_views=settings.test_clips * most_crops(bank, videos),
            seeds=settings.training.seeds,
            coverage={split: split_coverage(store, bank, splits, split, labels) for split in videos},
            cost=counted_cost(tmm, shape=bank.shape, num_frames=settings.num_frames, num_classes=len(classes)),
            seconds=time.monotonic() - started,
            **measured(ranks, labels, videos, num_classes=len(classes), intervals=intervals, groups=groups),
        )
    )


class Measured(TypedDict):
    """Metrics of arms and their difference, as in :class:`TemporalResult`."""

    metrics: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Metric]]]]
    delta: Mapping[str, Metric]


def measured(
    ranks: Mapping[tuple[str, str, str], npt.NDArray[np.int64]],
    labels: npt.NDArray[np.int64],
    videos: Mapping[str, npt.NDArray[np.int64]],
    *,
    num_classes: int,
    intervals: IntervalSettings | None,
    groups: Groups | None,
) -> Measured:
    """Accuracies with intervals, and the difference of the two arms where there are both.

    Args:
        ranks: int64 [S, M] ranks of the truth, by arm, split and order of frames.
        labels: int64 [V], class of each video.
        videos: int64 [M], scored videos by split.
        num_classes: Number of classes.
        intervals: Settings of the intervals.
        groups: int64 [V], group of each video, which intervals resample; ``None``: videos.
    """
    own = {split: None if groups is None else groups[numbers] for split, numbers in videos.items()}
    intervals = intervals or IntervalSettings()
    metrics: dict[str, dict[str, dict[str, Mapping[str, Metric]]]] = {}
    for (arm, split, order), rank in ranks.items():
        metrics.setdefault(arm, {}).setdefault(split, {})[order] = accuracies(
            rank, labels[videos[split]], num_classes=num_classes, intervals=intervals, groups=own[split]
        )
    delta = {
        split: paired_difference(
            ranks[PRETRAINED, split, "true"], ranks[SCRATCH, split, "true"], intervals, groups=own[split]
        )
        for split in videos
        if len(metrics) > 1
    }
    return Measured(metrics=metrics, delta=delta)


def most_crops(bank: ClipSource, videos: Mapping[str, npt.NDArray[np.int64]]) -> int:
    """The largest number of crops that a frame of these videos has."""
    return max(bank.num_crops(int(video)) for part in videos.values() for video in part)
