"""The test of a classifier, seed after seed: its scores of test videos, accuracies with intervals, files of both."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from featcache.backbones.classifier_file import NAME as CLASSIFIER
from featcache.backbones.classifier_file import ClassifierFacts
from featcache.backbones.weights import write_weights
from featcache.data.selection import GROUP
from featcache.errors import VideoError
from featcache.loaders.labelled import LabelledSource, LabelledVideos
from featcache.methods.finetune.module import VideoClassifier
from featcache.methods.finetune.sampling import clip_source, scoring_recipe
from featcache.methods.finetune.scoring import Scores, video_scores
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.metrics.intervals import accuracies, rank_of_truth
from featcache.metrics.predictions import Predictions
from featcache.metrics.result import Coverage, SplitResult
from featcache.metrics.settings import IntervalSettings
from featcache.metrics.splits import group_numbers
from featcache.stages import OnStage, ignore
from featcache.training.settings import TrainingSettings
from featcache.training.world import ALONE, World

log = logging.getLogger(__name__)


class ScoredVideos:
    """The test videos of a source with the scores that the seeds of a classifier give them.

    Attributes:
        tests: Test videos by split; those that do not decode are left out once that has been found.
        scores: For each split, the scores float64 [videos, classes that were trained] of each seed.
    """

    def __init__(self, settings: FinetuneSettings, data: LabelledSource, *, workers: int, world: World = ALONE) -> None:
        """Take the videos.

        Args:
            settings: Views of a video, and how they are averaged.
            data: The videos.
            workers: Number of decoding processes.
            world: The processes that share the videos.
        """
        self.tests = dict(data.tests)
        self.scores: dict[str, list[Scores]] = {}
        self._settings, self._data, self._workers, self._world = settings, data, workers, world

    def score(self, module: VideoClassifier, *, on_stage: OnStage = ignore) -> None:
        """Score all videos with the classifier of one more seed; collective.

        Args:
            module: The classifier.
            on_stage: Called with the stage ``test``.

        Raises:
            VideoError: A video is missing or has changed, or none can be decoded.
        """
        training = self._settings.training
        for split, videos in self.tests.items():
            numbers, found = video_scores(
                module,
                clip_source(self._settings, module, seed=None),
                videos.files,
                workers=self._workers,
                clips_at_once=clips_at_once(training, self._world),
                average=self._settings.test.average,
                precision=training.precision,
                world=self._world,
                on_stage=on_stage,
            )
            self.scores.setdefault(split, []).append(found)
            if not numbers:
                raise VideoError(
                    "undecodable",
                    f"none of {len(videos.labels)} test videos can be decoded; `featcache scan --decode` says why",
                )
            if num_damaged := len(videos.labels) - len(numbers):
                if self._world.is_first:
                    log.warning("%d videos of split %r cannot be decoded and are not scored", num_damaged, split)
                self.tests[split] = videos.decodable(numbers)

    @property
    def num_left_out(self) -> int:
        """Number of training and test videos that cannot be used."""
        return sum(part.num_failed for part in (self._data.train, *self.tests.values()))

    def results(self, intervals: IntervalSettings) -> dict[str, SplitResult]:
        """Accuracies by split, over videos and seeds."""
        return {
            split: _measured(np.stack(each), self.tests[split], self._data, intervals)
            for split, each in self.scores.items()
        }

    def predictions(self) -> Predictions:
        """The scores of every video, split by split."""
        settings = self._settings
        return predictions_of(self.scores, self.tests, self._data, label=settings.label, seeds=settings.training.seeds)


def predictions_of(
    scores: Mapping[str, Sequence[Scores]],
    tests: Mapping[str, LabelledVideos],
    data: LabelledSource,
    *,
    label: str,
    seeds: tuple[int, ...],
) -> Predictions:
    """Scores as predictions of videos, split by split.

    Args:
        scores: For each split, float64 [M, trained classes] of each seed.
        tests: The M videos of each split.
        data: The classes.
        label: Label column of the classes.
        seeds: The seeds.
    """
    tested = [(split, video) for split in scores for video in tests[split].files.videos]
    groups = [video.labels.get(GROUP) for _, video in tested]
    return Predictions(
        videos=tuple(video.id for _, video in tested),
        splits=tuple(split for split, _ in tested),
        groups=group_numbers(groups) if any(group is not None for group in groups) else None,
        label=label,
        labels=tuple(data.classes[place] for split in scores for place in tests[split].labels),
        classes=data.classes,
        seeds=seeds,
        scores=np.concatenate([_all_classes(np.stack(each), data) for each in scores.values()], axis=1),
    )


def clips_at_once(training: TrainingSettings, world: World) -> int:
    """Number of test clips per forward pass: as many as training clips."""
    return training.batch_size // world.size


def write_classifier(
    folder: Path, module: VideoClassifier, settings: FinetuneSettings, data: LabelledSource, *, seed: int, world: World
) -> str:
    """Write network and head with all that is needed to classify, in the first process; returns the path.

    Args:
        folder: Folder of the seed.
        module: The classifier.
        settings: What it was trained with, and the views by which it is tested.
        data: The videos.
        seed: The seed.
        world: The processes that share the run.
    """
    path = folder / CLASSIFIER
    facts = ClassifierFacts(
        backbone=settings.backbone,
        classes=data.classes[: data.num_taught],
        feature=module.recipe,
        views=scoring_recipe(settings, num_frames=module.num_frames),
        average=settings.test.average,
        precision=settings.training.precision,
        clips_at_once=clips_at_once(settings.training, world),
        label=settings.label,
        seed=seed,
    )
    if world.is_first:
        write_weights(path, module, facts=facts.metadata())
    return str(path)


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
