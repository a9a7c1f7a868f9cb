"""The playback-rate pretext task on a frame bank.

Source: AdViSe §3.1, after the discriminative branch of PRP (Yao et al., CVPR 2020): at which of the rates is a clip
played? Clips are gathered from stored rows and drawn anew every epoch.

Differs from the paper: a crop is one of those that the bank stores, not a new one with new colours (``bank.online``
draws new ones); a video shorter than a clip wraps, and is not replaced by another; the order of videos changes every
epoch, where the released code uses the same seed for every epoch.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn import functional

from featcache.errors import ConfigError
from featcache.loaders.bank import ClipSource
from featcache.loaders.clip_positions import playback_clip, pretext_start
from featcache.loaders.stand_ins import StandIns
from featcache.methods.advise.objective import ClipObjective
from featcache.methods.advise.settings import PretextClipSettings, max_bank_stride
from featcache.training.world import ALONE, World


def playback_objective(
    source: ClipSource,
    videos: npt.NDArray[np.int64],
    settings: PretextClipSettings,
    *,
    module: nn.Module,
    batch_size: int,
    seed: int,
    stand_ins: StandIns | None = None,
    world: World = ALONE,
) -> ClipObjective:
    """The task of telling the rates apart; see :class:`featcache.methods.advise.objective.ClipObjective`.

    Raises:
        ConfigError: The bank is too coarse, a part of a batch would be a single clip, or the processes cannot share a
            batch equally.
    """
    finest = max_bank_stride(base_stride=settings.base_stride, speed_jitter=settings.speed_jitter)
    if source.bank_stride > finest:  # a bank of all frames repeats no more frames than the published sampler
        raise ConfigError(
            f"the bank holds every {source.bank_stride}th frame, too few for clips of base stride "
            f"{settings.base_stride} slowed by {settings.speed_jitter:.0%}: repeated rows would tell the rate; "
            f"extract with --stride {finest}, or raise clips.base_stride"
        )
    return ClipObjective(
        source,
        videos,
        partial(played_clip, source=source, settings=settings),
        key="playback",
        module=module,
        criterion=partial(rate_loss, settings=settings),
        batch_size=batch_size,
        num_clips=settings.num_clips,
        seed=seed,
        is_sequential=settings.sequential,
        stand_ins=stand_ins,
        world=world,
    )


def played_clip(
    video: int, rng: np.random.Generator, *, source: ClipSource, settings: PretextClipSettings
) -> tuple[npt.NDArray[np.int64], int]:
    """Positions int64 [T] of a clip that is played at a random rate, and the number of the rate."""
    length, label = int(source.num_source_frames[video]), int(rng.integers(len(settings.rates)))
    draw = rng.random()
    start = int(draw * length)
    if settings.starts == "fitting":
        start = pretext_start(length, num_frames=settings.num_frames, base_stride=settings.base_stride, draw=draw)
    positions = playback_clip(
        length,
        start=start,
        rate=settings.rates[label],
        jitter=rng.uniform(1 - settings.speed_jitter, 1 + settings.speed_jitter),
        num_frames=settings.num_frames,
        base_stride=settings.base_stride,
        bank_stride=source.bank_stride,
    )
    return positions, label


def rate_loss(logits: Tensor, labels: Tensor, *, settings: PretextClipSettings) -> Tensor:
    """The mean loss of logits float32 [B, R] for classes int64 [B], a scalar."""
    smoothing = settings.label_smoothing
    if settings.loss == "cross_entropy":
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    num_rates = logits.shape[1]
    targets = functional.one_hot(labels, num_rates).float() * (1 - smoothing) + smoothing / num_rates
    return functional.binary_cross_entropy_with_logits(logits, targets)
