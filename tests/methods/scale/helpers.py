"""Clips in memory whose vectors tell where in their video they lie."""

import numpy as np
import torch

from featcache.loaders.clip_sets import ClipSets


def located_sets(num_videos, *, counts=None, width=12):
    """A vector of each video plus a fixed map of the clip's position, so that a hidden clip can be told."""
    generator = torch.Generator().manual_seed(0)
    counts = np.full(num_videos, 16) if counts is None else np.asarray(counts)
    video = torch.from_numpy(np.repeat(np.arange(num_videos), counts))
    positions = torch.rand(len(video), 6, generator=generator)
    of_video = torch.randn(num_videos, width, generator=generator)
    features = of_video[video] + positions @ torch.randn(6, width, generator=generator)
    return ClipSets(
        features=features.half(),
        positions=positions,
        video_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        video_ids=tuple(f"v{number:03d}" for number in range(num_videos)),
        identity="memory",
    )
