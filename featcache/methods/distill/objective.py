"""Distillation as batches and a loss: one decoding pass, the teachers' logits, and a loss for each student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from featcache.data.decoding.clips import CropSize
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.batches import VideoBatches
from featcache.methods.distill.losses import divergence, teacher_weights
from featcache.methods.distill.module import Students, crop_of
from featcache.methods.distill.settings import DistillSettings
from featcache.methods.distill.teachers import Teachers
from featcache.methods.finetune.module import VideoClassifier
from featcache.training.generators import repeated_draws
from featcache.training.objective import Loss, class_loss
from featcache.training.world import ALONE, World


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedClips:
    """Clips of some videos in all sizes that students and teachers see.

    Attributes:
        videos: Numbers of the videos.
        clips: Of each size, uint8 [B, T, 3, S, S].
        labels: int64 [B].
    """

    videos: tuple[int, ...]
    clips: Mapping[CropSize, Tensor]
    labels: Tensor


class DistillObjective:
    """See :class:`featcache.training.objective.Objective`.

    Each student learns as it would alone: it draws the same dropout, and its part of the loss is its own.

    Attributes:
        module: The students.
        num_batches: Number of batches per epoch; an incomplete last one is left out.
        num_items: Number of videos per epoch.
    """

    def __init__(
        self,
        loader: ViewLoader,
        labels: npt.NDArray[np.int64],
        *,
        students: Students,
        teachers: Teachers | None,
        sizes: Sequence[CropSize],
        settings: DistillSettings,
        seed: int,
        world: World = ALONE,
    ) -> None:
        """Form batches of the loader's videos.

        Args:
            loader: Reads one clip per video in each of ``sizes``.
            labels: int64 [M], class of each video, in the order of the loader.
            students: The networks to train.
            teachers: The teachers; ``None``: cross-entropy alone.
            sizes: Sizes of the loader's arrays, in order.
            settings: How the parts of the loss are weighed, and the names of the students.
            seed: Seed of the order of the videos.
            world: The processes that share each batch.

        Raises:
            ConfigError: There are fewer videos than the batch size, or the processes cannot share a batch equally.
        """
        self.module: nn.Module = students
        self._students = tuple(each for each in students.each if isinstance(each, VideoClassifier))
        self._teachers, self._settings, self._world = teachers, settings, world
        self._sizes = tuple(sizes)
        training = settings.training
        self._batches = VideoBatches(
            loader, batch_size=training.batch_size, num_epochs=training.epochs, seed=seed, world=world
        )
        self._labels = torch.from_numpy(labels)
        self.num_batches, self.num_items = self._batches.num_batches, self._batches.num_items
        names = [each.folder for each in settings.students]
        self._prefixes = [f"{name}." if len(names) > 1 else "" for name in names]

    def parts(self, epoch: int, batch: int) -> list[SharedClips]:
        """One part with this process's share of the batch.

        Raises:
            VideoError: A video cannot be used any more.
        """
        videos, arrays = self._batches.views(epoch, batch)
        clips = {size: rows.flatten(0, 1) for size, rows in zip(self._sizes, arrays, strict=True)}
        return [SharedClips(videos=videos, clips=clips, labels=self._labels[list(videos)])]

    def loss(self, part: SharedClips) -> Loss:
        """The sum of the students' losses, in float32; AE-KD's weights are of the whole batch and so collective."""
        device = next(self.module.parameters()).device
        clips = {size: each.to(device, non_blocking=True) for size, each in part.clips.items()}
        labels = part.labels.to(device, non_blocking=True)
        said = None if self._teachers is None else self._teachers.logits(part.videos, clips)
        total = torch.zeros((), device=device)
        metrics: dict[str, Tensor] = {}
        again = repeated_draws(device)
        for student, prefix in zip(self._students, self._prefixes, strict=True):
            again()
            own = self._of_student(student(clips[crop_of(student)]), labels, said)
            total = total + own.total
            metrics |= {f"{prefix}{name}": value for name, value in own.metrics.items()}
        return Loss(total=total, metrics=metrics)

    def after_step(self, progress: float) -> None:
        """Do nothing."""

    def _of_student(self, logits: Tensor, labels: Tensor, said: Tensor | None) -> Loss:
        """The loss of one student: cross-entropy, and the weighed divergences from the teachers' ``said`` [m, B, C]."""
        taught = class_loss(logits, labels)
        if said is None:
            return taught
        settings, logits = self._settings, logits.float()
        weights = teacher_weights(
            settings.mode,
            logits,
            said,
            temperature=settings.temperature,
            largest=settings.largest_weight,
            mean=lambda own: self._world.mean_(own.clone()),
        )
        parts = torch.stack([divergence(logits, each, temperature=settings.temperature) for each in said])
        together = weights @ parts
        metrics = {
            **taught.metrics,
            "cross_entropy": taught.total.detach(),
            "divergence": together.detach(),
            **{f"weight_{number}": weight for number, weight in enumerate(weights) if settings.mode == "aekd"},
        }
        return Loss(total=taught.total + settings.kd_weight * together, metrics=metrics)
