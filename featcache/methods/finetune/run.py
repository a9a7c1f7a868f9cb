"""Fine-tuning a backbone on labelled videos and reporting it: accuracy over the views of test videos."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featcache.backbones.weights import write_weights
from featcache.config import to_yaml
from featcache.data.decoding.clips import CropSize
from featcache.data.listing import OnScan
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.ahead import ViewLoader
from featcache.machine import num_cores
from featcache.methods.finetune.clips import RecipeSource, scoring_recipe, train_recipe
from featcache.methods.finetune.data import FinetuneData, LabelledVideos, read_data
from featcache.methods.finetune.module import VideoClassifier, build_classifier, check_backbone
from featcache.methods.finetune.objective import FinetuneObjective
from featcache.methods.finetune.scoring import Scores, video_scores
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.metrics.intervals import accuracies, rank_of_truth
from featcache.metrics.result import Coverage, SplitResult
from featcache.metrics.settings import IntervalSettings
from featcache.networks.counting import count_parameters
from featcache.training.identity import Identity, digest, identity_of
from featcache.training.logs import read_log
from featcache.training.loop import Progress, train
from featcache.training.runs import prepare_torch, run_folder, seed_folder

OnSeed = Callable[[int, Progress], None]
WEIGHTS = "backbone.safetensors"


def ignore(seed: int, progress: Progress) -> None:
    """Report nothing."""


def ignore_scan(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunePlan:
    """What a run would do.

    Attributes:
        num_train: Training videos.
        num_left_out: Videos that cannot be used.
        num_classes: Classes that are taught.
        num_test: Test videos by split.
        num_views: Views of a test video.
        clip: Frames, height and width of a clip.
        feature: What the head reads: layer and output.
        num_parameters: Of the backbone.
        num_trained: Parameters that are trained, head included.
        num_steps: Optimiser steps of a seed.
        num_seeds: Runs.
    """

    num_train: int
    num_left_out: int
    num_classes: int
    num_test: Mapping[str, int]
    num_views: int
    clip: tuple[int, int, int]
    feature: str
    num_parameters: int
    num_trained: int
    num_steps: int
    num_seeds: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """A fine-tuned backbone and its test results.

    Attributes:
        folder: Of the run.
        backbone: Registry name, under which ``weights`` can be extracted with.
        label: Label column.
        num_classes: Classes that were taught.
        classes: Class names in the order of the head's outputs; those that only tests have come last.
        num_train: Training videos.
        num_left_out: Videos that cannot be used, of all splits.
        num_views: Views of a test video.
        num_parameters: Of the backbone.
        num_trained: Parameters that were trained, head included.
        splits: Results by test split, over videos and seeds.
        weights: The backbone's file of each seed; empty where it was frozen.
        seeds: The last line of each seed's log.
        seconds: Wall time.
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
    seeds: Mapping[int, Mapping[str, float]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            **dataclasses.asdict(self),
            "weights": {str(seed): path for seed, path in self.weights.items()},
            "seeds": {str(seed): dict(line) for seed, line in self.seeds.items()},
        }


def finetune(
    settings: FinetuneSettings,
    *,
    intervals: IntervalSettings | None = None,
    on_scan: OnScan = ignore_scan,
    on_progress: OnSeed = ignore,
    on_test: OnScan = ignore_scan,
) -> FinetuneResult:
    """Train backbone and head (or the head alone) with every seed, and score the test videos.

    Runs that are there are taken up or left as they are. The backbone of a seed is written to
    ``seed-N/backbone.safetensors``, a weights file of its name.

    Args:
        settings: Everything that can be chosen.
        intervals: How intervals are drawn.
        on_scan: Called with (files listed, files in all).
        on_progress: Called with the seed and its progress.
        on_test: Called with (test videos scored, test videos of a split).

    Raises:
        ConfigError: A backbone that cannot take such clips, or fewer videos than a batch.
        DivergedError: The loss is not finite; the last checkpoint is kept.
        ManifestError: No splits, no labels, one class, or nothing to learn from or to score.
        UnknownNameError: No such backbone, layer, split or label column.
        VideoError: A video that cannot be used any more.
        WeightsError: Weights that are not at hand, or of another network.
    """
    started = time.monotonic()
    device = prepare_torch(settings.training)
    check_backbone(settings)
    data = read_data(settings, on_scan=on_scan)
    name = Path(settings.source or settings.dataset or "").stem
    folder = run_folder(settings, out=settings.out, store=name, name="finetune")
    workers = num_cores() if settings.workers is None else settings.workers
    scores: dict[str, list[Scores]] = {}
    weights, logs = {}, {}
    for seed in settings.training.seeds:
        module = build_classifier(settings, num_classes=data.num_taught, seed=seed, device=device)
        identity = _identity(settings, module, data, seed)
        here = seed_folder(folder, seed)
        with ViewLoader(_source(data.train, settings, module, seed=seed), workers=workers) as loader:
            objective = FinetuneObjective(
                loader, data.train.labels, module=module, batch_size=settings.training.batch_size, seed=seed
            )
            put_replace(folder / "config.yaml", to_yaml(settings).encode())
            train(
                objective,
                settings.training,
                folder=here,
                seed=seed,
                identity=identity,
                facts={"method": "finetune", "backbone": settings.backbone, "classes": data.classes[: data.num_taught]},
                on_progress=lambda progress, seed=seed: on_progress(seed, progress),  # type: ignore[misc]
            )
        logs[seed] = read_log(here)[-1]
        if not settings.frozen:
            weights[seed] = str(here / WEIGHTS)
            facts = {"backbone": settings.backbone, "recipe": dict(identity.values), "seed": seed}
            write_weights(here / WEIGHTS, module.network, facts=facts)
        for split, videos in data.tests.items():
            found = video_scores(
                module,
                _source(videos, settings, module, seed=None),
                workers=workers,
                clips_at_once=settings.training.batch_size,
                average=settings.test.average,
                precision=settings.training.precision,
                on_progress=on_test,
            )
            scores.setdefault(split, []).append(found)
    result = FinetuneResult(
        folder=str(folder),
        backbone=settings.backbone,
        label=settings.label,
        num_classes=data.num_taught,
        classes=data.classes,
        num_train=len(data.train.labels),
        num_left_out=data.num_left_out,
        num_views=settings.test.num_clips * settings.test.num_crops,
        num_parameters=count_parameters(module.network),
        num_trained=_num_trained(module),
        splits={
            split: _measured(np.stack(each), data.tests[split], data, intervals or IntervalSettings())
            for split, each in scores.items()
        },
        weights=weights,
        seeds=logs,
        seconds=time.monotonic() - started,
    )
    put_replace(folder / "result.json", canonical_json(result.to_dict()))
    return result


def plan_finetune(settings: FinetuneSettings, *, on_scan: OnScan = ignore_scan) -> FinetunePlan:
    """Scan the videos and build the classifier, and say what a run would do; nothing is written.

    Args:
        settings: Everything that can be chosen.
        on_scan: Called with (files listed, files in all).

    Raises:
        FeatcacheError: As :func:`finetune`, as far as it shows before training.
    """
    check_backbone(settings)
    data = read_data(settings, on_scan=on_scan)
    training = settings.training
    module = build_classifier(settings, num_classes=data.num_taught, seed=training.seeds[0], device=torch.device("cpu"))
    source = _source(data.train, settings, module, seed=training.seeds[0])
    objective = FinetuneObjective(
        ViewLoader(source, workers=0), data.train.labels, module=module, batch_size=training.batch_size, seed=0
    )
    recipe = module.recipe
    return FinetunePlan(
        num_train=len(data.train.labels),
        num_left_out=data.num_left_out,
        num_classes=data.num_taught,
        num_test={split: len(videos.labels) for split, videos in data.tests.items()},
        num_views=settings.test.num_clips * settings.test.num_crops,
        clip=(module.num_frames, recipe.input_size, recipe.input_size),
        feature=f"{recipe.layer} {recipe.output}",
        num_parameters=count_parameters(module.network),
        num_trained=_num_trained(module),
        num_steps=training.epochs * max(1, objective.num_batches // training.accumulate),
        num_seeds=len(training.seeds),
    )


def _source(
    videos: LabelledVideos, settings: FinetuneSettings, module: VideoClassifier, *, seed: int | None
) -> RecipeSource:
    """Random clips of the run of a seed, or the fixed views of a test where it is ``None``."""
    crop = CropSize(size=module.recipe.input_size, interpolation=module.recipe.interpolation)
    if seed is None:
        return RecipeSource(videos.files, scoring_recipe(settings, num_frames=module.num_frames), crop=crop, seed=0)
    return RecipeSource(videos.files, train_recipe(settings, num_frames=module.num_frames), crop=crop, seed=seed)


def _measured(scores: Scores, videos: LabelledVideos, data: FinetuneData, intervals: IntervalSettings) -> SplitResult:
    """Accuracies of scores [S, M, taught classes]; a class that was not taught cannot be predicted."""
    untaught = np.full((*scores.shape[:2], len(data.classes) - data.num_taught), -np.inf)
    ranks = rank_of_truth(np.concatenate([scores, untaught], axis=2), videos.labels)
    ok = len(videos.labels) + videos.num_unlabelled
    return SplitResult(
        metrics=accuracies(ranks, videos.labels, num_classes=data.num_taught, intervals=intervals),
        coverage=Coverage(
            ok=ok, failed=videos.num_failed, total=ok + videos.num_failed, unlabelled=videos.num_unlabelled
        ),
        num_videos=len(videos.labels),
        num_unseen=int((videos.labels >= data.num_taught).sum()),
    )


def _num_trained(module: VideoClassifier) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _identity(settings: FinetuneSettings, module: VideoClassifier, data: FinetuneData, seed: int) -> Identity:
    videos = zip(data.train.files.videos, data.train.labels.tolist(), strict=True)
    listed = [[video.id, video.content_hash, video.num_frames, data.classes[label]] for video, label in videos]
    contents = {"videos": digest(listed), "weights": module.recipe.weights_hash}
    return identity_of(settings, inputs=contents, seed=seed)
