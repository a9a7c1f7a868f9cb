"""Fine-tuning as batches and a loss: labelled clips and cross-entropy."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from featcache.loaders.ahead import ViewLoader
from featcache.loaders.batches import VideoBatches
from featcache.methods.finetune.module import VideoClassifier
from featcache.training.objective import Loss, class_loss
from featcache.training.world import ALONE, World


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledClips:
    """Clips of some videos and their classes.

    Attributes:
        clips: uint8 [B, T, 3, S, S].
        labels: int64 [B].
    """

    clips: Tensor
    labels: Tensor


class FinetuneObjective:
    """See :class:`featcache.training.objective.Objective`.

    Attributes:
        module: Backbone and head.
        num_batches: Number of batches per epoch; an incomplete last one is left out.
        num_items: Number of videos per epoch.
    """

    def __init__(
        self,
        loader: ViewLoader,
        labels: npt.NDArray[np.int64],
        *,
        module: VideoClassifier,
        batch_size: int,
        num_epochs: int,
        seed: int,
        world: World = ALONE,
    ) -> None:
        """Form batches of the loader's videos.

        Args:
            loader: Reads one clip per video.
            labels: int64 [M], class of each video, in the order of the loader.
            module: The backbone and the head to train.
            batch_size: Number of videos per batch, all processes together.
            num_epochs: Number of epochs.
            seed: Seed of the order of the videos.
            world: The processes that share each batch.

        Raises:
            ConfigError: There are fewer videos than the batch size, or the processes cannot share a batch equally.
        """
        self.module: nn.Module = module
        self._batches = VideoBatches(loader, batch_size=batch_size, num_epochs=num_epochs, seed=seed, world=world)
        self._labels = torch.from_numpy(labels)
        self.num_batches, self.num_items = self._batches.num_batches, self._batches.num_items

    def parts(self, epoch: int, batch: int) -> list[LabelledClips]:
        """One part with this process's share of the batch.

        Raises:
            VideoError: A video cannot be used any more.
        """
        videos, (rows,) = self._batches.views(epoch, batch)
        return [LabelledClips(clips=rows.flatten(0, 1), labels=self._labels[list(videos)])]

    def loss(self, part: LabelledClips) -> Loss:
        """Cross-entropy, in float32."""
        device = next(self.module.parameters()).device
        return class_loss(self.module(part.clips.to(device, non_blocking=True)), part.labels)

    def after_step(self, progress: float) -> None:
        """Do nothing."""
