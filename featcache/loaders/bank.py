"""Clips from a stored frame bank as tensors, the only input of methods on dense maps."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from featcache.backbones.outputs import pool_channels, pool_space
from featcache.errors import ConfigError, StoreError
from featcache.loaders.choice import MAPS, choose_feature
from featcache.loaders.settings import BankSettings
from featcache.recipes import recipe_hash
from featcache.store.features import Features
from featcache.store.reader import Store, open_store

_LOAD_BYTES = 64 << 20
_RAM_SHARE = 0.5


class ClipSource(Protocol):
    """A source of clips of dense maps: a stored bank, or a backbone in the training loop.

    Attributes:
        video_ids: Ids of the videos, by number.
        num_source_frames: int64 [V], number of frames of each video at which a clip may start, after which it wraps.
        bank_stride: Number of source frames per position.
        shape: ``(h, w, C)`` of a map.
        identity: A value that changes whenever the maps could have changed.
    """

    video_ids: tuple[str, ...]
    num_source_frames: npt.NDArray[np.int64]
    bank_stride: int
    shape: tuple[int, int, int]
    identity: str

    def clips(self, videos: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], crops: npt.ArrayLike) -> Tensor:
        """Maps of clips.

        Args:
            videos: int64 [B], video numbers.
            positions: int64 [B, T], positions within each video.
            crops: int64 [B], crop of each frame, taken modulo the number of crops.

        Returns:
            A floating tensor [B, T, h, w, C] on CPU.
        """

    def num_crops(self, video: int) -> int:
        """Crops of each frame of a video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The rows of each video: ``first`` int64 [V], ``positions`` int64 [V], ``crops`` int64 [V]."""

    first: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    crops: npt.NDArray[np.int64]


class FrameBank:
    """A stored frame bank; see :class:`ClipSource`. Open it with :func:`open_bank`.

    Attributes:
        feature: Name of the array.
    """

    def __init__(
        self,
        features: Features,
        layout: _Layout,
        *,
        num_source_frames: npt.NDArray[np.int64],
        bank_stride: int,
        grid: int | None,
        channels: int | None,
        in_memory: bool,
        identity: str,
    ) -> None:
        self._features = features
        self._layout = layout
        self._grid, self._channels = grid, channels
        self.feature = features.name
        self.video_ids = features.video_ids
        self.num_source_frames = num_source_frames
        self.bank_stride = bank_stride
        self.identity = identity
        height, width, depth = self.pooled(self._read(np.zeros(1, np.int64))).shape[1:]
        self.shape = (height, width, depth)
        # an array: torch's own indexing would start more threads, which would compete with the training
        self._memory = self._load().numpy() if in_memory else None

    @property
    def is_in_memory(self) -> bool:
        """Whether all rows were loaded when it was opened."""
        return self._memory is not None

    def clips(self, videos: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], crops: npt.ArrayLike) -> Tensor:
        """See :meth:`ClipSource.clips`; fp16 or fp32, as stored."""
        per_frame = self._layout.crops[videos][:, None]
        crop = np.asarray(crops, np.int64)[:, None] % per_frame
        assert positions.min() >= 0, f"position {positions.min()}"
        assert (positions < self._layout.positions[videos][:, None]).all(), "a position lies behind its video"
        rows = self._layout.first[videos][:, None] + positions * per_frame + crop
        if self._memory is not None:
            values = torch.from_numpy(self._memory[rows.reshape(-1)])
        else:
            values = self.pooled(self._read(rows.reshape(-1)))
        return values.reshape(*rows.shape, *self.shape)

    def num_crops(self, video: int) -> int:
        """Crops of each frame of a video."""
        return int(self._layout.crops[video])

    def pooled(self, values: Tensor) -> Tensor:
        """Pool stored rows for :meth:`clips`: SFU, channels first, then space, equal to pooling before storing (§3.2).

        Args:
            values: Floating [n, h, w, C] as stored.
        """
        if self._channels is not None:
            values = pool_channels(values, self._channels)
        return values if self._grid is None else pool_space(values, self._grid)

    def _read(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._features.gather(rows, dequantised=self._features.record.dtype == "int8"))

    def _load(self) -> Tensor:
        num_rows = self._features.num_rows
        step = max(1, _LOAD_BYTES // self._features.record.num_bytes)
        first = self.pooled(self._read(np.arange(min(1, num_rows))))
        memory = torch.empty((num_rows, *self.shape), dtype=first.dtype)
        for begin in range(0, num_rows, step):
            rows = np.arange(begin, min(begin + step, num_rows))
            memory[begin : begin + len(rows)] = self.pooled(self._read(rows))
        self._features.close()
        return memory


def open_bank(settings: BankSettings, *, store: Store | None = None) -> FrameBank:
    """Open a store's frame bank.

    Raises:
        ConfigError: The store holds clips, or the feature has no maps.
        StoreError: There are no rows, or shards are still to be extracted.
        UnknownNameError: There is no such feature.
    """
    store = store or open_store(Path(settings.store))
    if store.sampling.layout != "frames":
        raise ConfigError(
            f"{store.path} holds clips, and this method draws its own clips from a frame bank; extract again with "
            "--layout frames --output map"
        )
    features = store.feature(choose_feature(store, settings.feature, MAPS))
    if not features.num_rows:
        raise StoreError(
            f"no video of {store.path} has rows of {features.name!r}; see `featcache info` for the reasons"
        )
    rows = np.diff(features.video_start)
    crops = features.num_crops
    stride = store.sampling.frame_stride
    positions = rows // crops
    share = 1.0
    if settings.grid is not None:
        share *= settings.grid**2 / (features.record.shape[0] * features.record.shape[1])
    if settings.channels is not None:
        share *= settings.channels / features.record.shape[2]
    itemsize = 4 if features.record.dtype == "int8" else features.record.itemsize
    num_bytes = int(features.num_rows * np.prod(features.record.shape) * itemsize * share)
    in_memory = settings.storage == "ram" or (
        settings.storage == "auto" and num_bytes < _RAM_SHARE * psutil.virtual_memory().available
    )
    content = [features.digest(np.arange(features.num_rows)), recipe_hash(store.sampling)]
    content += [str(settings.grid), str(settings.channels)]
    content += [f"{name}\0{count}" for name, count in zip(features.video_ids, rows, strict=True)]
    return FrameBank(
        features,
        _Layout(first=features.video_start[:-1], positions=positions, crops=crops),
        num_source_frames=positions * stride,
        bank_stride=stride,
        grid=settings.grid,
        channels=settings.channels,
        in_memory=in_memory,
        identity=hashlib.sha256("\n".join(content).encode()).hexdigest()[:16],
    )
