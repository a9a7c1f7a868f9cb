"""Clips of a frame bank and their classes as batches and a loss, for the pretext task and for labels alike."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.errors import ConfigError, NonFiniteFeatureError
from featcache.loaders.bank import ClipSource
from featcache.loaders.batches import BatchOrder
from featcache.loaders.maps import ClipMaps
from featcache.loaders.stand_ins import StandIns
from featcache.loaders.videos import DamagedError
from featcache.seeding import rng_for
from featcache.training.identity import digest
from featcache.training.objective import Loss, class_loss
from featcache.training.world import ALONE, World


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedMaps:
    """Maps [B, T, h, w, C] and classes int64 [B]."""

    maps: ClipMaps
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Drawn:
    """Clips that are drawn and not read: ``videos`` int64 [B], ``positions`` int64 [B, T], and their classes."""

    videos: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    crops: list[int]
    labels: Tensor


_BATCHES_AHEAD = 2
"""Batches that are announced to the source before they are read."""
Draw = Callable[[int, np.random.Generator], tuple[npt.NDArray[np.int64], int]]
"""Draws a clip of a video: positions of its frames, int64 [T], and its class; a pure function of its arguments."""
Criterion = Callable[[Tensor, Tensor], Tensor]
"""The mean loss of logits float32 [B, num_classes] for classes int64 [B], a scalar."""


class ClipObjective:
    """See :class:`featcache.training.objective.Objective`; clips are drawn anew every epoch.

    Attributes:
        module: Maps clips float [B, T, h, w, C] to logits [B, num_classes].
        num_batches: Number of batches per epoch; an incomplete last one is left out.
        num_items: Number of clips per epoch.
    """

    def __init__(
        self,
        source: ClipSource,
        videos: npt.NDArray[np.int64],
        draw: Draw,
        *,
        key: str,
        module: nn.Module,
        criterion: Criterion = functional.cross_entropy,
        batch_size: int,
        num_clips: int,
        seed: int,
        is_sequential: bool = False,
        stand_ins: StandIns | None = None,
        world: World = ALONE,
    ) -> None:
        """Form batches of videos.

        Args:
            source: Source of the maps.
            videos: int64 [A], numbers of the training videos.
            draw: Draws a clip and its class.
            key: Key of the draws, which differ from those of other tasks with the same seed.
            module: The module to train, with its head.
            criterion: The loss.
            batch_size: Number of videos per batch.
            num_clips: Number of clips per video and batch.
            seed: Seed of the run.
            stand_ins: Videos that take the places of damaged ones, where videos are decoded; the others of such a batch
                are decoded once more.
            is_sequential: Process one clip per video at a time, as parts of a batch whose gradients are summed.
            world: The processes that share each batch; each has all clips of its videos.

        Raises:
            ConfigError: A part of a batch would be a single clip, or the processes cannot share a batch equally.
        """
        self.module = module
        self._source = source
        self._draw = draw
        self._key = key
        self._criterion = criterion
        self._seed = seed
        self._num_clips = num_clips
        self._is_sequential = is_sequential
        self._world = world
        self._stand_ins = stand_ins
        self._near: dict[int, _Drawn] = {}  # by number in the run: clips that are announced
        self._order = BatchOrder(videos, batch_size=batch_size, seed=seed, order=source.order(videos), world=world)
        if self._order.batch_size * (1 if is_sequential else num_clips) < 2:
            advice = "set clips.sequential=false" if is_sequential and num_clips > 1 else "raise num_clips"
            raise ConfigError(f"BatchNorm needs two clips at once; give more videos, or {advice}")
        self.num_batches = self._order.num_batches
        self.num_items = self._order.num_items * num_clips

    def parts(self, epoch: int, batch: int) -> list[ClassifiedMaps]:
        """This process's share, in one part per clip of a video if one follows the other, otherwise in a single part.

        Raises:
            VideoError: A video is missing or has changed since it was scanned, or too many cannot be decoded.
        """
        chosen = self._order.own(epoch, batch)
        if self._stand_ins is None:
            drawn = self._expected(epoch, batch)
            return self._split(drawn, self._source.clips(drawn.videos, drawn.positions, drawn.crops))
        seats = [self._stand_ins.seat(video, epoch=epoch) for video in chosen.tolist()]
        while True:
            try:
                parts = self._parts(np.array([seat.video for seat in seats]), epoch)
            except DamagedError as damaged:
                for seat in seats:
                    if seat.video in damaged.errors:
                        seat.give_up(damaged.errors[seat.video])
            else:
                for seat in seats:
                    seat.record()
                return parts

    def _parts(self, chosen: npt.NDArray[np.int64], epoch: int) -> list[ClassifiedMaps]:
        """The parts of some videos, int64 [B]."""
        drawn = self._drawn(chosen, epoch)
        return self._split(drawn, self._source.clips(drawn.videos, drawn.positions, drawn.crops))

    def _expected(self, epoch: int, batch: int) -> "_Drawn":
        """The clips of a batch; those of the next ones are drawn and announced to the source."""
        first = epoch * self.num_batches + batch
        near = range(first, first + 1 + _BATCHES_AHEAD)
        self._near = {number: drawn for number, drawn in self._near.items() if number in near}
        for number in near:
            if number not in self._near:
                its_epoch, its_batch = divmod(number, self.num_batches)
                drawn = self._near[number] = self._drawn(self._order.own(its_epoch, its_batch), its_epoch)
                if number > first:
                    self._source.ahead(drawn.videos, drawn.positions, drawn.crops)
        return self._near.pop(first)

    def _split(self, drawn: "_Drawn", maps: ClipMaps) -> list[ClassifiedMaps]:
        """The parts of a batch with its maps."""
        if next(self.module.parameters()).device.type == "cuda":
            maps = maps.pinned()
        if not self._is_sequential:
            return [ClassifiedMaps(maps=maps, labels=drawn.labels)]
        count = self._num_clips
        return [
            ClassifiedMaps(maps=one, labels=labels)
            for one, labels in zip(maps.split(count), drawn.labels.chunk(count), strict=True)
        ]

    def loss(self, part: ClassifiedMaps) -> Loss:
        """The loss in float32, and the accuracy."""
        device = next(self.module.parameters()).device
        return class_loss(self.module(part.maps.on(device)), part.labels, criterion=self._criterion)

    def after_step(self, progress: float) -> None:
        """Do nothing."""

    def check_finite(self) -> None:
        """Check the first batch before hours of training; collective.

        Raises:
            NonFiniteFeatureError: A value is NaN or infinite.
        """
        is_finite = all(bool(part.maps.on("cpu").isfinite().all()) for part in self.parts(0, 0))
        if self._world.any(not is_finite, patiently=True):
            raise NonFiniteFeatureError(
                f"features of {self._source.video_ids[0]!r} or its neighbours hold NaN or infinity; extract this "
                "feature again as float32"
            )

    def _drawn(self, chosen: npt.NDArray[np.int64], epoch: int) -> "_Drawn":
        """Draw the clips of videos int64 [B], all at once: a source that decodes passes over each video once."""
        clips = np.arange(self._num_clips)
        if self._is_sequential:
            videos, clips = np.tile(chosen, len(clips)), np.repeat(clips, len(chosen))
        else:
            videos, clips = np.repeat(chosen, len(clips)), np.tile(clips, len(chosen))
        positions, labels, crops = [], [], []
        for video, clip in zip(videos.tolist(), clips.tolist(), strict=True):
            rng = rng_for(self._seed, self._key, self._source.video_ids[video], epoch, clip)
            place, label = self._draw(video, rng)
            positions.append(place)
            labels.append(label)
            crops.append(int(rng.integers(2**31)))
        return _Drawn(videos=videos, positions=np.stack(positions), crops=crops, labels=torch.tensor(labels))


def clip_contents(source: ClipSource, videos: npt.NDArray[np.int64], *, name: str = "bank.store") -> dict[str, str]:
    """Digests of the data that a run reads: its source, under the name of the setting, and its training videos."""
    return {name: source.identity, "videos": digest([source.video_ids[video] for video in videos.tolist()])}
