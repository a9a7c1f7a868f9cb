"""Schedules as pure functions of the fractional epoch."""

import math

from featcache.training.settings import ScheduleSettings


def learning_rate_factor(epoch: float, *, epochs: float, schedule: ScheduleSettings) -> float:
    """Share of the peak learning rate at a fractional epoch in [0, ``epochs``].

    Linear from ``warmup_factor`` to 1 over the share ``warmup_fraction`` of the epochs; then constant, in steps, or
    half a cosine over the remaining epochs down to ``final_factor`` (Loshchilov & Hutter, ICLR 2017, Eq. 5, without
    restarts).
    """
    warmup = schedule.warmup_fraction * epochs
    if epoch < warmup:
        return schedule.warmup_factor + (1 - schedule.warmup_factor) * epoch / warmup
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "step":
        return schedule.step_factor ** sum(epoch >= share * epochs for share in schedule.step_fractions)
    progress = (epoch - warmup) / (epochs - warmup)
    return schedule.final_factor + (1 - schedule.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` at progress 0 to ``end`` at progress 1, e.g. a teacher's momentum (DINO, BYOL)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
