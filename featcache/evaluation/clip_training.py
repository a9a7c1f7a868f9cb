"""Classifiers on the clips of videos, shared by ``mlp``, ``transformer``, ``scale-linear`` and ``scale-ft``.

An embedder turns the clips of a video into vectors, separately or depending on the other clips; a linear layer
classifies each vector. Training draws some clips of each video anew each epoch (as SCALE's probes do); at test time all
clips of a video form one set and their softmax is averaged. All rows stay on the device; a batch is one gather by
index.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.evaluation.data import ProbeData
from featcache.evaluation.grid import epoch_batches, initial_weight
from featcache.evaluation.settings import Candidate, ClipLoss, ClipTraining
from featcache.loaders.clip_sets import ClipSets, with_coordinates
from featcache.loaders.settings import Coordinates
from featcache.recipes import PositionForm
from featcache.seeding import rng_for
from featcache.training import schedules
from featcache.training.generators import seeded_torch
from featcache.training.optimisers import build_optimiser
from featcache.training.settings import OptimiserSettings, ScheduleSettings

Indices = npt.NDArray[np.int64]
CLIPS_AT_ONCE = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """The part of a probe before its linear layer.

    Attributes:
        make: Builds the embedder of a seed, a module from features float32 [B, K, D], positions float32 [B, K, P] (or
            ``None``) and ``present`` bool [B, K] (``None``: all) to float32 [B, K, ``width``].
        width: Number of channels of an embedded clip.
        form: Form of the positions that it uses; ``None``: none.
        coordinates: Kind of coordinates: the kind that its predictor was trained with.
        is_frozen: Whether the embedder is frozen, in eval mode, so that a whole grid shares its output.
    """

    make: Callable[[int], nn.Module]
    width: int
    form: PositionForm | None = None
    coordinates: Coordinates = "true"
    is_frozen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTable:
    """All rows on the device.

    Attributes:
        features: float32 [N, D].
        positions: float32 [N, P], or ``None``.
        first: int64 [M], first row of each video.
        counts: int64 [M], number of rows of each video.
    """

    features: Tensor
    positions: Tensor | None
    first: Indices
    counts: Indices

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [B, K, D] and positions [B, K, P] of rows int64 [B, K]."""
        return self.features[rows], None if self.positions is None else self.positions[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """An embedder and H linear layers on it, or a single one if the embedder is trained.

    Attributes:
        embed: The embedder, see :class:`Embedding`.
        heads: Linear layers, with a BatchNorm before them if requested.
        loss: float32 [H] on CPU, mean training loss of each layer over the last epoch.
    """

    embed: nn.Module
    heads: nn.ModuleList
    loss: Tensor


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


def clip_loss(
    outputs: Tensor, targets: Tensor, present: Tensor | None, *, kind: ClipLoss, shape: tuple[int, int]
) -> Tensor:
    """Loss of a batch.

    Args:
        outputs: float32 [R, C], outputs for the existing clips, video by video.
        targets: int64 [B] classes, or floating [B] numbers (then C is 1).
        present: bool [B, K], which clips exist; ``None``: all.
        kind: Kind of loss, see :class:`featcache.evaluation.settings.ClipTraining`.
        shape: (B, K).
    """
    if targets.is_floating_point():
        if kind == "per_clip":
            return functional.mse_loss(outputs[:, 0], _by_clip(targets, present, shape))
        return functional.mse_loss(video_means(outputs, present, shape=shape)[:, 0], targets)
    if kind == "per_clip":
        return functional.cross_entropy(outputs, _by_clip(targets, present, shape))
    if kind == "mean_logits":
        return functional.cross_entropy(video_means(outputs, present, shape=shape), targets)
    mean = video_means(outputs.softmax(dim=1), present, shape=shape)
    return functional.nll_loss(mean.clamp_min(torch.finfo(mean.dtype).tiny).log(), targets)


def video_means(values: Tensor, present: Tensor | None, *, shape: tuple[int, int]) -> Tensor:
    """Mean over the clips of each video: float32 [R, C] -> [B, C], where R is the number of existing clips."""
    if present is None:
        return values.view(*shape, -1).mean(dim=1)
    padded = values.new_zeros(*shape, values.shape[1])
    padded[present] = values
    return padded.sum(dim=1) / present.sum(dim=1, keepdim=True)


def train_net(
    embedding: Embedding,
    table: ClipTable,
    videos: Indices,
    targets: Tensor,
    candidates: Sequence[Candidate],
    training: ClipTraining,
    *,
    num_outputs: int,
    seed: int,
    after_epoch: Callable[[Net], None] | None = None,
) -> Net:
    """Train one linear layer per candidate, and with it the embedder unless that is frozen.

    Args:
        embedding: The part before the linear layers.
        table: All rows.
        videos: int64 [A], the training videos.
        targets: int64 [A] classes or float32 [A] numbers, on the device.
        candidates: Settings with the same batch size; only one unless the embedder is frozen.
        training: Settings that the candidates share.
        num_outputs: Number of outputs C.
        seed: Seed of initial weights, batches, clips and dropout.
        after_epoch: Called with the net, in eval mode, after each epoch.
    """
    assert embedding.is_frozen or len(candidates) == 1, "a trained embedder belongs to one candidate"
    device = table.features.device
    with seeded_torch(seed, "probe-init", device=device):
        embed = embedding.make(seed).to(device)
        embed.requires_grad_(not embedding.is_frozen)
        weight = initial_weight(embedding.width, num_outputs, seed=seed).T
        heads = nn.ModuleList(make_head(weight, batch_norm=each.batch_norm) for each in candidates).to(device)
    optimisers = [
        build_optimiser(
            nn.ModuleList([embed, head]),
            OptimiserSettings(
                name=each.optimizer,
                lr=each.lr,
                weight_decay=each.weight_decay,
                decay_all=True,
                momentum=training.momentum,
            ),
            lr=each.lr,
        )
        for each, head in zip(candidates, heads, strict=True)
    ]
    schedule = ScheduleSettings(kind=training.schedule, warmup_fraction=training.warmup_fraction)
    net = Net(embed=embed, heads=heads, loss=torch.zeros(len(heads), device=device))
    counts = table.counts[videos]
    with seeded_torch(seed, "probe-dropout", device=device):
        for epoch in range(training.epochs):
            clips, is_there = draw_clips(counts, num_clips=training.num_clips, seed=seed, epoch=epoch)
            rows = torch.from_numpy(table.first[videos][:, None] + clips).to(device)
            present = None if is_there.all() else torch.from_numpy(is_there).to(device)
            batches = epoch_batches(len(videos), batch_size=candidates[0].batch_size, seed=seed, epoch=epoch)
            net.loss.zero_()
            embed.train(not embedding.is_frozen)
            heads.train()
            for step, batch in enumerate(batches):
                picked = torch.from_numpy(batch).to(device)
                mask = None if present is None else present[picked]
                with torch.set_grad_enabled(not embedding.is_frozen):
                    vectors = _embedded(embed, table, rows[picked], mask)
                factor = schedules.learning_rate_factor(
                    epoch + step / len(batches), epochs=training.epochs, schedule=schedule
                )
                shape = (len(batch), rows.shape[1])
                for place, (head, optimiser) in enumerate(zip(heads, optimisers, strict=True)):
                    for group in optimiser.param_groups:
                        group["lr"] = candidates[place].lr * factor
                    loss = clip_loss(head(vectors), targets[picked], mask, kind=training.loss, shape=shape)
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    net.loss[place] += loss.detach() / len(batches)
            embed.eval()
            heads.eval()
            if after_epoch is not None:
                after_epoch(net)
    return Net(embed=embed, heads=heads, loss=net.loss.cpu())


def iter_outputs(net: Net, table: ClipTable, videos: Indices) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Score some videos at a time, with all clips of each video as one set.

    Yields:
        A slice of ``videos``; their mean softmax and their mean logits, both float32 [H, m, C].
    """
    for part, vectors, present in iter_sets(net.embed, table, videos):
        with torch.no_grad():
            logits = [head(vectors) for head in net.heads]
        size = part.stop - part.start
        shape = (size, len(vectors) // size if present is None else present.shape[1])
        yield (
            part,
            torch.stack([video_means(each.softmax(dim=1), present, shape=shape) for each in logits]),
            torch.stack([video_means(each, present, shape=shape) for each in logits]),
        )


@torch.no_grad()
def iter_sets(embed: nn.Module, table: ClipTable, videos: Indices) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Embed some videos at a time, with all clips of each video as one set.

    Yields:
        A slice of ``videos``; vectors of their clips float32 [R, E], video by video in the order of the rows; which
        places of the padded sets are filled, bool [m, K], or ``None`` for all.
    """
    counts = table.counts[videos]
    at_once = max(1, CLIPS_AT_ONCE // int(counts.max()))
    for begin in range(0, len(videos), at_once):
        part = slice(begin, min(begin + at_once, len(videos)))
        places = np.arange(counts[part].max())
        is_there = places < counts[part][:, None]
        rows = torch.from_numpy(table.first[videos[part]][:, None] + np.where(is_there, places, 0))
        present = None if is_there.all() else torch.from_numpy(is_there).to(table.features.device)
        yield part, _embedded(embed, table, rows.to(table.features.device), present), present


def make_head(weight: Tensor, *, batch_norm: bool) -> nn.Sequential:
    """A linear layer with initial weights ``weight`` [C, E] and zero biases, after a BatchNorm if requested."""
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.zero_()
    norm = [nn.BatchNorm1d(weight.shape[1], affine=False)] if batch_norm else []
    return nn.Sequential(*norm, linear)


def _embedded(embed: nn.Module, table: ClipTable, rows: Tensor, present: Tensor | None) -> Tensor:
    """Vectors of the existing clips, float32 [R, E], video by video."""
    features, positions = table.gather(rows)
    vectors: Tensor = embed(features, positions, present)
    return vectors.flatten(0, 1) if present is None else vectors[present]


def _by_clip(targets: Tensor, present: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """Repeat the target of each video for its existing clips: [B] -> [R]."""
    spread = targets[:, None].expand(shape)
    return spread.reshape(-1) if present is None else spread[present]
