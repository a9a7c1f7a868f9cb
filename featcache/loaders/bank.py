"""Clips from a stored frame bank, the only input of methods on dense maps."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.backbones.registry import JOIN
from featcache.errors import ConfigError, StoreError
from featcache.loaders.choice import MAPS, choose_feature, video_splits
from featcache.loaders.maps import ClipMaps, Pooling, StoredMaps
from featcache.loaders.orders import GROUP_BYTES, WINDOW_BYTES, Order, block_order
from featcache.loaders.residence import Residence, chosen
from featcache.loaders.settings import BankSettings, Storage
from featcache.loaders.videos import VideoFiles
from featcache.recipes import recipe_hash
from featcache.store.features import Features
from featcache.store.reader import Store, open_store

_LOAD_BYTES = 64 << 20

Ints = npt.NDArray[np.int64]


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
    num_source_frames: Ints
    bank_stride: int
    shape: tuple[int, int, int]
    identity: str

    @property
    def files(self) -> VideoFiles | None:
        """The videos, if they are decoded when clips are read; ``None`` if rows are stored."""

    def clips(self, videos: Ints, positions: Ints, crops: npt.ArrayLike) -> ClipMaps:
        """Maps of clips.

        Args:
            videos: int64 [B], video numbers.
            positions: int64 [B, T], positions within each video.
            crops: int64 [B], crop of each frame, taken modulo the number of crops.

        Returns:
            Maps [B, T, h, w, C] as they are stored, on the CPU or where they were loaded.
        """

    def ahead(self, videos: Ints, positions: Ints, crops: npt.ArrayLike) -> None:
        """Say which clips will be asked for soon, as in :meth:`clips`, so that a disk can fetch them meanwhile."""

    def order(self, videos: Ints) -> Order | None:
        """How the training videos int64 [A] are put into the order of an epoch; ``None``: by a full shuffle."""

    def num_crops(self, video: int) -> int:
        """Crops of each frame of a video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The rows of each video: ``first`` int64 [V], ``positions`` int64 [V], ``crops`` int64 [V]."""

    first: Ints
    positions: Ints
    crops: Ints

    @property
    def num_rows(self) -> int:
        """Number of rows of all videos."""
        return int((self.positions * self.crops).sum())


class _Rows:
    """Rows of one feature by their numbers in the bank.

    Args:
        features: The feature.
        rows: int64 [rows of the bank], the feature's own numbers; ``None``: the same numbers.
    """

    def __init__(self, features: Features, rows: Ints | None) -> None:
        self._features = features
        self._own = rows
        # on a CPU an array: torch's own indexing would start more threads, which would compete with the training
        self._memory: npt.NDArray[Any] | Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows as they are stored."""
        return self._features.num_rows * self._features.record.num_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as it is stored."""
        return self._features.record.num_bytes

    def load(self, device: torch.device | None) -> None:
        """Read all rows, as they are stored, into memory or onto a device."""
        if device is None:
            memory = np.empty(self._features.shape, self._features.dtype)
            for rows in _portions(self._features.num_rows, row_bytes=self.row_bytes):
                self._features.gather(rows, out=memory[rows[0] : rows[-1] + 1])
            self._memory = memory
        else:
            dtype = torch.from_numpy(np.empty(0, self._features.dtype)).dtype
            self._memory = torch.empty(self._features.shape, dtype=dtype, device=device)
            for rows in _portions(self._features.num_rows, row_bytes=self.row_bytes):
                self._memory[rows[0] : rows[-1] + 1] = torch.from_numpy(self._features.gather(rows)).to(device)
        self.close()

    def close(self) -> None:
        """Unmap the files."""
        self._features.close()

    def read(self, rows: Ints) -> StoredMaps:
        """Maps [..., h, w, C] of rows int64 [...]."""
        mine = self._mine(rows)
        scales = torch.from_numpy(self._features.scales(mine)) if self._features.record.dtype == "int8" else None
        if isinstance(self._memory, Tensor):
            return StoredMaps(values=self._memory[torch.from_numpy(mine).to(self._memory.device)], scales=scales)
        values = self._features.gather(mine) if self._memory is None else self._memory[mine]
        return StoredMaps(values=torch.from_numpy(values), scales=scales)

    def ahead(self, rows: Ints) -> None:
        """Begin to read rows int64 [...] that are not loaded."""
        if self._memory is None:
            self._features.ahead(self._mine(rows))

    def groups(self, rows: Ints) -> Ints:
        """Numbers of the groups of neighbours on the disk to which rows int64 [n] belong."""
        return self._features.groups(self._mine(rows), num_bytes=GROUP_BYTES)

    def _mine(self, rows: Ints) -> Ints:
        """The feature's own numbers of rows."""
        return rows if self._own is None else self._own[rows]


class FrameBank:
    """A stored frame bank; see :class:`ClipSource`. Open it with :func:`open_bank`.

    Attributes:
        features: Names of the arrays, in the order of their channels.
        pooling: Pooling of what is read.
        residence: Where rows are read from.
    """

    def __init__(
        self,
        rows: Sequence[_Rows],
        layout: _Layout,
        *,
        features: tuple[str, ...],
        video_ids: tuple[str, ...],
        bank_stride: int,
        pooling: Pooling,
        storage: Storage,
        shuffle: Literal["full", "block"],
        device: torch.device,
        identity: str,
    ) -> None:
        self._rows = tuple(rows)
        self._layout = layout
        self._shuffle = shuffle
        self.pooling = pooling
        self.features = features
        self.files: VideoFiles | None = None
        self.video_ids = video_ids
        self.num_source_frames = layout.positions * bank_stride
        self.bank_stride = bank_stride
        self.identity = identity
        first = pooling(self._read(np.zeros(1, np.int64))).joined
        height, width, depth = first.shape[1:]
        self.shape = (height, width, depth)
        self._pooled: npt.NDArray[Any] | Tensor | None = None
        num_bytes = sum(each.num_bytes for each in rows) if pooling.is_identity else layout.num_rows * first.nbytes
        video_bytes = layout.num_rows * sum(each.row_bytes for each in rows) / len(video_ids)
        is_faster = shuffle == "full" and 4 * video_bytes < GROUP_BYTES
        self.residence: Residence = chosen(
            storage,
            num_bytes=num_bytes,
            device=device,
            what=f"rows of {' and '.join(features)}",
            advice="; --set bank.shuffle=block would read them nearly in order" if is_faster else "",
        )
        if self.residence in ("device", "ram"):
            self._load(first.dtype, device if self.residence == "device" else None)

    def clips(self, videos: Ints, positions: Ints, crops: npt.ArrayLike) -> ClipMaps:
        """See :meth:`ClipSource.clips`; pooled maps are fp16 or fp32."""
        rows = self._clip_rows(videos, positions, crops)
        if isinstance(self._pooled, Tensor):
            return ClipMaps.of(self._pooled[torch.from_numpy(rows).to(self._pooled.device)])
        if self._pooled is not None:
            return ClipMaps.of(torch.from_numpy(self._pooled[rows]))
        return self.pooling(self._read(rows))

    def ahead(self, videos: Ints, positions: Ints, crops: npt.ArrayLike) -> None:
        """Begin to read clips that are not loaded."""
        if self.residence == "disk":
            rows = self._clip_rows(videos, positions, crops)
            for each in self._rows:
                each.ahead(rows)

    def order(self, videos: Ints) -> Order | None:
        """A block shuffle if the settings choose it; see :func:`featcache.loaders.orders.block_order`."""
        if self._shuffle == "full":
            return None
        groups = self._rows[0].groups(self._layout.first[videos])
        sizes = self._layout.positions[videos] * self._layout.crops[videos] * sum(each.row_bytes for each in self._rows)
        window = max(1, round(WINDOW_BYTES / sizes.mean()))
        return partial(_block_order, groups, window)

    def _clip_rows(self, videos: Ints, positions: Ints, crops: npt.ArrayLike) -> Ints:
        """Rows int64 [B, T] of clips."""
        per_frame = self._layout.crops[videos][:, None]
        crop = np.asarray(crops, np.int64)[:, None] % per_frame
        assert positions.min() >= 0, f"position {positions.min()}"
        assert (positions < self._layout.positions[videos][:, None]).all(), "a position lies behind its video"
        rows: Ints = self._layout.first[videos][:, None] + positions * per_frame + crop
        return rows

    def num_crops(self, video: int) -> int:
        """Crops of each frame of a video."""
        return int(self._layout.crops[video])

    def _read(self, rows: Ints) -> ClipMaps:
        return ClipMaps(tuple(each.read(rows) for each in self._rows))

    def _load(self, dtype: torch.dtype, device: torch.device | None) -> None:
        if self.pooling.is_identity:
            for each in self._rows:
                each.load(device)
            return
        memory = torch.empty((self._layout.num_rows, *self.shape), dtype=dtype, device=device or "cpu")
        for rows in _portions(self._layout.num_rows, row_bytes=sum(each.row_bytes for each in self._rows)):
            memory[rows[0] : rows[-1] + 1] = self.pooling(self._read(rows)).joined
        self._pooled = memory.numpy() if device is None else memory
        for each in self._rows:
            each.close()


def _block_order(groups: Ints, window: int, rng: np.random.Generator) -> Ints:
    return block_order(groups, window=window, rng=rng)


def _portions(num_rows: int, *, row_bytes: int) -> Iterator[Ints]:
    """Consecutive rows, 64 MiB at a time."""
    step = max(1, _LOAD_BYTES // row_bytes)
    for begin in range(0, num_rows, step):
        yield np.arange(begin, min(begin + step, num_rows))


def open_bank(settings: BankSettings, *, store: Store | None = None, device: torch.device | str = "cpu") -> FrameBank:
    """Open a store's frame bank.

    Args:
        settings: Store, features and how they are read.
        store: The store, if it is already open.
        device: Device of the training, onto which ``settings.storage`` may load the rows.

    Raises:
        ConfigError: The store holds clips, or a feature has no maps.
        StoreError: There are no rows, or shards are still to be extracted.
        UnknownNameError: There is no such feature.
    """
    store = store or open_store(settings.store)
    if store.sampling.layout != "frames":
        raise ConfigError(
            f"{store.path} holds clips, and this method draws its own clips from a frame bank; extract again with "
            "--layout frames --output map"
        )
    names = (None,) if settings.feature is None else settings.feature.split(JOIN)
    splits = video_splits(store, settings.split_column)
    features = [
        store.feature(
            choose_feature(store, name, MAPS),
            splits=splits,
            device="mmap" if settings.storage == "mmap" else "disk",
            keep_bytes=2 * WINDOW_BYTES if settings.shuffle == "block" else 0,
        )
        for name in names
    ]
    video_ids, layout, rows = _common_rows(features, store)
    stride = store.sampling.frame_stride
    content = [
        *(
            each.digest(np.arange(each.num_rows) if own is None else own)
            for each, own in zip(features, rows, strict=True)
        ),
        recipe_hash(store.sampling),
        str(settings.grid),
        str(settings.channels),
    ]
    counts = layout.positions * layout.crops
    content += [f"{name}\0{count}" for name, count in zip(video_ids, counts.tolist(), strict=True)]
    return FrameBank(
        [_Rows(each, own) for each, own in zip(features, rows, strict=True)],
        layout,
        features=tuple(each.name for each in features),
        video_ids=video_ids,
        bank_stride=stride,
        pooling=Pooling(grid=settings.grid, channels=settings.channels),
        storage=settings.storage,
        shuffle=settings.shuffle,
        device=torch.device(device),
        identity=hashlib.sha256("\n".join(content).encode()).hexdigest()[:16],
    )


def _common_rows(features: Sequence[Features], store: Store) -> tuple[tuple[str, ...], _Layout, list[Ints | None]]:
    """The videos that all features have, where their rows are in the bank, and the own numbers of each feature's rows.

    Raises:
        StoreError: There are no such videos, or the features have different rows of one.
    """
    first = features[0]
    common = set.intersection(*(set(each.video_ids) for each in features))
    video_ids = tuple(video_id for video_id in first.video_ids if video_id in common)
    if not video_ids:
        named = " and ".join(repr(each.name) for each in features)
        raise StoreError(f"no video of {store.path} has rows of {named}; see `featcache info` for the reasons")
    numbers = [_numbers(each, video_ids) for each in features]
    counts, crops = np.diff(first.video_start)[numbers[0]], first.num_crops[numbers[0]]
    layout = _Layout(first=np.cumsum(counts) - counts, positions=counts // crops, crops=crops)
    rows: list[Ints | None] = []
    for each, mine in zip(features, numbers, strict=True):
        differs = (np.diff(each.video_start)[mine] != counts) | (each.num_crops[mine] != crops)
        if differs.any():
            raise StoreError(
                f"video {video_ids[int(differs.argmax())]!r} of {store.path} has other rows in {each.name!r} than in "
                f"{first.name!r}, because its split changed in between; extract both into another store"
            )
        own = np.repeat(each.video_start[mine] - layout.first, counts) + np.arange(layout.num_rows)
        rows.append(None if np.array_equal(own, np.arange(each.num_rows)) else own)
    return video_ids, layout, rows


def _numbers(features: Features, video_ids: Sequence[str]) -> Ints:
    number = {video_id: place for place, video_id in enumerate(features.video_ids)}
    return np.array([number[video_id] for video_id in video_ids], np.int64)
