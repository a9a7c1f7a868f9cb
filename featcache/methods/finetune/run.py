"""Fine-tunes a backbone on labelled videos and reports its accuracy over the views of test videos."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache.backbones.classifier_file import NAME as CLASSIFIER
from featcache.backbones.classifier_file import ClassifierFacts
from featcache.backbones.trainable import check_names, has_unused
from featcache.backbones.weights import write_weights
from featcache.data.selection import GROUP
from featcache.errors import VideoError
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.labelled import LabelledSource, LabelledVideos, read_data
from featcache.loaders.stand_ins import StandIns
from featcache.loaders.usable import extraction_of
from featcache.methods.finetune.module import VideoClassifier, build_classifier
from featcache.methods.finetune.objective import FinetuneObjective
from featcache.methods.finetune.sampling import clip_source, scoring_recipe
from featcache.methods.finetune.scoring import Scores, video_scores
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.metrics.intervals import accuracies, rank_of_truth
from featcache.metrics.predictions import Predictions, write_predictions
from featcache.metrics.result import Coverage, SplitResult
from featcache.metrics.settings import IntervalSettings
from featcache.metrics.splits import group_numbers
from featcache.networks.counting import count_parameters, count_trained
from featcache.stages import OnStage, ignore
from featcache.summary import Summary, SummaryTable, percent
from featcache.training.kept import NetworkFile
from featcache.training.runs import cores_of, seed_folder
from featcache.training.seeds import SeedRuns, open_runs, result_dict
from featcache.training.settings import TrainingSettings
from featcache.training.shared_norm import share_batch_norms
from featcache.training.skips import Replaced
from featcache.training.world import World, join_world
from featcache.units import duration

log = logging.getLogger(__name__)

WEIGHTS = "backbone.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """A fine-tuned backbone and its test results.

    Attributes:
        folder: The run's folder.
        backbone: Registry name of the backbone for extraction with ``weights``.
        label: Label column.
        num_classes: Number of classes of the training videos.
        classes: Class names in the order of the head's outputs; those that occur only in test videos come last.
        num_train: Number of training videos.
        num_left_out: Number of videos of all splits that cannot be used, with test videos that did not decode.
        num_views: Number of views of a test video.
        num_parameters: Number of parameters of the backbone.
        num_trained: Number of trained parameters, including the head.
        splits: Results by test split, over videos and seeds.
        weights: The backbone's file of each seed; empty if it was frozen.
        models: The whole classifier's file of each seed, for ``classify`` and as weights of the backbone.
        replaced: How many training videos could not be decoded, and how often another one took the place of one.
        seeds: The last line of each seed's log.
        seconds: Wall time.
        next_command: A command that extracts with the first seed's weights, or classifies if the backbone was frozen.
    """

    folder: str
    backbone: str
    label: str
    num_classes: int
    classes: tuple[str, ...]
    num_train: int
    num_left_out: int
    num_views: int
    num_parameters: int
    num_trained: int
    splits: Mapping[str, SplitResult]
    weights: Mapping[int, str]
    models: Mapping[int, str]
    replaced: Replaced
    seeds: Mapping[int, Mapping[str, float]]
    seconds: float
    next_command: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return result_dict(self)

    def summary(self) -> Summary:
        """Accuracies by split."""
        rows = tuple(
            (
                split,
                *(percent(each.value, each.low, each.high) for each in part.metrics.values()),
                f"{part.num_videos}/{part.coverage.total}",
            )
            for split, part in self.splits.items()
        )
        names = next(iter(self.splits.values())).metrics
        title = f"{self.label!r}: {self.num_classes} classes, {self.num_views} views, {len(self.seeds)} seeds"
        facts = {
            "backbone": f"{self.backbone}, {self.num_parameters:,} parameters",
            "trained": f"{self.num_trained:,} parameters, head included, on {self.num_train} videos",
            "took": duration(self.seconds),
            "run": self.folder,
        }
        for split, part in self.splits.items():
            if part.num_unseen:
                unseen = f"{part.num_unseen} videos of classes that were not taught, counted as wrong"
                facts[f"unseen in {split}"] = unseen
        if self.num_left_out:
            facts["left out"] = f"{self.num_left_out} videos that cannot be used"
        facts |= self.replaced.facts()
        table = SummaryTable(title=title, columns=("split", *names, "scored"), rows=rows)
        return Summary(tables=(table,), facts=facts, next_command=self.next_command)


def finetune(
    settings: FinetuneSettings,
    *,
    intervals: IntervalSettings | None = None,
    on_stage: OnStage = ignore,
) -> FinetuneResult:
    """Train backbone and head (or only the head) with every seed, and score the test videos.

    Unfinished runs are resumed, finished ones kept. The backbone of a seed is written to
    ``seed-N/backbone.safetensors``, a weights file for its name, and the whole classifier with the test views to
    ``seed-N/classifier.safetensors``.

    Processes started by torchrun share each batch and the test videos: the run is the same for any number of them, up
    to rounding and the draws of dropout and stochastic depth, and may be resumed with another number. BatchNorms then
    take the statistics of whole batches. The first process lists the videos, writes files and calls ``on_stage``.

    Args:
        settings: Settings of the run.
        intervals: Settings of the intervals.
        on_stage: Called with the stage ``scan``, with ``seed N`` after each step, and with ``test``.

    Raises:
        ConfigError: The backbone cannot take such clips, there are fewer videos than the batch size, or the processes
            cannot share a batch or a BatchNorm.
        DivergedError: The loss is not finite; the last checkpoint is kept.
        ManifestError: There are no splits, no labels, only one class, or no videos to train on or to score.
        StoppedError: Another process has raised an error.
        UnknownNameError: There is no such backbone, layer, split or label column.
        VideoError: A video is missing or has changed since it was scanned, or too many cannot be decoded.
        WeightsError: Weights cannot be found, or belong to another network.
    """
    with join_world() as world:
        return _finetune(settings, world, intervals=intervals or IntervalSettings(), on_stage=on_stage)


def _finetune(
    settings: FinetuneSettings, world: World, *, intervals: IntervalSettings, on_stage: OnStage
) -> FinetuneResult:
    started = time.monotonic()
    training = settings.training
    runs = open_runs(
        settings,
        training,
        name="finetune",
        of=settings.videos_name,
        out=settings.out,
        network=None if settings.frozen else WEIGHTS,
        world=world,
        on_stage=on_stage,
    )
    check_names(settings.backbone, settings.weights)
    data = read_data(settings, folder=runs.folder, world=world, on_stage=on_stage)
    workers = cores_of(world) if settings.workers is None else settings.workers
    scores: dict[str, list[Scores]] = {}
    tests = dict(data.tests)
    models = {}
    for seed in training.seeds:
        module = build_classifier(settings, num_classes=data.num_taught, seed=seed, device=runs.device)
        if not settings.frozen:  # a frozen one has running statistics
            share_batch_norms(module, world)
        identity = runs.identity(seed, {"videos": data.content, "weights": module.recipe.weights_hash})
        files = data.train.files
        stand_ins = StandIns(files, seed=seed, skips=runs.skips(seed, files.videos, settings.max_damaged))
        source = clip_source(settings, module, seed=seed)
        with ViewLoader(source, files, workers=workers, stand_ins=stand_ins) as loader:
            runs.train(
                FinetuneObjective(
                    loader,
                    data.train.labels,
                    module=module,
                    batch_size=training.batch_size,
                    num_epochs=training.epochs,
                    seed=seed,
                    world=world,
                ),
                seed=seed,
                has_unused=world.size > 1 and has_unused(module),
                identity=identity,
                facts={"method": "finetune", "backbone": settings.backbone, "classes": data.classes[: data.num_taught]},
                network=None
                if settings.frozen
                else NetworkFile(
                    child="network",
                    facts={"backbone": settings.backbone, "recipe": dict(identity.values)},
                ),
            )
        models[seed] = _write_whole(runs, seed, module, settings, data)
        for split, videos in tests.items():
            numbers, found = video_scores(
                module,
                clip_source(settings, module, seed=None),
                videos.files,
                workers=workers,
                clips_at_once=_clips_at_once(training, world),
                average=settings.test.average,
                precision=training.precision,
                world=world,
                on_stage=on_stage,
            )
            scores.setdefault(split, []).append(found)
            if not numbers:
                raise VideoError(
                    "undecodable",
                    f"none of {len(videos.labels)} test videos can be decoded; `featcache scan --decode` says why",
                )
            if num_damaged := len(videos.labels) - len(numbers):
                if world.is_first:
                    log.warning("%d videos of split %r cannot be decoded and are not scored", num_damaged, split)
                tests[split] = videos.decodable(numbers)
    data = replace(data, tests=tests)
    first = next(iter(runs.weights.values()), None)
    result = FinetuneResult(
        folder=str(runs.folder),
        backbone=settings.backbone,
        label=settings.label,
        num_classes=data.num_taught,
        classes=data.classes,
        num_train=len(data.train.labels),
        num_left_out=data.num_left_out,
        num_views=settings.test.num_clips * settings.test.num_crops,
        num_parameters=count_parameters(module.network),
        num_trained=count_trained(module),
        splits={
            split: _measured(np.stack(each), data.tests[split], data, intervals or IntervalSettings())
            for split, each in scores.items()
        },
        weights=runs.weights,
        models=models,
        replaced=runs.replaced,
        seeds=runs.lines,
        seconds=time.monotonic() - started,
        next_command=f"featcache classify FILE --model {Path(next(iter(models.values()))).parent}"
        if first is None
        else extraction_of(settings, backbone=settings.backbone, weights=first),
    )
    if runs.world.is_first:
        write_predictions(runs.folder, _by_video(scores, data, settings))
    return runs.finish(result)


def _clips_at_once(training: TrainingSettings, world: World) -> int:
    """Number of test clips per forward pass: as many as training clips."""
    return training.batch_size // world.size


def _write_whole(
    runs: SeedRuns, seed: int, module: VideoClassifier, settings: FinetuneSettings, data: LabelledSource
) -> str:
    """Write network and head with all that is needed to classify; returns the path."""
    path = seed_folder(runs.folder, seed) / CLASSIFIER
    facts = ClassifierFacts(
        backbone=settings.backbone,
        classes=data.classes[: data.num_taught],
        feature=module.recipe,
        views=scoring_recipe(settings, num_frames=module.num_frames),
        average=settings.test.average,
        precision=settings.training.precision,
        clips_at_once=_clips_at_once(settings.training, runs.world),
        label=settings.label,
        seed=seed,
    )
    if runs.world.is_first:
        write_weights(path, module, facts=facts.metadata())
    return str(path)


def _by_video(scores: Mapping[str, list[Scores]], data: LabelledSource, settings: FinetuneSettings) -> Predictions:
    """The scores of every test video, split by split."""
    tested = [(split, video) for split in scores for video in data.tests[split].files.videos]
    groups = [video.labels.get(GROUP) for _, video in tested]
    return Predictions(
        videos=tuple(video.id for _, video in tested),
        splits=tuple(split for split, _ in tested),
        groups=group_numbers(groups) if any(group is not None for group in groups) else None,
        label=settings.label,
        labels=tuple(data.classes[label] for split in scores for label in data.tests[split].labels),
        classes=data.classes,
        seeds=settings.training.seeds,
        scores=np.concatenate([_all_classes(np.stack(each), data) for each in scores.values()], axis=1),
    )


def _all_classes(scores: Scores, data: LabelledSource) -> Scores:
    """Scores [S, M, trained classes] over all classes; classes that were not trained cannot be predicted."""
    untaught = np.full((*scores.shape[:2], len(data.classes) - data.num_taught), -np.inf)
    return np.concatenate([scores, untaught], axis=2)


def _measured(scores: Scores, videos: LabelledVideos, data: LabelledSource, intervals: IntervalSettings) -> SplitResult:
    """Accuracies of scores [S, M, trained classes]."""
    ranks = rank_of_truth(_all_classes(scores, data), videos.labels)
    ok = len(videos.labels) + videos.num_unlabelled
    return SplitResult(
        metrics=accuracies(
            ranks, videos.labels, num_classes=data.num_taught, intervals=intervals, groups=videos.groups
        ),
        coverage=Coverage(
            ok=ok, failed=videos.num_failed, total=ok + videos.num_failed, unlabelled=videos.num_unlabelled
        ),
        num_videos=len(videos.labels),
        num_unseen=int((videos.labels >= data.num_taught).sum()),
    )
