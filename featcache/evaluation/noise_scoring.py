"""Scores of classifiers on test videos with and without noise, all from one decoding pass per video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featcache.data.decoding.clips import CropSize
from featcache.errors import VideoError
from featcache.evaluation.parts import Parts
from featcache.loaders.labelled import LabelledSource
from featcache.loaders.passes import rows_of_videos, through
from featcache.loaders.recipe_rows import RecipeSource
from featcache.loaders.videos import VideoFiles
from featcache.methods.finetune.classifying import ReadyClassifier
from featcache.methods.finetune.finished import FinishedRun
from featcache.methods.finetune.scoring import Scores
from featcache.noise import NoiseRecipe
from featcache.recipes import SamplingRecipe
from featcache.stages import OnStage, ignore
from featcache.training.identity import digest
from featcache.training.world import ALONE, World

BLOCK = 256
"""Number of videos after which scores are kept, so that a killed evaluation goes on there."""
_MEMORY = 4 << 30  # for the views that processes decode ahead
_VIDEOS_HELD = 4  # per process: two ahead, one in work, one in the batch

Noise = NoiseRecipe | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A run whose classifiers are scored.

    Attributes:
        name: Its name among the results.
        run: The run.
        data: Its videos.
        classifiers: The classifier of each seed, all with the same views.
    """

    name: str
    run: FinishedRun
    data: LabelledSource
    classifiers: dict[int, ReadyClassifier]

    @property
    def first(self) -> ReadyClassifier:
        """The classifier of the first seed."""
        return next(iter(self.classifiers.values()))

    @property
    def clips(self) -> tuple[SamplingRecipe, CropSize, str]:
        """What is decoded: views, size, and the videos by content. Subjects of equal clips share a pass."""
        videos = {split: videos.files.content for split, videos in self.data.tests.items()}
        return self.first.views, self.first.crop, digest(videos)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredSplit:
    """Scores of the videos of a split that can be decoded.

    Attributes:
        numbers: Numbers of these M videos.
        scores: For each subject, float64 [S, noises, M, classes].
    """

    numbers: list[int]
    scores: tuple[Scores, ...]


def score_noisy(
    subjects: Sequence[Subject],
    split: str,
    noises: Sequence[Noise],
    *,
    workers: int,
    parts: Parts,
    world: World = ALONE,
    on_stage: OnStage = ignore,
) -> ScoredSplit:
    """Score the videos of a split with every noise, each decoded once for all noises and subjects. Collective.

    Args:
        subjects: Runs of equal :attr:`Subject.clips`.
        split: A test split of all of them.
        noises: The noises, ``None`` for none.
        workers: Largest number of decoding processes; 0: this process.
        parts: Where the scores of finished blocks of videos are kept.
        world: The processes that share the videos.
        on_stage: Called with the stage ``noise``, videos done and in total, those of the first process.

    Raises:
        VideoError: No video can be decoded, or one is missing or has changed since it was scanned.
    """
    files = subjects[0].data.tests[split].files
    first = subjects[0].first
    source = RecipeSource(first.views, crop=first.crop, seed=0, noises=noises)
    workers = min(workers, max(1, _MEMORY // (_VIDEOS_HELD * source.video_bytes)))
    classifiers = [each for subject in subjects for each in subject.classifiers.values()]
    widths = [len(noises) * len(each.classes) for each in classifiers]
    total = len(files.videos)
    if world.is_first:
        on_stage("noise", 0, total)
    numbers: list[int] = []
    rows = []
    for begin in range(0, total, BLOCK):
        block = range(begin, min(begin + BLOCK, total))
        name = f"{split}-{begin}"
        kept = world.from_first(lambda name=name: parts.read(name))  # type: ignore[misc]
        if kept is None:
            found, scored = _block(
                source,
                files.take(block),
                classifiers,
                width=sum(widths),
                workers=workers,
                world=world,
                on_progress=lambda done, begin=begin: on_stage("noise", min(begin + done, total), total),  # type: ignore[misc]
            )
            if world.is_first:
                tensors = {"numbers": torch.tensor(found, dtype=torch.int64), "rows": scored}
                parts.write(name, step=len(found), tensors=tensors, facts={})
        else:
            found, scored = kept.tensors["numbers"].tolist(), kept.tensors["rows"]
        numbers += [begin + number for number in found]
        rows.append(scored)
        if world.is_first:
            on_stage("noise", block.stop, total)
    if not numbers:
        raise VideoError(
            "undecodable", f"none of {total} test videos can be decoded; `featcache scan --decode` says why"
        )
    columns = torch.split(torch.cat(rows), widths, dim=1)
    scores = [
        torch.unflatten(each, 1, (len(noises), len(classifier.classes))).transpose(0, 1).numpy()
        for each, classifier in zip(columns, classifiers, strict=True)
    ]
    ends = np.cumsum([len(subject.classifiers) for subject in subjects])
    return ScoredSplit(
        numbers=numbers,
        scores=tuple(
            np.stack(scores[end - len(subject.classifiers) : end])
            for subject, end in zip(subjects, ends.tolist(), strict=True)
        ),
    )


def _block(
    source: RecipeSource,
    files: VideoFiles,
    classifiers: Sequence[ReadyClassifier],
    *,
    width: int,
    workers: int,
    world: World,
    on_progress: Callable[[int], None],
) -> tuple[list[int], Tensor]:
    """Numbers of the videos of a block that can be decoded, and their scores float64 [M, width]."""
    num_noises = source.num_noises

    def scored(views: Tensor) -> Tensor:
        """Averages over views [B, noises * V, T, 3, S, S] for each classifier and noise, [B, width]."""
        found = []
        for each in classifiers:
            device = next(each.module.parameters()).device
            logits = through(
                each.module, views, clips_at_once=each.clips_at_once, device=device, precision=each.precision
            )
            values = logits.softmax(dim=1) if each.average == "softmax" else logits
            by_noise = torch.unflatten(values, 0, (len(views), num_noises, -1)).mean(dim=2)
            found.append(by_noise.flatten(1).cpu())
        return torch.cat(found, dim=1)

    return rows_of_videos(
        scored,
        source,
        files,
        width=width,
        workers=workers,
        world=world,
        on_progress=lambda done, _: on_progress(done * world.size),
    )
