"""Notes about videos that are nearly identical: groups, and near-duplicates if no groups are known."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from featcache.evaluation.data import ProbeData

NEARLY_EQUAL = 0.99
"""Cosine of two videos' centred mean vectors from which they count as near-duplicates."""
_SIMILARITIES_AT_ONCE = 1 << 24

Videos = npt.NDArray[np.int64]


def about_groups(
    data: ProbeData, train: Videos, splits: Mapping[str, Videos], *, leaves_groups_out: bool, device: str
) -> list[str]:
    """Sentences for the readers of a result.

    With groups: the number of groups of each split, and the number of groups on both sides of the store's own splits.
    Without groups: the number of a split's videos that have a near-duplicate among the training videos, by the cosine
    of mean vectors or by the bytes of the files.

    Args:
        data: Features and labels.
        train: int64 [A], training videos.
        splits: int64 indices of the scored videos, by split.
        leaves_groups_out: Whether no training video of its own group helps to score a video.
        device: Device on which cosines are computed.
    """
    notes = []
    for split, videos in splits.items():
        if data.groups is None:
            notes += _near_duplicates(data, train, videos, split=split, device=device)
            continue
        mine = np.unique(data.groups[videos])
        notes.append(
            f"intervals of {split!r} are over {len(mine)} groups of column {data.group_column!r}, not over "
            f"{len(videos)} videos"
        )
        shared = np.intersect1d(mine, data.groups[train])
        if len(shared) and not np.array_equal(train, videos):
            meaning = "the figure may tell how well a recording is recognised"
            if leaves_groups_out:
                meaning = "a video is scored without the training videos of its own group"
            notes.append(f"{len(shared)} groups have videos in the training split and in {split!r}: {meaning}")
    return notes


def _near_duplicates(data: ProbeData, train: Videos, videos: Videos, *, split: str, device: str) -> list[str]:
    twin = nearest_twin(data, train, videos, device=device)
    found = np.flatnonzero(twin >= 0)
    if not len(found):
        return []
    first = found[0]
    others = "other videos" if np.array_equal(train, videos) else "training videos"
    same = ""
    if data.contents:
        equal = sum(data.contents[videos[place]] == data.contents[twin[place]] != "" for place in found)
        same = f", {equal} of them the same file" if equal else ""
    return [
        f"{len(found)} of {len(videos)} videos of {split!r} have a near-duplicate among the {others} (cosine at least "
        f"{NEARLY_EQUAL}{same}), e.g. {data.videos[videos[first]]!r} and {data.videos[twin[first]]!r}: the figure may "
        "be too high; list the videos with a column `group` that names what belongs together"
    ]


def nearest_twin(data: ProbeData, train: Videos, videos: Videos, *, device: str) -> Videos:
    """Find a near-duplicate of each video among the training videos, or -1.

    Args:
        data: Features.
        train: int64 [A], sorted.
        videos: int64 [B], sorted.
        device: Device on which cosines are computed.

    Returns:
        int64 [B], a video of ``train`` other than the video itself, with the same bytes or with a cosine of at least
        :data:`NEARLY_EQUAL` between mean vectors, after the mean of the training videos is subtracted from both.
    """
    twin = np.full(len(videos), -1, np.int64)
    means = data.video_means(train)
    center = means.mean(axis=0, dtype=np.float64)
    bank = torch.from_numpy(_unit(means - center)).to(device)
    queries = torch.from_numpy(_unit(data.video_means(videos) - center)).to(device)
    owners = torch.from_numpy(train).to(device)
    chunk = max(1, _SIMILARITIES_AT_ONCE // len(train))
    for begin in range(0, len(videos), chunk):
        own = torch.from_numpy(videos[begin : begin + chunk]).to(device)
        cosine = queries[begin : begin + chunk] @ bank.T
        cosine.masked_fill_(own[:, None] == owners, -torch.inf)
        best, place = cosine.max(dim=1)
        near = (best >= NEARLY_EQUAL).cpu().numpy()
        twin[begin : begin + chunk][near] = train[place.cpu().numpy()[near]]
    if data.contents:
        by_content: dict[str, list[int]] = {}
        for video in train.tolist():
            by_content.setdefault(data.contents[video], []).append(video)
        for position, video in enumerate(videos.tolist()):
            copies = [other for other in by_content.get(data.contents[video], []) if other != video]
            if copies and data.contents[video]:
                twin[position] = copies[0]
    return twin


def _unit(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Unit vectors; zero vectors stay zero."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit
