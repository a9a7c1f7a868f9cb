"""The input of every export: one feature of a store, its videos with their status, and the rows of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.types import VideoRecord
from featcache.errors import ExchangeError, unknown_name
from featcache.exchange.settings import ExportSettings
from featcache.recipes import RecordSpec, SamplingRecipe, to_dict
from featcache.store.features import Features
from featcache.store.reader import Store
from featcache.store.rows import RowTable

Step = Callable[[int, int], None]

DEQUANTISED = "int8 values times their scales, as float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One feature to export.

    Attributes:
        features: The rows of the feature.
        videos: The selected videos in the store's order, each with its status in this feature.
        places: First row and end (exclusive) of the videos that have rows.
        table: Box and times of each row.
        record: Shape, axes and dtype of a row as it is written: int8 is exported as float32.
        sampling: The store's sampling recipe.
        recipe: Contents for :func:`featcache.exchange.listing.write_recipe`.
    """

    features: Features
    videos: tuple[VideoRecord, ...]
    places: dict[str, tuple[int, int]]
    table: RowTable
    record: RecordSpec
    sampling: SamplingRecipe
    recipe: dict[str, Any]

    @property
    def total_rows(self) -> int:
        """Number of rows of the selected videos."""
        return sum(last - first for first, last in self.places.values())

    def num_rows(self, video_id: str) -> int:
        """Number of rows of a video; 0 for a failed one."""
        first, last = self.places.get(video_id, (0, 0))
        return last - first

    def values(self, video_id: str) -> npt.NDArray[Any]:
        """All rows of a video, [n, *record]."""
        rows = np.arange(*self.places[video_id])
        return self.features.gather(rows, dequantised=self.features.record.dtype == "int8")

    def rows_of(self, video_id: str) -> RowTable:
        """The row table of a video; empty for a failed one."""
        return self.table.select(slice(*self.places.get(video_id, (0, 0))))

    def chunks(self, num_bytes: int) -> Iterator["Chunk"]:
        """Every row in order, in chunks of at most ``num_bytes`` of features, or one row."""
        most = max(1, num_bytes // self.record.num_bytes)
        videos: list[VideoRecord] = []
        rows: list[npt.NDArray[np.int64]] = []
        room = most
        for video in self.videos:
            first, last = self.places.get(video.id, (0, 0))
            while first < last:
                taken = min(room, last - first)
                videos.append(video)
                rows.append(np.arange(first, first + taken))
                first, room = first + taken, room - taken
                if not room:
                    yield self._chunk(videos, rows)
                    videos, rows, room = [], [], most
        if videos:
            yield self._chunk(videos, rows)

    def _chunk(self, videos: list[VideoRecord], rows: list[npt.NDArray[np.int64]]) -> "Chunk":
        index = np.concatenate(rows)
        values = self.features.gather(index, dequantised=self.features.record.dtype == "int8")
        return Chunk(videos=tuple(videos), counts=tuple(map(len, rows)), table=self.table.select(index), values=values)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive rows of an export.

    Attributes:
        videos: Videos of the rows, in order.
        counts: Number of rows of each video in this chunk.
        table: Box and times of the rows.
        values: [sum(counts), *record].
    """

    videos: tuple[VideoRecord, ...]
    counts: tuple[int, ...]
    table: RowTable
    values: npt.NDArray[Any]


def choose(store: Store, settings: ExportSettings) -> Outgoing:
    """Choose the feature and videos that settings name.

    Raises:
        UnknownNameError: There is no such feature, split or video.
        StoreError: Shards are still to be extracted.
        ExchangeError: No video is left.
    """
    features = store.feature(settings.feature)
    wanted = set(store.video_ids(split=settings.split))
    if settings.videos is not None:
        if strangers := [name for name in settings.videos if name not in wanted]:
            raise unknown_name("video", strangers[0], wanted)
        wanted = set(settings.videos)
    failures = {failure.id: failure for failure in store.coverage(features.name).failures}
    videos = []
    for video in store.videos.values():
        if video.id in wanted:
            failure = failures.get(video.id)
            status, reason = (failure.status, failure.reason) if failure else ("ok", "")
            videos.append(replace(video, status=status, reason=reason))
    if not videos:
        raise ExchangeError(f"{store.path} has no video to export; check --split and --video")
    start = features.video_start.tolist()
    places = {
        name: (start[number], start[number + 1]) for number, name in enumerate(features.video_ids) if name in wanted
    }
    is_int8 = features.record.dtype == "int8"
    record = replace(features.record, dtype="float32") if is_int8 else features.record
    plan = store.generations[-1].plan
    recipe = {
        "feature": {
            "name": features.name,
            **to_dict(replace(features.recipe, precision=record.dtype)),
            "axes": list(record.axes),
        },
        "sampling": to_dict(store.sampling),
        "plan": {"encode_batch": plan.encode_batch, "threads": plan.threads},
        **({"note": DEQUANTISED} if is_int8 else {}),
    }
    return Outgoing(
        features=features,
        videos=tuple(videos),
        places=places,
        table=features.rows,
        record=record,
        sampling=store.sampling,
        recipe=recipe,
    )
