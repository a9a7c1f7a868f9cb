"""Batches of sets of clips: two disjoint sets of each video's clips, some of them masked."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.loaders.clip_sets import ClipSets

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBatch:
    """Two sets of K clips of each of B videos: the first sets of all videos, then the second ones.

    Attributes:
        rows: int64 [2B, K], row of each clip; 0 for padding.
        masked: bool [2B, K], whether a clip is masked.
        present: bool [2B, K], false for padding; ``None`` if every set is full.
        present_at: int64 [N], places of the existing clips in the flat [2B K]; ``None`` if all exist.
        masked_at: int64 [M], places of the masked clips in the flat [2B K].
        positive: int64 [M], places of the masked clips among the existing ones.
        features: [2B, K, D], if the clips are not on the module's device.
        positions: [2B, K, 6 or 7], if the clips are not on the module's device.
    """

    rows: Tensor
    masked: Tensor
    present: Tensor | None
    present_at: Tensor | None
    masked_at: Tensor
    positive: Tensor
    features: Tensor | None = None
    positions: Tensor | None = None

    def each(self, action: Callable[[Tensor], Tensor]) -> "SetBatch":
        """The same batch with ``action`` applied to every tensor."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: action(value) for name, value in given.items() if value is not None})


def draw_sets(
    video_start: Ints,
    videos: Ints,
    *,
    set_size: Ints,
    mask_ratio: float,
    rng: np.random.Generator,
    share: slice = slice(None),
) -> SetBatch:
    """Draw two disjoint sets of clips of each video, and which clips are masked.

    A video's clips are put into random order; the first ``set_size`` are one set, the next ``set_size`` the other. Each
    clip is masked independently, so a set may have no masked clips, or only masked ones.

    Args:
        video_start: int64 [V + 1], first row of each video.
        videos: int64 [B], videos of the batch.
        set_size: int64 [B], number of clips in each of a video's two sets, at least 1 and at most half of its clips.
        mask_ratio: Probability that a clip is masked.
        rng: Random generator of the batch.
        share: The places of the batch whose videos are returned; the draws are those of the whole batch.
    """
    num_clips = (video_start[videos + 1] - video_start[videos])[:, None]
    keys = rng.random((len(videos), int(num_clips.max())), dtype=np.float32)
    keys[np.arange(keys.shape[1]) >= num_clips] = 2.0  # behind all existing clips
    order = keys.argsort(axis=1)
    column = np.arange(int(set_size.max()))
    is_there = np.tile(column < set_size[:, None], (2, 1))
    second = np.minimum(set_size[:, None] + column, order.shape[1] - 1)
    picked = np.concatenate([order[:, : len(column)], np.take_along_axis(order, second, axis=1)])
    rows = np.where(is_there, np.tile(video_start[videos], 2)[:, None] + picked, 0)
    masked = (rng.random(rows.shape, dtype=np.float32) < mask_ratio) & is_there
    rows, masked, is_there = (_shared(each, share) for each in (rows, masked, is_there))
    masked_at = np.flatnonzero(masked)
    is_full = bool(is_there.all())
    return SetBatch(
        rows=torch.from_numpy(rows),
        masked=torch.from_numpy(masked),
        present=None if is_full else torch.from_numpy(is_there),
        present_at=None if is_full else torch.from_numpy(np.flatnonzero(is_there)),
        masked_at=torch.from_numpy(masked_at),
        positive=torch.from_numpy(masked_at if is_full else (np.cumsum(is_there) - 1)[masked_at]),
    )


def draw_sets_there(
    video_start: Ints,
    videos: Ints,
    *,
    set_size: Ints,
    mask_ratio: float,
    generator: torch.Generator,
    share: slice = slice(None),
) -> SetBatch:
    """As :func:`draw_sets`, on the device of ``generator``, whose draws are others than those of another device."""
    device = generator.device
    first, size = (torch.from_numpy(each).to(device) for each in (video_start[videos], set_size))
    num_clips = torch.from_numpy(video_start[videos + 1] - video_start[videos]).to(device)[:, None]
    largest, longest = int(set_size.max()), int(np.diff(video_start)[videos].max())
    keys = torch.rand(len(videos), longest, generator=generator, device=device)
    order = keys.masked_fill_(torch.arange(longest, device=device) >= num_clips, 2.0).argsort(dim=1)
    column = torch.arange(largest, device=device)
    is_there = (column < size[:, None]).tile(2, 1)
    picked = torch.cat([order[:, :largest], order.gather(1, (size[:, None] + column).clamp_(max=longest - 1))])
    rows = torch.where(is_there, first.tile(2)[:, None] + picked, 0)
    masked = (torch.rand(rows.shape, generator=generator, device=device) < mask_ratio) & is_there
    rows, masked, is_there = (torch.cat([half[share] for half in each.chunk(2)]) for each in (rows, masked, is_there))
    is_full = bool((set_size == largest).all())
    (masked_at,) = masked.flatten().nonzero(as_tuple=True)
    return SetBatch(
        rows=rows,
        masked=masked,
        present=None if is_full else is_there,
        present_at=None if is_full else is_there.flatten().nonzero(as_tuple=True)[0],
        masked_at=masked_at,
        positive=masked_at if is_full else (is_there.flatten().cumsum(0) - 1)[masked_at],
    )


def _shared(values: npt.NDArray[Any], share: slice) -> npt.NDArray[Any]:
    """The rows of some videos, of [2B, K]: their first sets, then their second ones."""
    return np.concatenate([half[share] for half in np.split(values, 2)])


def with_clips(part: SetBatch, sets: ClipSets) -> SetBatch:
    """The batch with its vectors and positions, gathered on their device unless it already has them."""
    if part.features is not None:
        return part
    features, positions = (
        table.index_select(0, part.rows.flatten()).view(*part.rows.shape, -1)
        for table in (sets.features, sets.positions)
    )
    return dataclasses.replace(part, features=features, positions=positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsBatch:
    """A batch of each of S seeds.

    Attributes:
        stack: Tensors of all seeds, [S, ...]; lists of clips are padded with 0.
        num_masked: Number of masked clips of each seed.
        num_present: Number of clips of each seed.
    """

    stack: SetBatch
    num_masked: tuple[int, ...]
    num_present: tuple[int, ...]


def join(parts: Sequence[SetBatch]) -> SeedsBatch:
    """Join the batches of several seeds into one, padded to the largest."""
    size = max(part.rows.shape[1] for part in parts)
    is_full = all(part.present is None and part.rows.shape[1] == size for part in parts)
    there = [torch.ones_like(part.masked) if part.present is None else part.present for part in parts]
    present = torch.stack([_widened(each, size) for each in there])
    masked = torch.stack([_widened(part.masked, size) for part in parts])
    return SeedsBatch(
        stack=SetBatch(
            rows=torch.stack([_widened(part.rows, size) for part in parts]),
            masked=masked,
            present=None if is_full else present,
            present_at=None if is_full else _listed([each.flatten().nonzero()[:, 0] for each in present]),
            masked_at=_listed([each.flatten().nonzero()[:, 0] for each in masked]),
            positive=_listed([part.positive for part in parts]),
        ),
        num_masked=tuple(len(part.masked_at) for part in parts),
        num_present=tuple(int(each.sum()) for each in present),
    )


def _widened(values: Tensor, size: int) -> Tensor:
    """Pad [2B, K] with 0 to [2B, ``size``]."""
    return functional.pad(values, (0, size - values.shape[1]))


def _listed(lists: Sequence[Tensor]) -> Tensor:
    """Lists of different lengths as int64 [S, longest], padded with 0."""
    return nn.utils.rnn.pad_sequence(list(lists), batch_first=True)
