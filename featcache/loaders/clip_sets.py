"""Sets of clips with coordinates from a store as tensors, the only input of methods on clip vectors."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.data.positions import VideoExtents, set_positions
from featcache.errors import ConfigError, NonFiniteFeatureError, StoreError
from featcache.loaders.choice import VECTORS, choose_feature, training_videos, video_splits
from featcache.loaders.residence import fits
from featcache.loaders.settings import ClipSetSettings, Coordinates
from featcache.recipes import PositionForm, recipe_hash
from featcache.seeding import rng_for
from featcache.store.features import Features
from featcache.store.reader import Store, open_store

_LOAD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClipSets:
    """Clips of V videos, N rows in total. Open them with :func:`open_clip_sets`.

    Attributes:
        features: float16 or float32 [N, D], as stored (int8 as float32), grouped by video.
        positions: float32 [N, 6] or [N, 7], on the device of ``features``.
        video_start: int64 [V + 1], first row of each video, then N.
        video_ids: Ids of the videos, by number.
        identity: A value that changes whenever the features could have changed.
    """

    features: Tensor
    positions: Tensor
    video_start: npt.NDArray[np.int64]
    video_ids: tuple[str, ...]
    identity: str

    def __post_init__(self) -> None:
        assert self.features.ndim == 2, f"features {tuple(self.features.shape)} are no vectors"
        assert len(self.features) == len(self.positions) == self.video_start[-1], "rows and positions differ"
        assert len(self.video_start) == len(self.video_ids) + 1, "one first row per video"

    def __repr__(self) -> str:
        shape = list(self.features.shape)
        return f"ClipSets(features={self.features.dtype}{shape}, videos={len(self.video_ids)})"

    def to(self, device: torch.device | str) -> "ClipSets":
        """Move the sets to a device."""
        return ClipSets(
            features=self.features.to(device),
            positions=self.positions.to(device),
            video_start=self.video_start,
            video_ids=self.video_ids,
            identity=self.identity,
        )

    @property
    def num_clips(self) -> npt.NDArray[np.int64]:
        """int64 [V], number of clips of each video."""
        return np.diff(self.video_start)


def open_clip_sets(
    settings: ClipSetSettings, *, form: PositionForm = "box6", store: Store | None = None, only_training: bool = False
) -> ClipSets:
    """Read all clips of a store into CPU memory.

    Args:
        settings: Store, feature and split.
        form: Form of the positions, see :func:`featcache.data.positions.set_positions`.
        store: The store, if it is already open.
        only_training: Read only the videos of ``settings.train_split``.

    Raises:
        ConfigError: The store holds a frame bank, maps, or clips without coordinates.
        NonFiniteFeatureError: Rows hold NaN or infinity.
        StoreError: There are no rows, or shards are still to be extracted.
        UnknownNameError: There is no such feature, split or label column.
    """
    store = store or open_store(settings.store)
    if store.sampling.layout != "clips":
        raise ConfigError(
            f"{store.path} holds a frame bank, and this method learns from sets of clips; extract again with "
            "--preset scale, or with --layout clips"
        )
    splits = video_splits(store, settings.split_column)
    features = store.feature(choose_feature(store, settings.feature, VECTORS), splits=splits, device="disk")
    if not features.num_rows:
        raise StoreError(
            f"no video of {store.path} has rows of {features.name!r}; see `featcache info` for the reasons"
        )
    videos = training_videos(features.video_ids, splits if only_training else {}, settings.train_split)
    start, stop = features.video_start[videos], features.video_start[videos + 1]
    video_start = np.concatenate([[0], np.cumsum(stop - start)]).astype(np.int64)
    rows = np.repeat(start - video_start[:-1], stop - start) + np.arange(video_start[-1])
    positions = store_positions(store, features, rows, form=form)
    values = _load(features, rows, where=str(store.path))
    ids = tuple(features.video_ids[video] for video in videos)
    content = [features.digest(rows), recipe_hash(store.sampling), form]
    content += [f"{video_id}\0{count}" for video_id, count in zip(ids, np.diff(video_start), strict=True)]
    digest = hashlib.sha256("\n".join(content).encode())
    digest.update(positions.tobytes())
    return ClipSets(
        features=values,
        positions=torch.from_numpy(positions),
        video_start=video_start,
        video_ids=ids,
        identity=digest.hexdigest()[:16],
    )


def placed(sets: ClipSets, *, storage: Literal["auto", "device", "ram"], device: torch.device) -> ClipSets:
    """Move the sets to the place that a method's settings choose: to its device, or nowhere."""
    if storage == "ram" or device.type == "cpu":
        return sets
    num_bytes = sets.features.nbytes + sets.positions.nbytes
    return sets.to(device) if storage == "device" or fits(num_bytes, device) else sets


def store_positions(
    store: Store, features: Features, rows: npt.NDArray[np.int64], *, form: PositionForm
) -> npt.NDArray[np.float32]:
    """Positions of rows of a store, float32 [n, 6] or [n, 7]; see :func:`featcache.data.positions.set_positions`.

    Raises:
        ConfigError: The position of a row in its video is unknown.
    """
    records = [store.videos[video_id] for video_id in features.video_ids]
    extents = VideoExtents(
        height=np.array([record.height for record in records], np.float64),
        width=np.array([record.width for record in records], np.float64),
        duration=np.array([record.duration_seconds for record in records], np.float64),
        start=np.array([record.start_seconds for record in records], np.float64),
        is_view=features.is_test,
    )
    table = features.rows.select(rows)
    positions = set_positions(table, form=form, extents=extents)
    lacking = np.flatnonzero(np.isnan(positions).any(axis=1))
    if len(lacking):
        video = int(table.video[lacking[0]])
        has_extent = min(extents.height[video], extents.width[video], extents.duration[video]) > 0
        remedy = (
            "import them with lists t0, t1, y0, x0, y1 and x1, or extract the videos with featcache"
            if has_extent or form == "code7"
            else "give the listing height, width and duration_seconds, or set predictor.position=code7"
        )
        raise ConfigError(
            f"{len(lacking)} of {len(rows)} clips of feature {features.name!r} in {store.path} have no coordinates, "
            f"the first in video {features.video_ids[video]!r}; {remedy}"
        )
    return positions


def _load(features: Features, rows: npt.NDArray[np.int64], *, where: str) -> Tensor:
    """Load the rows as a tensor on the CPU and check that each is finite."""
    is_int8 = features.record.dtype == "int8"
    dtype, wider = (
        (torch.float16, torch.float32) if features.record.dtype == "float16" else (torch.float32, torch.float64)
    )
    values = torch.empty((len(rows), *features.record.shape), dtype=dtype)
    step = max(1, _LOAD_BYTES // features.record.num_bytes)
    for begin in range(0, len(rows), step):
        mine, chunk = rows[begin : begin + step], values[begin : begin + step]
        if is_int8:
            chunk.copy_(torch.from_numpy(features.gather(mine, dequantised=True)))
        else:
            features.gather(mine, out=chunk.numpy())
        bad = (~chunk.sum(dim=1, dtype=wider).isfinite()).nonzero()  # a sum in the wider dtype cannot overflow
        if len(bad):
            video = features.video_ids[features.video_index[mine[int(bad[0])]]]
            raise NonFiniteFeatureError(
                f"feature {features.name!r} in {where} holds NaN or infinity, the first in video {video!r}; extract "
                "this feature again as float32"
            )
    features.close()
    return values


def with_coordinates(sets: ClipSets, kind: Coordinates) -> ClipSets:
    """The sets with true coordinates, with coordinates shuffled once among each video's clips, or with zeros."""
    if kind == "true":
        return sets
    if kind == "zero":
        return dataclasses.replace(sets, positions=torch.zeros_like(sets.positions))
    video = np.repeat(np.arange(len(sets.video_ids)), sets.num_clips)
    order = np.lexsort((rng_for(0, "coordinates").random(len(video)), video))
    return dataclasses.replace(sets, positions=sets.positions[torch.from_numpy(order).to(sets.positions.device)])
