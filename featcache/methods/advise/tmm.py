"""Scores temporal modules on labels, by order of frames: fine-tuned first, or as another run has left them."""

import dataclasses
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.config import parse, read_json, read_mapping, to_yaml
from featcache.errors import ConfigError, ManifestError
from featcache.files.publish import put_replace
from featcache.loaders.assignments import LabelledBank, read_labelled
from featcache.loaders.bank import open_bank
from featcache.loaders.online import open_source
from featcache.loaders.unstored import open_videos
from featcache.loaders.usable import KEPT
from featcache.machine import resolve_device
from featcache.methods.advise.saved import arms_of, initial_module, load_module, read_module
from featcache.methods.advise.settings import TmmEvaluationSettings, TmmFineTuneSettings
from featcache.methods.advise.tuning import ORDERS, fine_tune, video_logits
from featcache.metrics.intervals import Metric, accuracies, paired_difference, rank_of_truth
from featcache.metrics.predictions import Predictions, write_predictions
from featcache.metrics.result import Coverage
from featcache.metrics.settings import IntervalSettings
from featcache.networks.settings import TmmSettings
from featcache.networks.tmm_cost import counted_cost
from featcache.stages import OnStage, ignore
from featcache.store.reader import open_store
from featcache.summary import Summary, SummaryTable, percent
from featcache.training.runs import run_folder
from featcache.training.seeds import open_runs
from featcache.training.skips import NOTHING_REPLACED, Replaced
from featcache.training.world import World, join_world

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
        replaced: How many training videos could not be decoded, and how often another one took the place of one.
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
    replaced: Replaced = NOTHING_REPLACED

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
            facts=self.replaced.facts(),
            lines=(*differences, f"written to {self.folder}"),
        )


def run_temporal(
    settings: TmmFineTuneSettings,
    *,
    intervals: IntervalSettings | None = None,
    on_stage: OnStage = ignore,
) -> TemporalResult:
    """Fine-tune (and on request train from scratch) with every seed, and score all test views.

    Without splits, five folds over the videos are used, each scored by a module that is trained on the others.

    Processes started by torchrun share each batch and the test videos: the run is the same for any number of them, up
    to rounding and the draws of dropout, and may be resumed with another number. BatchNorms then take the statistics of
    whole batches. The first process writes files and calls ``on_stage``.

    Args:
        settings: Settings of the run.
        intervals: Settings of the intervals.
        on_stage: Called with the stage ``scan`` where videos are scanned, then with ``seed N`` after each step.

    Raises:
        ConfigError: The processes cannot share a batch equally.
        ManifestError: There are no labels, only one class, or no videos to score.
        StoppedError: Another process has raised an error.
        UnknownNameError: There is no such split or label column.
    """
    with join_world() as world:
        return _run_temporal(settings, world, intervals=intervals, on_stage=on_stage)


def _run_temporal(
    settings: TmmFineTuneSettings, world: World, *, intervals: IntervalSettings | None, on_stage: OnStage
) -> TemporalResult:
    started = time.monotonic()
    training, of, seeds = settings.training, settings.bank.store, settings.training.seeds
    runs = open_runs(settings, training, name="tmm", of=of, out=settings.out, world=world, on_stage=on_stage)
    device = str(runs.device)
    store = open_videos(settings.bank, device=device, kept=runs.folder / KEPT, world=world, on_stage=on_stage)
    bank = open_source(settings.bank, videos=store, device=device, world=world)
    data = read_labelled(settings.bank, bank, store=store, label=settings.label)
    assignments, protocol = data.assignments(
        test_splits=settings.test_splits, labels_per_class=settings.labels_per_class
    )
    arms = {PRETRAINED if settings.init else SCRATCH: settings}
    tmm, _ = initial_module(settings.init, settings.tmm, seed=seeds[0], width_in=bank.shape[2])
    if settings.compare_scratch:
        arms[SCRATCH] = settings.model_copy(update={"init": None, "compare_scratch": False, "tmm": tmm})
    orders = ORDERS if settings.order_test else ORDERS[:1]
    scored = {split for assignment in assignments for split in assignment.tests}
    num_tests = {
        split: sum(len(assignment.tests.get(split, ())) for assignment in assignments) for split in sorted(scored)
    }
    logits: dict[tuple[str, str, str], list[Logits]] = {}
    for arm, own in arms.items():
        for seed in seeds:
            parts: dict[tuple[str, str], list[Logits]] = {}
            tested: dict[str, list[npt.NDArray[np.int64]]] = {split: [] for split in num_tests}  # always the same
            for assignment in assignments:
                module = fine_tune(
                    own,
                    bank,
                    runs=runs,
                    videos=assignment.train,
                    labels=data.labels[assignment.train],
                    num_classes=len(data.classes),
                    seed=seed,
                    within=f"{arm}/{assignment.name}",
                )
                for split, numbers in assignment.tests.items():
                    found, scores = video_logits([module], bank, numbers, own, orders=orders, seeds=[seed], world=world)
                    tested[split].append(found)
                    for order in orders:
                        parts.setdefault((split, order), []).append(scores[order][0])
            for (split, order), folds in parts.items():
                logits.setdefault((arm, split, order), []).append(np.concatenate(folds))
    videos = {split: np.concatenate(numbers) for split, numbers in tested.items()}
    ranks = {key: rank_of_truth(np.stack(scores), data.labels[videos[key[1]]]) for key, scores in logits.items()}
    result = _result(
        ranks,
        data,
        settings,
        tmm,
        videos=videos,
        folder=str(runs.folder),
        protocol=protocol,
        num_train=max(len(assignment.train) for assignment in assignments),
        intervals=intervals,
        started=started,
    )
    coverage = {
        split: _without(result.coverage[split], num_tests[split] - len(numbers)) for split, numbers in videos.items()
    }
    result = dataclasses.replace(result, coverage=coverage, replaced=runs.replaced)
    for place, arm in enumerate(arms):  # the other arm is a run of its own to `featcache compare`
        scores = {split: np.stack(logits[arm, split, ORDERS[0]]) for split in videos}
        predictions = _by_video(scores, data, videos=videos, seeds=seeds)
        if world.is_first:
            write_predictions(runs.folder / arm if place else runs.folder, predictions)
    return runs.finish(result)


def _without(coverage: Coverage, num_damaged: int) -> Coverage:
    """Coverage in which videos that could not be decoded have failed."""
    return dataclasses.replace(coverage, ok=coverage.ok - num_damaged, failed=coverage.failed + num_damaged)


def _by_video(
    scores: Mapping[str, Logits],
    data: LabelledBank,
    *,
    videos: Mapping[str, npt.NDArray[np.int64]],
    seeds: Sequence[int],
) -> Predictions:
    """Scores [S, M, C] of every test video, split by split, with frames in their order."""
    numbers = np.concatenate(list(videos.values()))
    return Predictions(
        videos=tuple(data.source.video_ids[number] for number in numbers),
        splits=tuple(split for split, mine in videos.items() for _ in mine),
        groups=None if data.groups is None else data.groups[numbers],
        label=data.label,
        labels=tuple(data.classes[data.labels[number]] for number in numbers),
        classes=data.classes,
        seeds=tuple(seeds),
        scores=np.concatenate([scores[split] for split in videos], axis=1),
    )


def evaluate_plugged(
    settings: TmmEvaluationSettings, *, intervals: IntervalSettings | None = None, on_stage: OnStage = ignore
) -> TemporalResult:
    """Score the test views of a store with the unchanged modules of a run, one per seed and arm.

    Source: AdViSe, on the choice of the image model. Module and head, including BatchNorm statistics, do not change;
    only the store does. The channels of two image models need not mean the same; the score shows whether they do.

    Args:
        settings: Settings of the evaluation.
        intervals: Settings of the intervals.
        on_stage: Called with the stage ``test SPLIT``, videos scored and videos in all.

    Raises:
        ConfigError: The folder is not a run of ``train tmm``, or the run was trained on folds or on another width.
        ManifestError: There are no labelled test videos, or they have classes that the run does not know.
        UnknownNameError: There is no such split or label column.
    """
    started = time.monotonic()
    run = Path(settings.run)
    trained, classes = read_run(run)
    store = open_store(settings.bank.store)
    bank = open_bank(settings.bank, store=store)
    data = read_labelled(settings.bank, bank, store=store, label=settings.label or trained.label, classes=classes)
    videos = data.tests(settings.test_splits)
    if not videos:
        raise ManifestError(
            f"{store.path} has no labelled test videos outside of split {settings.bank.train_split!r}; a module can "
            "only be scored on videos that it was not trained on"
        )
    device = resolve_device(settings.device)
    arms = dict(arms_of(run))
    orders = ORDERS if settings.order_test else ORDERS[:1]
    seeds = trained.training.seeds
    modules = {
        (arm, seed): load_module(folder, seed=seed, shape=bank.shape).to(device)
        for arm, folder in arms.items()
        for seed in seeds
    }
    ranks = {}
    for split, numbers in videos.items():
        _, scores = video_logits(
            list(modules.values()),
            bank,
            numbers,
            trained,
            orders=orders,
            seeds=[seed for _, seed in modules],
            on_videos=partial(on_stage, f"test {split}"),
        )
        for order, (place, arm) in itertools.product(orders, enumerate(arms)):
            mine = scores[order][place * len(seeds) : (place + 1) * len(seeds)]
            ranks[arm, split, order] = rank_of_truth(mine, data.labels[numbers])
    out = run_folder(settings, out=settings.out, store=settings.bank.store, name="plugged")
    put_replace(out / "config.yaml", to_yaml(settings).encode())
    tmm, _ = read_module(next(iter(arms.values())), seed=seeds[0])
    result = _result(
        ranks,
        data,
        trained,
        tmm,
        videos=videos,
        folder=str(out),
        protocol=f"trained on {trained.bank.store}, not on this store",
        num_train=0,
        intervals=intervals,
        started=started,
    )
    put_replace(out / "result.json", json.dumps(result.to_dict(), indent=2).encode())
    return result


def read_run(run: Path) -> tuple[TmmFineTuneSettings, tuple[str, ...]]:
    """Read the settings and class names of a finished run of ``train tmm``.

    Raises:
        ConfigError: It is not such a run, or is not finished.
    """
    if not (run / "config.yaml").exists() or read_mapping(run / "config.yaml").get("command") != "train-tmm":
        raise ConfigError(f"{run} is not a run of `featcache train tmm`; give the folder that it wrote to")
    if not (run / "result.json").exists():
        raise ConfigError(f"{run} is not finished; run `featcache run {run / 'config.yaml'}` to the end first")
    result = read_json(run / "result.json", what="result of `featcache train tmm`")
    classes = result.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"{run} does not name its classes; run `featcache run {run / 'config.yaml'}` once more")
    return parse(TmmFineTuneSettings, read_mapping(run / "config.yaml")), tuple(classes)


def _result(
    ranks: Mapping[tuple[str, str, str], npt.NDArray[np.int64]],
    data: LabelledBank,
    settings: TmmFineTuneSettings,
    tmm: TmmSettings,
    *,
    videos: Mapping[str, npt.NDArray[np.int64]],
    folder: str,
    protocol: str,
    num_train: int,
    intervals: IntervalSettings | None,
    started: float,
) -> TemporalResult:
    """Accuracies with intervals, the difference of the two arms where there are both, coverage and cost.

    Args:
        ranks: int64 [S, M] ranks of the truth, by arm, split and order of frames.
        data: The bank, with the classes of its videos.
        settings: Clips, views and seeds of the modules.
        tmm: Shape of the modules.
        videos: int64 [M], scored videos by split.
        folder: Folder of the result.
        protocol: How training and test videos were separated.
        num_train: Number of training videos.
        intervals: Settings of the intervals.
        started: Time of the start, in seconds of the monotonic clock.
    """
    bank, num_classes, intervals = data.source, len(data.classes), intervals or IntervalSettings()
    groups = {split: None if data.groups is None else data.groups[numbers] for split, numbers in videos.items()}
    metrics: dict[str, dict[str, dict[str, Mapping[str, Metric]]]] = {}
    for (arm, split, order), rank in ranks.items():
        metrics.setdefault(arm, {}).setdefault(split, {})[order] = accuracies(
            rank, data.labels[videos[split]], num_classes=num_classes, intervals=intervals, groups=groups[split]
        )
    return TemporalResult(
        folder=folder,
        store=str(data.store.path),
        label=data.label,
        protocol=protocol,
        num_classes=num_classes,
        classes=data.classes,
        num_train=num_train,
        num_views=settings.test_clips * max(bank.num_crops(int(video)) for part in videos.values() for video in part),
        seeds=settings.training.seeds,
        metrics=metrics,
        delta={
            split: paired_difference(
                ranks[PRETRAINED, split, "true"], ranks[SCRATCH, split, "true"], intervals, groups=groups[split]
            )
            for split in videos
            if len(metrics) > 1
        },
        coverage={split: data.coverage(split) for split in videos},
        cost=counted_cost(tmm, shape=bank.shape, num_frames=settings.num_frames, num_classes=num_classes),
        seconds=time.monotonic() - started,
    )
