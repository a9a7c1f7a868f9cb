"""The playback-rate pretext task on a frame bank.

Source: AdViSe §3.1, after the discriminative branch of PRP (Yao et al., CVPR 2020): at which of the rates is a clip
played? Clips are gathered from stored rows and drawn anew every epoch.

Differs from the paper: a crop is one of those that the bank stores, not a new one with new colours (``bank.online``
draws new ones); a video shorter than a clip wraps, and is not replaced by another; the order of videos changes every
epoch, where the released code uses the same seed for every epoch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.errors import ConfigError
from featcache.loaders.bank import ClipSource
from featcache.loaders.batches import BatchOrder
from featcache.loaders.clip_positions import playback_clip, pretext_start
from featcache.loaders.maps import ClipMaps
from featcache.methods.advise.settings import PretextClipSettings, max_bank_stride
from featcache.seeding import rng_for
from featcache.training.objective import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledMaps:
    """Maps [B, T, h, w, C] and classes int64 [B]."""

    maps: ClipMaps
    labels: Tensor


class PlaybackRateObjective:
    """See :class:`featcache.training.objective.Objective`.

    Attributes:
        module: Maps clips float [B, T, h, w, C] to one logit per rate.
        num_batches: Number of batches per epoch; an incomplete last one is left out.
        num_items: Number of clips per epoch.
    """

    def __init__(
        self,
        source: ClipSource,
        videos: npt.NDArray[np.int64],
        settings: PretextClipSettings,
        *,
        module: nn.Module,
        batch_size: int,
        seed: int,
    ) -> None:
        finest = max_bank_stride(base_stride=settings.base_stride, speed_jitter=settings.speed_jitter)
        if source.bank_stride > finest:  # a bank of all frames repeats no more frames than the published sampler
            raise ConfigError(
                f"the bank holds every {source.bank_stride}th frame, too few for clips of base stride "
                f"{settings.base_stride} slowed by {settings.speed_jitter:.0%}: repeated rows would tell the rate; "
                f"extract with --stride {finest}, or raise clips.base_stride"
            )
        self.module = module
        self._source = source
        self._settings = settings
        self._seed = seed
        self._order = BatchOrder(videos, batch_size=batch_size, seed=seed)
        if self._order.batch_size * (1 if settings.sequential else settings.num_clips) < 2:
            raise ConfigError("BatchNorm needs two clips at once; give more videos, or set clips.sequential=false")
        self.num_batches = self._order.num_batches
        self.num_items = self._order.num_items * settings.num_clips

    def parts(self, epoch: int, batch: int) -> list[LabelledMaps]:
        """One part per clip index if clips are processed one after another, otherwise a single part."""
        chosen = self._order.batch(epoch, batch)
        settings = self._settings
        if settings.sequential:
            return [self._clips(chosen, np.full(len(chosen), clip), epoch) for clip in range(settings.num_clips)]
        return [
            self._clips(
                np.repeat(chosen, settings.num_clips), np.tile(np.arange(settings.num_clips), len(chosen)), epoch
            )
        ]

    def loss(self, part: LabelledMaps) -> Loss:
        """Cross-entropy, or logistic losses, over the rates, with label smoothing."""
        device = next(self.module.parameters()).device
        labels = part.labels.to(device)
        logits = self.module(part.maps.on(device))
        total = rate_loss(logits.float(), labels, settings=self._settings)
        return Loss(total=total, metrics={"accuracy": (logits.argmax(dim=1) == labels).float().mean()})

    def after_step(self, progress: float) -> None:
        """Do nothing."""

    def _clips(self, videos: npt.NDArray[np.int64], clips: npt.NDArray[np.int64], epoch: int) -> LabelledMaps:
        drawn = [self._draw(int(video), int(clip), epoch) for video, clip in zip(videos, clips, strict=True)]
        positions = np.stack([position for position, _, _ in drawn])
        return LabelledMaps(
            maps=self._source.clips(videos, positions, [crop for _, _, crop in drawn]),
            labels=torch.tensor([label for _, label, _ in drawn]),
        )

    def _draw(self, video: int, clip: int, epoch: int) -> tuple[npt.NDArray[np.int64], int, int]:
        """Draw positions, class and crop of one clip."""
        settings, source = self._settings, self._source
        rng = rng_for(self._seed, "playback", source.video_ids[video], epoch, clip)
        label = int(rng.integers(len(settings.rates)))
        length = int(source.num_source_frames[video])
        positions = playback_clip(
            length,
            start=_start(length, settings, draw=rng.random()),
            rate=settings.rates[label],
            jitter=rng.uniform(1 - settings.speed_jitter, 1 + settings.speed_jitter),
            num_frames=settings.num_frames,
            base_stride=settings.base_stride,
            bank_stride=source.bank_stride,
        )
        return positions, label, int(rng.integers(2**31))


def rate_loss(logits: Tensor, labels: Tensor, *, settings: PretextClipSettings) -> Tensor:
    """The mean loss of logits float32 [B, R] for classes int64 [B], a scalar."""
    smoothing = settings.label_smoothing
    if settings.loss == "cross_entropy":
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    num_rates = logits.shape[1]
    targets = functional.one_hot(labels, num_rates).float() * (1 - smoothing) + smoothing / num_rates
    return functional.binary_cross_entropy_with_logits(logits, targets)


def _start(num_source_frames: int, settings: PretextClipSettings, *, draw: float) -> int:
    if settings.starts == "anywhere":
        return int(draw * num_source_frames)
    return pretext_start(num_source_frames, num_frames=settings.num_frames, base_stride=settings.base_stride, draw=draw)
