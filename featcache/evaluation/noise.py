"""Accuracy of fine-tuned models under noise: what is left of it by kind and severity."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from featcache.config import to_yaml
from featcache.errors import RecipeMismatchError
from featcache.evaluation.noise_result import NoiseResult, NoisyCell, NoisyMean, NoisyRun, NoisySplit
from featcache.evaluation.noise_scoring import Noise, Subject, score_noisy
from featcache.evaluation.noise_settings import NoiseEvaluationSettings
from featcache.evaluation.parts import NAME as PARTS
from featcache.evaluation.parts import Parts
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json, read_sealed, seal
from featcache.methods.finetune.finished import FinishedRun
from featcache.methods.finetune.testing import predictions_of
from featcache.metrics.intervals import Metric, accuracies, mean_error
from featcache.metrics.predictions import NAME as PREDICTIONS
from featcache.metrics.predictions import Outcomes, read_outcomes, write_predictions
from featcache.metrics.result import Coverage
from featcache.metrics.robustness import robustness
from featcache.noise import NoiseRecipe
from featcache.recipes import to_dict
from featcache.stages import OnStage, ignore
from featcache.training.identity import Identity, digest
from featcache.training.runs import cores_of, prepare_torch, run_folder
from featcache.training.world import World, join_world

log = logging.getLogger(__name__)

CLEAN = "clean"
PICTURE = "accuracy.png"
_IDENTITY = "identity.json"


def cell_name(noise: Noise) -> str:
    """Name of a kind and severity among the results, ``clean`` without noise."""
    return CLEAN if noise is None else f"{noise.kind}-{noise.severity}"


def score_under_noise(settings: NoiseEvaluationSettings, *, on_stage: OnStage = ignore) -> NoiseResult:
    """Score finished fine-tuned runs on their test videos, clean and with every kind of noise at every severity.

    Each video is decoded once for all of them, and for all runs whose test clips are the same. Predictions of each cell
    are written to ``<folder>/<run>/<cell>``; cells that are there are kept, and a killed evaluation goes on after the
    last :data:`featcache.evaluation.noise_scoring.BLOCK` of videos. Processes started by torchrun share the videos.

    Args:
        settings: Runs and noise.
        on_stage: Called with the stages ``scan`` and ``noise``, videos done and in total.

    Raises:
        ConfigError: A run is unfinished, its videos have other classes now, or there is no such device.
        ManifestError: Videos of a run are gone.
        RecipeMismatchError: The folder holds results of other models, videos, views or noise.
        VideoError: No video of a split can be decoded, or one is missing or has changed since it was scanned.
        WeightsError: A classifier is damaged.
    """
    with join_world() as world:
        return _score(settings, world, on_stage=on_stage)


def _score(settings: NoiseEvaluationSettings, world: World, *, on_stage: OnStage) -> NoiseResult:
    started = time.monotonic()
    runs = named_runs(settings.runs)
    training = next(iter(runs.values())).settings.training
    device = prepare_torch(training.model_copy(update={"device": settings.device}), world=world)
    subjects = [
        subject_of(name, run, settings, device=device, world=world, on_stage=on_stage) for name, run in runs.items()
    ]
    of = subjects[0].run.settings.videos_name
    folder = run_folder(settings, out=settings.out, store=of, name="noise")
    world.from_first(lambda: _claim(folder, subjects, settings))
    noises: tuple[Noise, ...] = (None, *settings.recipes)
    missing = world.from_first(lambda: {each.name: _missing(folder / each.name, noises) for each in subjects})
    workers = cores_of(world) if settings.workers is None else settings.workers
    for members in sharing([subject for subject in subjects if missing[subject.name]]):
        needed = [noise for noise in noises if any(noise in missing[each.name] for each in members)]
        _fill(folder, members, needed, missing, workers=workers, world=world, on_stage=on_stage)
    result = NoiseResult(
        folder=str(folder),
        place=settings.place,
        table=settings.table,
        runs={each.name: _measured(folder / each.name, each, settings) for each in subjects},
        picture=str(folder / PICTURE),
        seconds=time.monotonic() - started,
    )
    if world.is_first:
        put_replace(folder / "config.yaml", to_yaml(settings).encode())
        put_replace(folder / "result.json", canonical_json(result.to_dict()))
    return result


def named_runs(given: Sequence[str]) -> dict[str, FinishedRun]:
    """Finished runs by the names of their folders, which are numbered where they repeat."""
    runs: dict[str, FinishedRun] = {}
    for each in given:
        run = FinishedRun.find(each)
        own = run.folder.resolve().name
        place = sum(known == own or known.startswith(f"{own}.") for known in runs) + 1
        runs[own if place == 1 else f"{own}.{place}"] = run
    return runs


def subject_of(
    name: str,
    run: FinishedRun,
    settings: NoiseEvaluationSettings,
    *,
    device: torch.device,
    world: World,
    on_stage: OnStage,
) -> Subject:
    """A run with its videos and classifiers."""
    classifiers = run.classifiers(device=device, num_clips=settings.num_clips, num_crops=settings.num_crops)
    first = next(iter(classifiers.values()))
    data = run.data(first.classes, world=world, on_stage=on_stage)
    return Subject(name=name, run=run, data=data, classifiers=classifiers)


def sharing(subjects: Sequence[Subject]) -> list[list[Subject]]:
    """The subjects grouped by what is decoded for them."""
    groups: dict[object, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(subject.clips, []).append(subject)
    return list(groups.values())


def _identity(subject: Subject, settings: NoiseEvaluationSettings) -> Identity:
    """What the scores of a cell depend on, besides kind and severity."""
    views, crop, videos = subject.clips
    models = {f"model of seed {seed}": each.weights_hash for seed, each in subject.classifiers.items()}
    return Identity(
        values={
            "place": settings.place,
            "table": settings.table,
            "seed": settings.seed,
            "views": to_dict(views),
            "crop": [crop.size, crop.interpolation],
            "average": subject.first.average,
            "content of videos": videos,
            **models,
        }
    )


def _claim(folder: Path, subjects: Sequence[Subject], settings: NoiseEvaluationSettings) -> None:
    """Note in a new folder what its scores belong to, and refuse one of others."""
    for subject in subjects:
        mine = _identity(subject, settings)
        path = folder / subject.name / _IDENTITY
        if not path.exists():
            put_replace(path, seal({"values": dict(mine.values)}))
        elif difference := mine.difference(read_sealed(path, what="identity")["values"]):
            raise RecipeMismatchError(
                f"{path.parent} holds scores {difference}; choose another --out, or delete it to start anew"
            )


def _missing(folder: Path, noises: Sequence[Noise]) -> list[Noise]:
    return [noise for noise in noises if not (folder / cell_name(noise) / PREDICTIONS).exists()]


def _fill(
    folder: Path,
    members: Sequence[Subject],
    noises: Sequence[Noise],
    missing: Mapping[str, Sequence[Noise]],
    *,
    workers: int,
    world: World,
    on_stage: OnStage,
) -> None:
    """Score the missing cells of subjects that share a pass, and write their predictions."""
    values = {
        "noises": [cell_name(noise) for noise in noises],
        **{subject.name: read_sealed(folder / subject.name / _IDENTITY, what="identity") for subject in members},
    }
    parts = Parts(folder=folder / f"{PARTS}-{digest(values)[:12]}", identity=Identity(values=values))
    found = {
        split: score_noisy(members, split, noises, workers=workers, parts=parts, world=world, on_stage=on_stage)
        for split in members[0].data.tests
    }
    if world.is_first:
        for split, videos in members[0].data.tests.items():
            if num_damaged := len(videos.labels) - len(found[split].numbers):
                log.warning("%d videos of split %r cannot be decoded and are not scored", num_damaged, split)
        for place, subject in enumerate(members):
            tests = {split: videos.decodable(found[split].numbers) for split, videos in subject.data.tests.items()}
            for number, noise in enumerate(noises):
                if noise in missing[subject.name]:
                    scores = {split: each.scores[place][:, number] for split, each in found.items()}
                    predictions = predictions_of(
                        {split: list(each) for split, each in scores.items()},
                        tests,
                        subject.data,
                        label=subject.run.settings.label,
                        seeds=tuple(subject.classifiers),
                    )
                    write_predictions(folder / subject.name / cell_name(noise), predictions)
        parts.remove()
    world.barrier()


def _measured(folder: Path, subject: Subject, settings: NoiseEvaluationSettings) -> NoisyRun:
    """Results of a run from the predictions of its cells."""
    clean = read_outcomes(folder / CLEAN)
    noisy = {noise: read_outcomes(folder / cell_name(noise)) for noise in settings.recipes}
    return NoisyRun(
        run=str(subject.run.folder),
        backbone=subject.run.settings.backbone,
        seeds=tuple(subject.classifiers),
        splits={split: _measured_split(split, subject, clean, noisy, settings) for split in subject.data.tests},
    )


def _measured_split(
    split: str,
    subject: Subject,
    clean: Outcomes,
    noisy: Mapping[NoiseRecipe, Outcomes],
    settings: NoiseEvaluationSettings,
) -> NoisySplit:
    mine = np.array([key[0] == split for key in clean.keys])
    groups = None if clean.groups is None else clean.groups[mine]
    labels = np.unique(clean.labels, return_inverse=True)[1][mine]
    right = clean.values[:, mine]
    intervals = settings.intervals

    def metrics(outcomes: Outcomes) -> Mapping[str, Metric]:
        ranks = outcomes.ranks[:, mine].astype(np.int64)
        return accuracies(ranks, labels, num_classes=len(subject.first.classes), intervals=intervals, groups=groups)

    def mean(chosen: Sequence[Outcomes]) -> NoisyMean:
        values = np.mean([each.values[:, mine] for each in chosen], axis=0)
        return NoisyMean(
            top1=mean_error(values, intervals=intervals, groups=groups),
            robustness=robustness(right, values, intervals=intervals, groups=groups),
        )

    cells = {
        cell_name(noise): NoisyCell(
            kind=noise.kind,
            severity=noise.severity,
            amount=noise.amount,
            metrics=metrics(outcomes),
            robustness=robustness(right, outcomes.values[:, mine], intervals=intervals, groups=groups),
        )
        for noise, outcomes in noisy.items()
    }
    videos = subject.data.tests[split]
    ok, num_scored = len(videos.labels) + videos.num_unlabelled, int(mine.sum())
    num_damaged = len(videos.labels) - num_scored
    return NoisySplit(
        clean=metrics(clean),
        noisy=cells,
        by_severity={
            str(severity): mean([each for noise, each in noisy.items() if noise.severity == severity])
            for severity in settings.severity
        },
        mean=mean(list(noisy.values())),
        coverage=Coverage(
            ok=ok - num_damaged,
            failed=videos.num_failed + num_damaged,
            total=ok + videos.num_failed,
            unlabelled=videos.num_unlabelled,
        ),
        num_videos=num_scored,
        num_groups=None if groups is None else len(np.unique(groups)),
    )
