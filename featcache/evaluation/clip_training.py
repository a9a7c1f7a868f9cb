"""Classifiers on the clips of videos, shared by ``mlp``, ``transformer``, ``scale-linear`` and ``scale-ft``.

An embedder turns the clips of a video into vectors, separately or depending on the other clips; a linear layer
classifies each vector. Training draws some clips of each video anew each epoch (as SCALE's probes do); at test time all
clips of a video form one set and their softmax is averaged. All rows stay on the device as they are stored; a batch is
one gather by index. Several candidates and seeds are trained as one, see :mod:`featcache.evaluation.stack`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.evaluation.data import ProbeData
from featcache.evaluation.grid import epoch_batches
from featcache.evaluation.parts import NOTHING_KEPT, Due, Parts
from featcache.evaluation.settings import Candidate, ClipLoss, ClipTraining
from featcache.evaluation.stack import Embedding, Stack
from featcache.loaders.clip_sets import ClipSets, with_coordinates
from featcache.loaders.settings import Coordinates
from featcache.machine import keep_freed_memory
from featcache.recipes import PositionForm
from featcache.seeding import rng_for
from featcache.training import schedules
from featcache.training.checkpoint import optimiser_tensors, restore_optimiser
from featcache.training.optimisers import build_optimiser
from featcache.training.settings import OptimiserSettings, ScheduleSettings

Indices = npt.NDArray[np.int64]
CLIPS_AT_ONCE = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTable:
    """All rows on the device.

    Attributes:
        features: float16 or float32 [N, D], as stored.
        positions: float32 [N, P], or ``None``.
        first: int64 [M], first row of each video.
        counts: int64 [M], number of rows of each video.
    """

    features: Tensor
    positions: Tensor | None
    first: Indices
    counts: Indices

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features float32 [..., D] and positions [..., P] of rows int64 [...]."""
        return self.features[rows].float(), None if self.positions is None else self.positions[rows]


def clip_table(data: ProbeData, *, form: PositionForm | None, coordinates: Coordinates, device: str) -> ClipTable:
    """Move the inputs of an embedder to the device; see :class:`Embedding`."""
    _, first, counts = np.unique(data.row_video, return_index=True, return_counts=True)
    features = torch.from_numpy(data.features).to(device)
    positions = None
    if form is not None:
        sets = ClipSets(
            features=features,
            positions=torch.from_numpy(data.positions[form]).to(device),
            video_start=np.append(first, len(data.row_video)).astype(np.int64),
            video_ids=data.videos,
            identity="",
        )
        positions = with_coordinates(sets, coordinates).positions
    return ClipTable(
        features=features, positions=positions, first=first.astype(np.int64), counts=counts.astype(np.int64)
    )


def draw_clips(counts: Indices, *, num_clips: int, seed: int, epoch: int) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Draw clips of each video without replacement, or all clips if a video has fewer.

    Args:
        counts: int64 [A], number of clips of each video.
        num_clips: Number of clips to draw.
        seed: Seed of the run.
        epoch: Number of the epoch; each draws anew.

    Returns:
        Ordinals within the videos, int64 [A, K] with K = min(``num_clips``, largest number of clips), and bool [A, K],
        false for clips that a video does not have (whose ordinal is 0). Existing clips come first.
    """
    keys = rng_for(seed, "probe-clips", epoch).random((len(counts), int(counts.max())))
    keys[np.arange(keys.shape[1]) >= counts[:, None]] = 2.0  # behind all existing clips
    drawn = np.argsort(keys, axis=1, kind="stable")[:, :num_clips]
    present = np.arange(drawn.shape[1]) < counts[:, None]
    return np.where(present, drawn, 0).astype(np.int64), present


def clip_losses(outputs: Tensor, targets: Tensor, present: Tensor | None, *, kind: ClipLoss) -> Tensor:
    """Loss of each network on its batch, float32 [C, S].

    Args:
        outputs: float32 [C, S, B, K, O], outputs for the clips.
        targets: int64 [S, B] classes, or floating [S, B] numbers (then O is 1).
        present: bool [S, B, K], which clips exist; ``None``: all.
        kind: Kind of loss, see :class:`featcache.evaluation.settings.ClipTraining`.
    """
    shape = outputs.shape[:4]
    if kind == "per_clip":
        clips = _losses(outputs, targets[..., None].expand(shape))
        if present is None:
            return clips.mean(dim=(2, 3))
        return (clips * present).sum(dim=(2, 3)) / present.sum(dim=(1, 2))
    if targets.is_floating_point() or kind == "mean_logits":
        return _losses(video_means(outputs, present), targets.expand(shape[:3])).mean(dim=2)
    mean = video_means(outputs.softmax(dim=-1), present)
    chosen = mean.gather(-1, targets.expand(shape[:3])[..., None])[..., 0]
    return -chosen.clamp_min(torch.finfo(mean.dtype).tiny).log().mean(dim=2)


def _losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, or squared error, of outputs [..., O] and targets [...], each by itself."""
    if targets.is_floating_point():
        return (outputs[..., 0] - targets).square()
    flat = functional.cross_entropy(outputs.flatten(0, -2), targets.reshape(-1), reduction="none")
    return flat.view(targets.shape)


def video_means(values: Tensor, present: Tensor | None) -> Tensor:
    """Mean over the clips of each video: [..., B, K, O] -> [..., B, O]; ``present`` is bool [..., B, K] or ``None``."""
    if present is None:
        return values.mean(dim=-2)
    return (values * present[..., None]).sum(dim=-2) / present.sum(dim=-1, keepdim=True)


def train_stack(
    embedding: Embedding,
    table: ClipTable,
    videos: Indices,
    targets: Tensor,
    candidates: Sequence[Candidate],
    seeds: Sequence[int],
    training: ClipTraining,
    *,
    num_outputs: int,
    name: str = "stack",
    parts: Parts = NOTHING_KEPT,
    on_epochs: Callable[[float], None] = lambda done: None,
    after_epoch: Callable[[Stack], None] | None = None,
) -> Stack:
    """Train one linear layer per candidate and seed, and with it the embedder unless that is frozen.

    Args:
        embedding: The part before the linear layers.
        table: All rows.
        videos: int64 [A], the training videos.
        targets: int64 [A] classes or float32 [A] numbers, on the device.
        candidates: Settings with the same batch size.
        seeds: Seeds of initial weights, batches, clips and dropout.
        training: Settings that the candidates share; its own grid and seeds are not used.
        num_outputs: Number of outputs O.
        name: Name of the training among the parts.
        parts: Where the state is kept, from which a killed training goes on.
        on_epochs: Called after each step with the fractional number of epochs done.
        after_epoch: Called after each epoch. A training that calls it does not go on from a kept state.
    """
    device = table.features.device
    stack = Stack(embedding, candidates, seeds, num_outputs=num_outputs, device=device)
    own = [nn.Parameter(each) for each in stack.theta.detach()]  # the same memory: optimisers step in place
    optimisers = [
        build_optimiser(
            nn.ParameterList([parameter]),
            OptimiserSettings(
                name=each.optimizer,
                lr=each.lr,
                weight_decay=each.weight_decay,
                decay_all=True,
                momentum=training.momentum,
            ),
            lr=each.lr,
        )
        for each, parameter in zip(candidates, own, strict=True)
    ]
    saved = parts.read(name) if after_epoch is None else None
    if saved is not None:
        stack.load(saved.part("stack"))
        for place, optimiser in enumerate(optimisers):
            restore_optimiser(optimiser, saved.part(f"optimiser.{place}"))
    keep_freed_memory(device.type)
    is_due = Due(parts)
    schedule = ScheduleSettings(kind=training.schedule, warmup_fraction=training.warmup_fraction)
    for epoch in range(0 if saved is None else saved.step, training.epochs):
        batches = _epoch(table, videos, seeds, training, batch_size=candidates[0].batch_size, epoch=epoch)
        stack.loss.zero_()
        for step, batch in enumerate(batches):
            at = epoch + step / len(batches)
            factor = schedules.learning_rate_factor(at, epochs=training.epochs, schedule=schedule)
            rows, present, picked = (None if each is None else torch.from_numpy(each).to(device) for each in batch)
            assert rows is not None, "a batch has rows"
            features, positions = table.gather(rows)
            vectors = stack.embed(features, positions, present, training=True).flatten(2, 3)
            outputs = stack.classify(vectors, None if present is None else present.flatten(1), training=True)
            outputs = outputs.reshape(*outputs.shape[:2], *features.shape[1:3], num_outputs)
            losses = clip_losses(outputs, targets[picked], present, kind=training.loss)
            (gradient,) = torch.autograd.grad(losses.sum(), [stack.theta])  # a network's loss moves no other network
            for place, optimiser in enumerate(optimisers):
                own[place].grad = gradient[place]
                optimiser.param_groups[0]["lr"] = candidates[place].lr * factor
                optimiser.step()
            stack.loss += losses.detach() / len(batches)
            on_epochs(epoch + (step + 1) / len(batches))
        if after_epoch is not None:
            after_epoch(stack)
        elif is_due():
            tensors = {f"stack.{key}": each for key, each in stack.state().items()}
            for place, optimiser in enumerate(optimisers):
                states = optimiser_tensors(optimiser)
                tensors |= {f"optimiser.{place}.{key}": each for key, each in states.items()}
            parts.write(name, step=epoch + 1, tensors=tensors, facts={})
    return stack


_Batch = tuple[Indices, npt.NDArray[np.bool_] | None, Indices]


def _epoch(
    table: ClipTable, videos: Indices, seeds: Sequence[int], training: ClipTraining, *, batch_size: int, epoch: int
) -> list[_Batch]:
    """The batches of an epoch.

    Each is rows int64 [S, B, K]; which of them exist, bool [S, B, K], or ``None`` for all; and positions among the
    videos, int64 [S, B].
    """
    counts, first = table.counts[videos], table.first[videos]
    draws = [draw_clips(counts, num_clips=training.num_clips, seed=seed, epoch=epoch) for seed in seeds]
    orders = [epoch_batches(len(videos), batch_size=batch_size, seed=seed, epoch=epoch) for seed in seeds]
    batches = []
    for picked in zip(*orders, strict=True):
        own = list(zip(draws, picked, strict=True))
        present = np.stack([is_there[each] for (_, is_there), each in own])
        rows = np.stack([first[each][:, None] + clips[each] for (clips, _), each in own])
        batches.append((rows, None if present.all() else present, np.stack(picked)))
    return batches


@torch.no_grad()
def iter_outputs(stack: Stack, table: ClipTable, videos: Indices) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Score some videos at a time, with all clips of each video as one set.

    Yields:
        A slice of ``videos``; their mean softmax and their mean outputs, both float32 [C, S, m, O].
    """
    at_once = max(1, CLIPS_AT_ONCE // (len(stack.candidates) * len(stack.seeds)))
    for part, features, positions, present in iter_clips(table, videos, at_once=at_once):
        vectors = stack.embed(features, positions, present, training=False).flatten(2, 3)
        outputs = stack.classify(vectors, None, training=False)
        outputs = outputs.reshape(*outputs.shape[:2], *features.shape[:2], -1)
        yield part, video_means(outputs.softmax(dim=-1), present), video_means(outputs, present)


def iter_clips(
    table: ClipTable, videos: Indices, *, at_once: int
) -> Iterator[tuple[slice, Tensor, Tensor | None, Tensor | None]]:
    """All clips of some videos at a time, about ``at_once`` clips.

    Yields:
        A slice of ``videos``; features [m, K, D]; positions [m, K, P] or ``None``; which clips exist, bool [m, K], or
        ``None`` for all.
    """
    device = table.features.device
    counts = table.counts[videos]
    num_videos = max(1, at_once // int(counts.max()))
    for begin in range(0, len(videos), num_videos):
        part = slice(begin, min(begin + num_videos, len(videos)))
        places = np.arange(counts[part].max())
        is_there = places < counts[part][:, None]
        rows = torch.from_numpy(table.first[videos[part]][:, None] + np.where(is_there, places, 0)).to(device)
        present = None if is_there.all() else torch.from_numpy(is_there).to(device)
        yield (part, *table.gather(rows), present)
