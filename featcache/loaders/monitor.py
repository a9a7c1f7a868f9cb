"""Accuracy of nearest neighbours among features of a few labelled videos, while a method trains without labels.

Nothing of it reaches the training: the network is in evaluation mode and without gradients for as long as it takes, and
nothing is drawn from torch's generators.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn import functional

from featcache.data.decoding.clips import CropSize
from featcache.data.manifest import Manifest
from featcache.data.selection import GROUP, TrainingVideosSettings
from featcache.data.subsets import group_split, nested_subset
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError, unknown_name
from featcache.loaders.passes import rows_of_videos, through
from featcache.loaders.recipe_rows import RecipeSource
from featcache.loaders.settings import MonitorSettings
from featcache.loaders.videos import VideoFiles, find_files
from featcache.loaders.views import ClipShape
from featcache.metrics.intervals import rank_of_truth
from featcache.metrics.neighbours import search_torch, vote
from featcache.metrics.settings import NUM_NEIGHBOURS, TEMPERATURE
from featcache.recipes import SamplingRecipe
from featcache.training.seeds import SeedRuns

NAME = "knn_top1"
"""Name of the accuracy in the log."""
CLIPS_AT_ONCE = 16
SEED = 0
"""The videos are the same for every seed of a run, so that the accuracies can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MonitoredVideos:
    """A few labelled videos of a source, in two parts without a common one.

    Attributes:
        files: Their files, those that vote first.
        labels: int64 [M], class of each.
        num_voting: How many vote; the others are classified.
        num_classes: Number of classes of all of them.
    """

    files: VideoFiles
    labels: npt.NDArray[np.int64]
    num_voting: int
    num_classes: int


def draw_monitored(
    manifest: Manifest, settings: TrainingVideosSettings, monitor: MonitorSettings
) -> MonitoredVideos | None:
    """Draw the videos of a monitor, balanced over classes; ``None`` if it is off.

    Args:
        manifest: All scanned videos of the source.
        settings: The split to train on, and the decoder.
        monitor: How many videos, and which.

    Raises:
        ManifestError: Videos have no labels, or there are none on one side.
        UnknownNameError: There is no such label column or split.
    """
    if not monitor.knn_epochs:
        return None
    where = settings.source or settings.dataset
    columns = {column for video in manifest.videos for column in video.labels}
    if not columns:
        raise ManifestError(
            f"monitor.knn_epochs is {monitor.knn_epochs} and no video of {where} has a label; set it to 0, or list the "
            "videos with a column `label`"
        )
    if monitor.label not in columns:
        raise unknown_name("label column", monitor.label, columns)
    usable = [video for video in manifest.videos if video.status == "ok" and monitor.label in video.labels]
    sides = [_drawn(side, monitor) for side in _sides(usable, manifest, settings, monitor)]
    for side, videos in zip(("vote", "are classified"), sides, strict=True):
        if not videos:
            raise ManifestError(
                f"monitor.knn_epochs is {monitor.knn_epochs} and no usable videos of {where} with a label in column "
                f"{monitor.label!r} are left that {side}; set monitor.knn_epochs=0, or name another monitor.split"
            )
    videos = [*sides[0], *sides[1]]
    classes = sorted({video.labels[monitor.label] for video in videos})
    return MonitoredVideos(
        files=find_files(videos, [Path(manifest.root)], decoder=settings.decoder, hint="scan the videos again"),
        labels=np.array([classes.index(video.labels[monitor.label]) for video in videos], np.int64),
        num_voting=len(sides[0]),
        num_classes=len(classes),
    )


def _sides(
    videos: Sequence[VideoRecord], manifest: Manifest, settings: TrainingVideosSettings, monitor: MonitorSettings
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Videos that may vote, and videos that may be classified."""
    splits = {video.split for video in manifest.videos} - {""}
    if monitor.split is not None and monitor.split not in splits - {settings.train_split}:
        raise unknown_name("split", monitor.split, splits - {settings.train_split})
    train = [video for video in videos if not splits or video.split == settings.train_split]
    others = [video for video in videos if video.split in splits - {settings.train_split}]
    if monitor.split is not None or others:
        return train, [video for video in others if monitor.split in (None, video.split)]
    groups = [video.labels.get(GROUP, video.id) for video in train]
    if len(set(groups)) < 2:
        return train, []
    voting, classified = group_split(groups, test_fraction=0.5, seed=SEED)
    return [train[number] for number in voting.tolist()], [train[number] for number in classified.tolist()]


def _drawn(videos: Sequence[VideoRecord], monitor: MonitorSettings) -> list[VideoRecord]:
    labels = [video.labels[monitor.label] for video in videos]
    chosen = nested_subset(labels, num_items=min(monitor.videos, len(labels)), seed=SEED)
    return [videos[number] for number in chosen.tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnMonitor:
    """Measures the accuracy of nearest neighbours at the end of some epochs; collective.

    Attributes:
        videos: The videos.
        settings: At which epochs.
        runs: The run whose device, precision, processes and progress it shares.
        module: Module that encodes; it is in evaluation mode meanwhile.
        encode: From clips uint8 [N, T, 3, S, S] on the device to features [N, C].
        shape: Shape of the clips: one per video, spread over all of it, the square in the middle.
        width: Number of channels C of a feature.
        workers: Number of decoding processes; 0: this process.
    """

    videos: MonitoredVideos
    settings: MonitorSettings
    runs: SeedRuns
    module: nn.Module
    encode: Callable[[Tensor], Tensor]
    shape: ClipShape
    width: int
    workers: int

    def __call__(self, epoch: int) -> Mapping[str, float]:
        """The accuracy after so many epochs; empty if it is not due.

        Raises:
            ManifestError: No video of one part can be decoded.
            VideoError: A video is missing or has changed since it was scanned.
        """
        if epoch % self.settings.knn_epochs and epoch != self.runs.training.epochs:
            return {}
        numbers, features = self._features()
        kept = np.array(numbers, np.int64)
        num_voting = int((kept < self.videos.num_voting).sum())
        if not 0 < num_voting < len(kept):
            raise ManifestError(
                "no monitored video of one part can be decoded; `featcache scan --decode` says why, or set "
                "monitor.knn_epochs=0"
            )
        unit = functional.normalize(features, dim=1).float().numpy()
        bank, queries = unit[:num_voting], unit[num_voting:]
        labels = self.videos.labels[kept]
        own = np.arange(len(kept))
        similarities, neighbours = search_torch(
            bank, own[:num_voting], queries, own[num_voting:], NUM_NEIGHBOURS, "cpu"
        )
        shares = vote(similarities, neighbours, labels[:num_voting], self.videos.num_classes, temperature=TEMPERATURE)
        ranks = rank_of_truth(np.where(shares > 0, shares, -np.inf), labels[num_voting:])
        return {NAME: float((ranks == 0).mean())}

    def _features(self) -> tuple[list[int], Tensor]:
        """Numbers of the videos that can be decoded, and their features float64 [M, C]."""
        recipe = SamplingRecipe(
            temporal="spread",
            num_clips=1,
            num_frames=self.shape.num_frames,
            frame_stride=1,
            spatial="views",
            num_crops=1,
        )
        crop = CropSize(size=self.shape.size, interpolation=self.shape.interpolation)
        device, precision = self.runs.device, self.runs.training.precision

        def compute(views: Tensor) -> Tensor:
            return through(self.encode, views, clips_at_once=CLIPS_AT_ONCE, device=device, precision=precision).cpu()

        with evaluating(self.module):
            return rows_of_videos(
                compute,
                RecipeSource(recipe, crop=crop, seed=SEED),
                self.videos.files,
                width=self.width,
                workers=self.workers,
                world=self.runs.world,
                on_progress=lambda done, total: self.runs.on_stage("knn", done, total),
            )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a ``with`` block; afterwards every part is in the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
