"""A pretext task as batches and a loss: it reads the clips that the task draws, and passes batches to its loss."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from featcache.data.types import VideoRecord
from featcache.loaders.ahead import Pixels, ViewLoader
from featcache.loaders.batches import VideoBatches
from featcache.loaders.videos import VideoFile
from featcache.loaders.views import ClipShape, read_views
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.task import Draw, Footage, PretextTask
from featcache.seeding import rng_for
from featcache.training.objective import Loss


class DrawnViews:
    """The views that a task draws from each video; see :class:`featcache.loaders.ahead.ViewSource`.

    The arrays of a video are its views, uint8 [T, 3, S, S], then its targets in the order of their names. Every video
    must be long enough for the task.
    """

    def __init__(self, task: PretextTask, shape: ClipShape, *, seed: int) -> None:
        self._task = task
        self._shape = shape
        self._seed = seed

    def draw(self, video: VideoRecord, *, epoch: int) -> Draw:
        """Views and targets of one video in one epoch, before pixels are read."""
        footage = footage_of(video)
        return self._task.draw(footage, self._shape, rng_for(self._seed, "draw", footage.id, epoch))

    def pixels(self, file: VideoFile, epoch: int) -> Pixels:
        """Pixels of the views of one video, and its targets.

        Raises:
            VideoError: The video is missing, has changed since it was scanned, or cannot be decoded.
        """
        drawn = self.draw(file.video, epoch=epoch)
        with file.open() as reader:
            views = read_views(reader, drawn.views)
        return (*(view.numpy() for view in views), *(np.asarray(drawn.targets[name]) for name in target_names(drawn)))


def target_names(drawn: Draw) -> tuple[str, ...]:
    """Names of the targets of a video, and thereby of every video, sorted."""
    return tuple(sorted(drawn.targets))


def footage_of(video: VideoRecord) -> Footage:
    """What a manifest says about a video."""
    return Footage(
        id=video.id,
        num_frames=video.num_frames,
        height=video.height,
        width=video.width,
        duration_seconds=video.duration_seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AskedClips:
    """Clips of some videos and the targets to predict from them.

    Attributes:
        clips: One tensor per view, uint8 [B, T, 3, S, S].
        targets: Targets by name, [B, ...].
    """

    clips: tuple[Tensor, ...]
    targets: Mapping[str, Tensor]


class PretextObjective:
    """See :class:`featcache.training.objective.Objective`.

    Attributes:
        module: Backbone and heads.
        num_batches: Number of batches per epoch; an incomplete last one is left out.
        num_items: Number of videos per epoch.
    """

    def __init__(
        self,
        loader: ViewLoader,
        task: PretextTask,
        *,
        module: PretextModule,
        batch_size: int,
        num_epochs: int,
        seed: int,
    ) -> None:
        """Form batches of the videos of a loader of :class:`DrawnViews`, shared by the processes of the module.

        Raises:
            ConfigError: There are fewer videos than the batch size, or the processes cannot share it equally.
        """
        assert isinstance(loader.source, DrawnViews), f"{loader.source} draws for no task"
        self.module: nn.Module = module
        self._trained = module
        self._task = task
        self._names = target_names(loader.source.draw(loader.files.videos[0], epoch=0))
        self._batches = VideoBatches(
            loader, batch_size=batch_size, num_epochs=num_epochs, seed=seed, world=module.world
        )
        self.num_batches, self.num_items = self._batches.num_batches, self._batches.num_items

    def parts(self, epoch: int, batch: int) -> list[AskedClips]:
        """One part with the clips of this process's share of the batch.

        Raises:
            VideoError: A video cannot be used any more.
        """
        _, arrays = self._batches.views(epoch, batch)
        num_views = len(arrays) - len(self._names)
        targets = dict(zip(self._names, arrays[num_views:], strict=True))
        return [AskedClips(clips=arrays[:num_views], targets=targets)]

    def loss(self, part: AskedClips) -> Loss:
        """Loss of the task."""
        device = next(self.module.parameters()).device
        clips = tuple(clip.to(device, non_blocking=True) for clip in part.clips)
        targets = {name: each.to(device, non_blocking=True) for name, each in part.targets.items()}
        return self._task.loss(self._trained, clips, targets)

    def after_step(self, progress: float) -> None:
        """Let the key network follow, if there is one, then call :meth:`PretextTask.after_step` of the task."""
        if (follows := self._task.follows) is not None:
            self._trained.follow(follows.momentum)
        self._task.after_step(self._trained, progress)
