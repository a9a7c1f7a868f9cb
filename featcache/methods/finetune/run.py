"""Fine-tunes a backbone on labelled videos and reports its accuracy over the views of test videos."""

import time
from pathlib import Path

from featcache.backbones.trainable import check_names, has_unused
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.labelled import read_data
from featcache.loaders.stand_ins import StandIns
from featcache.loaders.usable import extraction_of
from featcache.methods.finetune.module import build_classifier
from featcache.methods.finetune.objective import FinetuneObjective
from featcache.methods.finetune.result import FinetuneResult
from featcache.methods.finetune.sampling import clip_source
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.methods.finetune.testing import ScoredVideos, write_classifier
from featcache.metrics.predictions import write_predictions
from featcache.metrics.settings import IntervalSettings
from featcache.networks.counting import count_parameters, count_trained
from featcache.stages import OnStage, ignore
from featcache.training.kept import NetworkFile
from featcache.training.runs import cores_of, seed_folder
from featcache.training.seeds import open_runs
from featcache.training.shared_norm import share_batch_norms
from featcache.training.world import World, join_world

WEIGHTS = "backbone.safetensors"


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
    tests = ScoredVideos(settings, data, workers=workers, world=world)
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
        folder = seed_folder(runs.folder, seed)
        models[seed] = write_classifier(folder, module, settings, data, seed=seed, world=world)
        tests.score(module, on_stage=on_stage)
    first = next(iter(runs.weights.values()), None)
    result = FinetuneResult(
        folder=str(runs.folder),
        backbone=settings.backbone,
        label=settings.label,
        num_classes=data.num_taught,
        classes=data.classes,
        num_train=len(data.train.labels),
        num_left_out=tests.num_left_out,
        num_views=settings.test.num_clips * settings.test.num_crops,
        num_parameters=count_parameters(module.network),
        num_trained=count_trained(module),
        splits=tests.results(intervals),
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
        write_predictions(runs.folder, tests.predictions())
    return runs.finish(result)
