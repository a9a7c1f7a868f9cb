"""SVT's pre-training as batches and a loss: each view predicts the teacher's output for others (SVT §3.3)."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from featcache.loaders.ahead import ViewLoader
from featcache.loaders.batches import VideoBatches
from featcache.methods.svt.losses import (
    distillation_loss,
    moved_center,
    reversal_center,
    teacher_targets,
    teacher_temperature,
)
from featcache.methods.svt.pairs import NUM_GLOBALS, positions_of, student_views, teacher_views, view_pairs
from featcache.methods.svt.settings import SvtSettings
from featcache.methods.svt.views import same_shapes
from featcache.networks.self_distillation import SvtPretraining
from featcache.seeding import rng_for
from featcache.training.collapse import assignment_entropy, feature_deviation, mean_assignment_entropy, rank_me
from featcache.training.objective import Loss
from featcache.training.schedules import cosine
from featcache.training.world import ALONE, World


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViewBatch:
    """Views of some videos.

    Attributes:
        clips: One tensor per view, uint8 [B, T, 3, S, S].
        epoch: Fractional epoch, for the teacher's temperature.
        teacher_view: The only view that the teacher sees; ``None``: all views that the pairs need.
    """

    clips: tuple[Tensor, ...]
    epoch: float
    teacher_view: int | None


class SvtObjective:
    """Self-distillation; see :class:`featcache.training.objective.Objective`.

    Processes that share it have a common centre, updated with the mean over all. Metrics are also of whole batches.

    Attributes:
        module: Everything with state.
        trained: The same module with its own type: student, teacher and centre.
        num_batches: Number of batches per epoch; an incomplete last one is left out.
        num_items: Number of videos per epoch.
    """

    def __init__(
        self, loader: ViewLoader, settings: SvtSettings, *, module: SvtPretraining, seed: int, world: World = ALONE
    ) -> None:
        training = settings.training
        self._batches = VideoBatches(
            loader, batch_size=training.batch_size, num_epochs=training.epochs, seed=seed, world=world
        )
        self._world = world
        self.module: nn.Module = module
        self.trained = module
        self._settings = settings
        self._seed = seed
        self._groups = same_shapes(settings.views)
        self.num_batches, self.num_items = self._batches.num_batches, self._batches.num_items

    def parts(self, epoch: int, batch: int) -> list[ViewBatch]:
        """A single part with this process's share, because the centre is a mean over the batch.

        Raises:
            VideoError: A video cannot be used any more.
        """
        teacher_view = None
        if self._settings.loss.single_teacher:
            teacher_view = int(rng_for(self._seed, "teacher", epoch, batch).integers(NUM_GLOBALS))
        return [
            ViewBatch(
                clips=self._batches.views(epoch, batch)[1],
                epoch=epoch + batch / self.num_batches,
                teacher_view=teacher_view,
            )
        ]

    def loss(self, part: ViewBatch) -> Loss:
        """Run the forward passes of student and teacher, and update the centre for the next batch.

        Metrics describe the teacher: entropies in nats, deviation and rank of its class tokens.
        """
        settings = self._settings.loss
        pairs = view_pairs(settings.routes, num_locals=len(part.clips) - NUM_GLOBALS, teacher_view=part.teacher_view)
        clips = [clip.to(self.trained.center.device, non_blocking=True) for clip in part.clips]
        is_paired = settings.centering == "reversal"
        if is_paired:
            clips = [torch.cat([clip, clip.flip(1)]) for clip in clips]
        with torch.no_grad():
            teacher = self.trained.teacher(clips, teacher_views(pairs), groups=self._groups)
            targets = teacher_targets(
                teacher.logits,
                reversal_center(teacher.logits) if is_paired else self.trained.center,
                temperature=teacher_temperature(settings, part.epoch),
            )
            assignments = targets.flatten(0, 1)
            means = torch.stack([teacher.logits.flatten(0, 1).mean(dim=0), assignments.mean(dim=0)])
            logits_mean, assigned_mean = self._world.mean_(means).chunk(2)
            features = self._world.gather(teacher.features.flatten(0, 1).float())
            if not is_paired:
                moved = moved_center(self.trained.center, logits_mean, momentum=settings.center_momentum)
                self.trained.center.copy_(moved)
            metrics = {
                "entropy": assignment_entropy(assignments),
                "mean_entropy": mean_assignment_entropy(assigned_mean),
                "feature_deviation": feature_deviation(features),
            }
        student = self.trained.student(clips, student_views(pairs), groups=self._groups)
        total = distillation_loss(
            student.logits,
            targets,
            positions_of(pairs),
            temperature=settings.student_temperature,
            sums=settings.single_teacher,
        )
        return Loss(total=total, metrics=metrics, seldom={"rank": partial(rank_me, features)})

    def after_step(self, progress: float) -> None:
        """Update the teacher, whose momentum grows to 1 over the run."""
        self.trained.move_teacher(cosine(self._settings.teacher_momentum, 1.0, progress))
