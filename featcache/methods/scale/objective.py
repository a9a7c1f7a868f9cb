"""SCALE's pre-training task: two disjoint sets of each video's clips, some of them masked.

Source: SCALE §3.2 and §3.3, and the released code. The clips are on the device; a batch is a gather of rows by number.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from featcache.errors import ConfigError
from featcache.loaders.batches import BatchOrder
from featcache.loaders.clip_sets import ClipSets
from featcache.loaders.set_batches import SetBatch, draw_sets, draw_sets_there, with_clips
from featcache.methods.scale.losses import (
    masked_clip_loss,
    set_clustering_loss,
    set_contrast_loss,
    set_regression_loss,
)
from featcache.methods.scale.settings import ScaleLossSettings
from featcache.networks.set_pretraining import ScalePretraining
from featcache.seeding import rng_for, seed_for
from featcache.training.objective import Loss
from featcache.training.world import ALONE, World


class ScaleObjective:
    """See :class:`featcache.training.objective.Objective`.

    Attributes:
        module: Predictor and heads.
        trained: The same.
        settings: Settings of the losses.
        num_batches: Number of batches per epoch; an incomplete last one is left out.
        num_items: Number of videos per epoch.
        num_left_out: Videos with fewer than two clips.
        world: The processes that share each batch.
    """

    def __init__(
        self,
        sets: ClipSets,
        settings: ScaleLossSettings,
        *,
        module: ScalePretraining,
        clips_per_set: int,
        batch_size: int,
        seed: int,
        compiled: bool | Literal["objective"] = False,
        draws: Literal["host", "device"] = "host",
        world: World = ALONE,
    ) -> None:
        set_size = np.minimum(clips_per_set, sets.num_clips // 2)
        videos = np.flatnonzero(set_size)
        self.num_left_out = len(set_size) - len(videos)
        if len(videos) < 2:
            raise ConfigError(
                f"{len(videos)} of {len(set_size)} training videos have two clips or more, and SCALE compares "
                "sets of different videos; extract more clips per video (--preset scale takes 16), or more videos"
            )
        if batch_size < 2:
            raise ConfigError(
                f"training.batch_size is {batch_size}; SCALE tells the videos of a batch apart, give it 2 or more"
            )
        self.module: nn.Module = module
        self.trained = module
        self._sets = sets
        self._set_size = set_size
        self.settings = settings
        self._seed = seed
        self._device = next(module.parameters()).device
        self._is_gathered_ahead = sets.features.device != self._device
        self.world = world
        self._order = BatchOrder(videos, batch_size=batch_size, seed=seed, world=world)
        self.num_batches, self.num_items = self._order.num_batches, self._order.num_items
        self._draws_there = draws == "device"
        self._is_compiled = compiled == "objective"
        if self._is_compiled:
            module.compile(dynamic=True)
        elif compiled:
            module.predictor.compile()

    def parts(self, epoch: int, batch: int) -> list[SetBatch]:
        """One part with this process's share of the batch."""
        return [self.ahead(self.draw(epoch, batch))]

    def draw(self, epoch: int, batch: int) -> SetBatch:
        """Draw this process's share of a batch as row numbers, on the CPU or on the module's device."""
        videos = self._order.batch(epoch, batch)
        if self._draws_there:
            generator = torch.Generator(self._device)
            generator.manual_seed(seed_for(self._seed, "sets", epoch, batch))
            return draw_sets_there(
                self._sets.video_start,
                videos,
                set_size=self._set_size[videos],
                mask_ratio=self.settings.mask_ratio,
                generator=generator,
                share=self._order.share,
            )
        return draw_sets(
            self._sets.video_start,
            videos,
            set_size=self._set_size[videos],
            mask_ratio=self.settings.mask_ratio,
            rng=rng_for(self._seed, "sets", epoch, batch),
            share=self._order.share,
        )

    def ahead(self, part: SetBatch) -> SetBatch:
        """Prepare a batch ahead of the module: gather clips that are on another device, and pin memory."""
        if self._is_gathered_ahead:
            part = with_clips(part, self._sets)
        return part.each(_pinned) if self._device.type == "cuda" else part

    def arrived(self, part: SetBatch) -> SetBatch:
        """The batch with its clips on the module's device."""
        return with_clips(part.each(lambda tensor: tensor.to(self._device, non_blocking=True)), self._sets)

    def loss(self, part: SetBatch) -> Loss:
        """The weighted mean of MCM and SET; collective."""
        part = self.arrived(part)
        projected = self.module(
            part.features, part.positions, part.masked, part.masked_at, part.present, part.present_at
        )
        return compared(
            projected,
            part.positive,
            self.settings,
            num_videos=len(part.rows) // 2,
            is_compiled=self._is_compiled,
            world=self.world,
        )

    def after_step(self, progress: float) -> None:
        """Do nothing."""


def compared(
    projected: Mapping[str, Tensor],
    positive: Tensor,
    settings: ScaleLossSettings,
    *,
    num_videos: int,
    is_compiled: bool = False,
    world: World = ALONE,
) -> Loss:
    """The weighted mean of MCM and SET; the loss of a batch is the mean over the processes that share it. Collective.

    Args:
        projected: Output of :class:`featcache.networks.set_pretraining.ScalePretraining`.
        positive: int64 [M], places of the masked clips among all clips.
        settings: Settings of the losses.
        num_videos: Number of videos of this process's share of the batch.
        is_compiled: Compile what is done with logits.
        world: The processes that share the batch.
    """
    parts: list[Tensor] = []
    metrics: dict[str, Tensor] = {}
    if settings.mcm_weight:
        mcm = masked_clip_loss(
            projected["predictions"],
            projected["targets"],
            positive,
            temperature=settings.mcm_temperature,
            symmetric=settings.symmetric,
            is_compiled=is_compiled,
            world=world,
        )
        share = _share(len(positive), world)
        loss = mcm.loss * share if settings.mcm_per == "clip" else mcm.loss * len(positive) / num_videos
        parts.append(settings.mcm_weight * loss)
        metrics |= {"mcm": loss.detach(), "mcm_accuracy": mcm.accuracy * share}
    if settings.set_weight:
        loss, accuracy = _compared_sets(projected, settings, world, is_compiled=is_compiled)
        parts.append(settings.set_weight * loss)
        metrics |= {"set": loss.detach()} | ({} if accuracy is None else {"set_accuracy": accuracy})
    return Loss(total=sum(parts[1:], parts[0]) / (settings.mcm_weight + settings.set_weight), metrics=metrics)


def _share(num_masked: int, world: World) -> float:
    """The weight of a process's mean over its masked clips in the mean over processes; 1 on the average. Collective."""
    if world.size == 1:
        return 1.0
    num_all = int(world.gather(torch.tensor([num_masked])).sum())
    return world.size * num_masked / max(1, num_all)


def _compared_sets(
    projected: Mapping[str, Tensor], settings: ScaleLossSettings, world: World, *, is_compiled: bool
) -> tuple[Tensor, Tensor | None]:
    first, second = projected["sets"].chunk(2)
    if settings.set_loss == "infonce":
        result = set_contrast_loss(
            first, second, temperature=settings.set_temperature, is_compiled=is_compiled, world=world
        )
        return result.loss, result.accuracy
    if settings.set_loss == "regression":
        one, other = projected["predicted_sets"].chunk(2)
        return set_regression_loss((one, other), (first, second)), None
    one, other = projected["cosines"].chunk(2)
    loss = set_clustering_loss(
        one,
        other,
        temperature=settings.set_temperature,
        epsilon=settings.sinkhorn_epsilon,
        num_steps=settings.sinkhorn_steps,
        world=world,
    )
    return loss, None


def _pinned(tensor: Tensor) -> Tensor:
    """The tensor in memory that a GPU copies from while the CPU goes on, unless it is on a device already."""
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor
