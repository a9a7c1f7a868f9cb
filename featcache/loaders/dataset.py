"""Stored features as a torch dataset, or as one tensor on a device."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from featcache.errors import ManifestError, unknown_name
from featcache.store.features import Features

BYTES_AT_ONCE = 64 << 20


class FeatureDataset(Dataset[tuple[Tensor, int]]):
    """Rows, or videos, of a feature with their class. Build it with :func:`torch_dataset`.

    Safe with ``DataLoader`` workers, forked or spawned. A batch of rows is one gather.

    Attributes:
        features: Feature from which rows are read.
        classes: Sorted class names; a label is an index into them.
        video_ids: Ids of videos with a label and rows, in row order.
        missing: Ids of videos with a label but no rows, because they failed.
    """

    def __init__(
        self, features: Features, labels: Mapping[str, str], *, classes: Sequence[str], by: Literal["row", "video"]
    ) -> None:
        chosen = [number for number, video_id in enumerate(features.video_ids) if video_id in labels]
        index = {name: place for place, name in enumerate(classes)}
        start = features.video_start
        self.features = features
        self.classes = tuple(classes)
        self.video_ids = tuple(features.video_ids[number] for number in chosen)
        self.missing = tuple(sorted(set(labels) - set(self.video_ids)))
        self._rows = [np.arange(start[number], start[number + 1]) for number in chosen]
        self._labels = [index[labels[video_id]] for video_id in self.video_ids]
        if by == "row":
            self._labels = np.repeat(self._labels, [len(rows) for rows in self._rows]).tolist()
            self._rows = np.split(np.concatenate(self._rows), len(self._labels))
        self._by = by

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Float32 [*record] of a row, or [rows, *record] of a video, and its label."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """All items of a batch in one gather, as ``DataLoader`` requests them."""
        parts = [self._rows[index] for index in indices]
        values = torch.from_numpy(self.features.gather(np.concatenate(parts), dequantised=True))
        items = torch.split(values, [len(part) for part in parts])
        return [
            (item[0] if self._by == "row" else item, self._labels[index])
            for item, index in zip(items, indices, strict=True)
        ]


def torch_dataset(
    features: Features,
    labels: Mapping[str, str],
    *,
    classes: Sequence[str] | None = None,
    by: Literal["row", "video"] = "row",
) -> FeatureDataset:
    """A map-style dataset over the labelled rows or videos of a feature.

    Args:
        features: From ``store.feature(...)``.
        labels: Video id to class name, e.g. ``store.labels(split="train")``; videos that failed have no rows and are
            listed in ``missing``.
        classes: Class names in index order; ``None``: those of ``labels``, sorted. Give the training set's for a test
            set.
        by: ``row``: an item is one row. ``video``: all rows of a video (batches then need a ``collate_fn``, unless
            all videos have equally many).

    Raises:
        UnknownNameError: A label is not among ``classes``.
        ManifestError: No labelled video has rows.
    """
    names = sorted(set(labels.values())) if classes is None else list(classes)
    if strangers := sorted(set(labels.values()) - set(names)):
        raise unknown_name("class", strangers[0], names, hint="Leave its videos out, or add it to the classes.")
    if not any(video_id in labels for video_id in features.video_ids):
        raise ManifestError(
            f"none of the {len(labels)} labelled videos has rows of {features.name!r}; see its coverage"
        )
    return FeatureDataset(features, labels, classes=names, by=by)


def to_device(features: Features, device: str | torch.device, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Load all rows as one tensor [num_rows, *record], so that a batch is one index.

    Args:
        features: From ``store.feature(...)``; pooled features fit, dense ones rarely do.
        device: Device of the tensor, e.g. ``cuda``.
        dtype: A floating dtype; int8 features are first multiplied by their scales, on the device.
    """
    table = torch.empty(features.shape, dtype=dtype, device=device)
    step = max(1, BYTES_AT_ONCE // features.record.num_bytes)
    for first in range(0, features.num_rows, step):
        rows = np.arange(first, min(first + step, features.num_rows))
        values = torch.from_numpy(features.gather(rows)).to(device)  # int8 travels as it is stored
        if features.record.dtype == "int8":
            scales = torch.from_numpy(features.scales(rows)).to(device)
            values = values * scales.view(len(rows), *[1] * (values.ndim - 2), -1)
        table[first : first + len(rows)] = values.to(dtype)
    return table
