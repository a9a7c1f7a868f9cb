"""Trains students on labels and on teachers, and reports the accuracy of each over the views of test videos."""

import time
from collections.abc import Mapping
from pathlib import Path

import torch

from featcache.backbones.trainable import check_names, has_unused
from featcache.backbones.weights import write_weights
from featcache.config import to_yaml
from featcache.data.decoding.clips import CropSize
from featcache.errors import ConfigError
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.labelled import LabelledSource, read_data
from featcache.loaders.recipe_rows import RecipeSource
from featcache.loaders.stand_ins import StandIns
from featcache.loaders.usable import extraction_of
from featcache.methods.distill.module import Students, crop_of
from featcache.methods.distill.objective import DistillObjective
from featcache.methods.distill.result import DistillResult
from featcache.methods.distill.settings import DistillSettings
from featcache.methods.distill.teachers import Teachers, check_permuted, read_teachers
from featcache.methods.finetune.module import VideoClassifier, build_classifier
from featcache.methods.finetune.result import FinetuneResult
from featcache.methods.finetune.run import WEIGHTS
from featcache.methods.finetune.sampling import train_recipe
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.methods.finetune.testing import ScoredVideos, write_classifier
from featcache.metrics.predictions import write_predictions
from featcache.metrics.settings import IntervalSettings
from featcache.networks.counting import count_parameters, count_trained
from featcache.stages import OnStage, ignore
from featcache.training.identity import digest
from featcache.training.runs import cores_of, seed_folder
from featcache.training.seeds import SeedRuns, open_runs
from featcache.training.shared_norm import share_batch_norms
from featcache.training.world import World, join_world


def distill(
    settings: DistillSettings, *, intervals: IntervalSettings | None = None, on_stage: OnStage = ignore
) -> DistillResult:
    """Train all students with every seed, and score the test videos with each.

    Students share the decoded clips and the teachers' logits, and nothing else: each ends as it would alone. Its folder
    in the run holds what the folder of a fine-tuning holds: ``seed-N/classifier.safetensors``,
    ``seed-N/backbone.safetensors``, ``predictions.parquet``, ``result.json``, and in ``config.yaml`` the settings of
    the fine-tuning that it would be without teachers. Unfinished runs are resumed, finished ones are scored again.

    Processes started by torchrun share each batch and the test videos, as in fine-tuning.

    Args:
        settings: Settings of the run.
        intervals: Settings of the intervals.
        on_stage: Called with the stage ``scan``, with ``seed N`` after each step, and with ``test``.

    Raises:
        ConfigError: A teacher has other classes or lacks videos, students take clips of different lengths, a backbone
            cannot take such clips, or there are fewer videos than the batch size.
        DivergedError: The loss is not finite; the last checkpoint is kept.
        ManifestError: There are no splits, no labels, only one class, or no videos to train on or to score.
        StoppedError: Another process has raised an error.
        UnknownNameError: There is no such backbone, feature, split or label column.
        VideoError: A video is missing or has changed since it was scanned, or too many cannot be decoded.
        WeightsError: Weights cannot be found, or belong to another network.
    """
    with join_world() as world:
        return _distill(settings, world, intervals=intervals or IntervalSettings(), on_stage=on_stage)


def build_students(
    tunings: Mapping[str, FinetuneSettings], *, num_classes: int, seed: int, device: torch.device
) -> list[VideoClassifier]:
    """The students of a seed, each as fine-tuning would begin with it.

    Args:
        tunings: Settings of each student by its name.
        num_classes: Number of classes.
        seed: The seed.
        device: Device of the students.

    Raises:
        ConfigError: They take clips of different lengths, or a backbone cannot take such clips.
        UnknownNameError: There is no such backbone.
        WeightsError: Weights cannot be found, or belong to another network.
    """
    students = [build_classifier(each, num_classes=num_classes, seed=seed, device=device) for each in tunings.values()]
    lengths = {name: each.num_frames for name, each in zip(tunings, students, strict=True)}
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{name} {num}" for name, num in lengths.items())
        raise ConfigError(f"students share clips, and take different numbers of frames ({named}); set clips.num_frames")
    return students


def sizes_of(students: list[VideoClassifier], teachers: Teachers | None) -> tuple[CropSize, ...]:
    """The sizes of the pixels that students and teachers see, once each."""
    return tuple(dict.fromkeys([*map(crop_of, students), *(() if teachers is None else teachers.sizes)]))


def _distill(
    settings: DistillSettings, world: World, *, intervals: IntervalSettings, on_stage: OnStage
) -> DistillResult:
    started = time.monotonic()
    training = settings.training
    runs = open_runs(
        settings,
        training,
        name="distill",
        of=settings.videos_name,
        out=settings.out,
        world=world,
        on_stage=on_stage,
    )
    tunings = {
        each.folder: settings.as_finetuning(each, out=str(runs.folder / each.folder)) for each in settings.students
    }
    for tuning in tunings.values():
        check_names(tuning.backbone, tuning.weights)
    if settings.permute_teachers:
        check_permuted(settings.teachers, clips_at_once=training.batch_size // world.size)
    data = read_data(settings, folder=runs.folder, world=world, on_stage=on_stage)
    workers = cores_of(world) if settings.workers is None else settings.workers
    tests = {name: ScoredVideos(tuning, data, workers=workers, world=world) for name, tuning in tunings.items()}
    teachers: Teachers | None = None
    written: dict[str, dict[int, tuple[str, str]]] = {name: {} for name in tunings}
    for seed in training.seeds:
        students = build_students(tunings, num_classes=data.num_taught, seed=seed, device=runs.device)
        if teachers is None and settings.kd_weight:
            teachers = _teachers(settings, data, num_frames=students[0].num_frames, device=runs.device)
        _train(settings, runs, data, students, teachers, seed=seed, workers=workers)
        for (name, tuning), student in zip(tunings.items(), students, strict=True):
            folder = seed_folder(Path(str(tuning.out)), seed)
            if world.is_first:
                about = {"backbone": tuning.backbone, "method": "distill", "seed": seed}
                write_weights(folder / WEIGHTS, student.network, facts=about)
            whole = write_classifier(folder, student, tuning, data, seed=seed, world=world)
            written[name][seed] = (str(folder / WEIGHTS), whole)
            tests[name].score(student, on_stage=on_stage)
    results = {}
    for (name, tuning), student in zip(tunings.items(), students, strict=True):
        results[name] = _result(tuning, runs, data, student, tests[name], written[name], intervals=intervals)
        if world.is_first:
            _write(results[name], tuning, tests[name])
            if len(tunings) == 1:  # the run reads as a fine-tuned one where it is compared
                write_predictions(runs.folder, tests[name].predictions())
    seconds = time.monotonic() - started
    return runs.finish(
        DistillResult(
            folder=str(runs.folder),
            teachers=settings.teachers,
            mode=settings.mode,
            temperature=settings.temperature,
            kd_weight=settings.kd_weight,
            permute_teachers=settings.permute_teachers,
            students=results,
            seconds=seconds,
        )
    )


def _teachers(settings: DistillSettings, data: LabelledSource, *, num_frames: int, device: torch.device) -> Teachers:
    """The teachers of the training videos."""
    return read_teachers(
        settings.teachers,
        classes=data.classes[: data.num_taught],
        videos=data.train.files.videos,
        num_frames=num_frames,
        prompt=settings.prompt,
        device=device,
    )


def _train(
    settings: DistillSettings,
    runs: SeedRuns,
    data: LabelledSource,
    students: list[VideoClassifier],
    teachers: Teachers | None,
    *,
    seed: int,
    workers: int,
) -> None:
    """Train the students of a seed in place."""
    files, world = data.train.files, runs.world
    for student in students:
        share_batch_norms(student, world)
    own = [[each.recipe.backbone, each.recipe.weights_hash, each.recipe.input_size] for each in students]
    said = "" if teachers is None else teachers.content
    identity = runs.identity(seed, {"videos": data.content, "students": digest(own), "teachers": said})
    if teachers is not None and settings.permute_teachers:
        teachers = teachers.permuted(seed)
    sizes = sizes_of(students, teachers)
    first = settings.as_finetuning(settings.students[0])
    recipe = train_recipe(first, num_frames=students[0].num_frames)
    source = RecipeSource(recipe, crop=sizes[0], seed=seed, beside=sizes[1:])
    stand_ins = StandIns(files, seed=seed, skips=runs.skips(seed, files.videos, settings.max_damaged))
    with ViewLoader(source, files, workers=workers, stand_ins=stand_ins) as loader:
        runs.train(
            DistillObjective(
                loader,
                data.train.labels,
                students=Students(students),
                teachers=teachers,
                sizes=sizes,
                settings=settings,
                seed=seed,
                world=world,
            ),
            seed=seed,
            has_unused=world.size > 1 and any(has_unused(student) for student in students),
            identity=identity,
            facts={"method": "distill", "classes": data.classes[: data.num_taught]},
        )


def _result(
    tuning: FinetuneSettings,
    runs: SeedRuns,
    data: LabelledSource,
    student: VideoClassifier,
    tests: ScoredVideos,
    written: Mapping[int, tuple[str, str]],
    *,
    intervals: IntervalSettings,
) -> FinetuneResult:
    """The result of one student over all seeds."""
    weights = {seed: network for seed, (network, _) in written.items()}
    return FinetuneResult(
        folder=str(tuning.out),
        backbone=tuning.backbone,
        label=tuning.label,
        num_classes=data.num_taught,
        classes=data.classes,
        num_train=len(data.train.labels),
        num_left_out=tests.num_left_out,
        num_views=tuning.test.num_clips * tuning.test.num_crops,
        num_parameters=count_parameters(student.network),
        num_trained=count_trained(student),
        splits=tests.results(intervals),
        weights=weights,
        models={seed: whole for seed, (_, whole) in written.items()},
        replaced=runs.replaced,
        seeds=runs.lines,
        seconds=sum(line.get("seconds", 0.0) for line in runs.lines.values()),
        next_command=extraction_of(tuning, backbone=tuning.backbone, weights=next(iter(weights.values()))),
    )


def _write(result: FinetuneResult, tuning: FinetuneSettings, tests: ScoredVideos) -> None:
    """Write what a fine-tuning leaves beside its seeds."""
    folder = Path(result.folder)
    put_replace(folder / "config.yaml", to_yaml(tuning).encode())
    write_predictions(folder, tests.predictions())
    put_replace(folder / "result.json", canonical_json(result.to_dict()))
