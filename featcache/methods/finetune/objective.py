"""Fine-tuning as batches and a loss: labelled clips and cross-entropy."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.errors import ConfigError
from featcache.loaders.ahead import Batch, ViewLoader
from featcache.methods.finetune.module import VideoClassifier
from featcache.seeding import rng_for
from featcache.training.objective import Loss


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
        num_batches: Batches an epoch; an incomplete last one is left out.
        num_items: Videos an epoch.
    """

    def __init__(
        self,
        loader: ViewLoader,
        labels: npt.NDArray[np.int64],
        *,
        module: VideoClassifier,
        batch_size: int,
        seed: int,
    ) -> None:
        """Take videos as they are numbered.

        Args:
            loader: Of one clip a video.
            labels: int64 [M], their classes.
            module: What is trained.
            batch_size: Videos a batch.
            seed: Of the order.

        Raises:
            ConfigError: Fewer videos than a batch.
        """
        if len(labels) < batch_size:
            raise ConfigError(
                f"{len(labels)} training videos make no batch of {batch_size}; give more videos, or set "
                f"training.batch_size={len(labels)} or less"
            )
        self.module: nn.Module = module
        self._loader = loader
        self._labels = torch.from_numpy(labels)
        self._batch_size = batch_size
        self._seed = seed
        self.num_batches = len(labels) // batch_size
        self.num_items = self.num_batches * batch_size

    def parts(self, epoch: int, batch: int) -> list[LabelledClips]:
        """One part with all clips of the batch.

        Raises:
            VideoError: A video cannot be used any more.
        """
        wanted = self._batch(epoch, batch)
        following = self._batch(epoch, batch + 1) if batch + 1 < self.num_batches else None
        (rows,) = self._loader.views(wanted, following=following)
        return [LabelledClips(clips=rows.flatten(0, 1), labels=self._labels[list(wanted.videos)])]

    def loss(self, part: LabelledClips) -> Loss:
        """Cross-entropy, in float32."""
        device = next(self.module.parameters()).device
        labels = part.labels.to(device)
        logits = self.module(part.clips.to(device, non_blocking=True)).float()
        is_right = logits.argmax(dim=1) == labels
        return Loss(total=functional.cross_entropy(logits, labels), metrics={"accuracy": is_right.float().mean()})

    def after_step(self, progress: float) -> None:
        """Nothing to move."""

    def _batch(self, epoch: int, batch: int) -> Batch:
        order = rng_for(self._seed, "videos", epoch).permutation(len(self._labels))
        return Batch(epoch, tuple(order[batch * self._batch_size : (batch + 1) * self._batch_size].tolist()))
