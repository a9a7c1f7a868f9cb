"""Clustered features whose answers are known."""

import numpy as np

from featcache.evaluation.data import ProbeData, make_data


def clusters(
    *, num_videos=48, num_classes=4, num_rows=3, num_channels=16, noise=1.0, seed=0, splits=("train", "test")
) -> ProbeData:
    """Rows scattered around one centre a class; splits are dealt in turn within each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_videos) % num_classes
    owner = np.repeat(np.arange(num_videos), num_rows)
    centres = rng.normal(size=(num_classes, num_channels))
    return make_data(
        centres[labels][owner] + noise * rng.normal(size=(len(owner), num_channels)),
        row_video=owner,
        videos=[f"video{index:03d}" for index in range(num_videos)],
        labels=[f"class{label}" for label in labels],
        splits=[splits[index // num_classes % len(splits)] for index in range(num_videos)] if splits else None,
    )
