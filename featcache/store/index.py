"""The reader's row index: the file and offset of every row of a feature, from plans and commit records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.recipes import SamplingRecipe
from featcache.store.completion import read_records
from featcache.store.generation import (
    Generation,
    data_name,
    ranges,
    segment_failures,
    shard_layout,
)
from featcache.store.paths import FileFormat
from featcache.store.precision import Scale
from featcache.store.schema import CommitDoc, FeatureDoc

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


READ_BYTES = 512 << 10
"""Neighbouring blocks that are wanted together are read at once up to this size."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Committed:
    """Commit records of a feature in one generation, and the state of its segments.

    Attributes:
        generation: The generation.
        records: Valid records by shard; a shard without a record is pending.
        segment_done: bool [segments], whether the segment's shard is committed.
        segment_ok: bool [segments], whether the segment's rows are present.
        video_ok: bool [videos], whether the rows of all segments of the video are present.
        video_pending: bool [videos], whether some segment of the video is not in a committed shard.
    """

    generation: Generation
    records: dict[int, CommitDoc]
    segment_done: Mask
    segment_ok: Mask
    video_ok: Mask
    video_pending: Mask


def read_committed(generation: Generation, feature: FeatureDoc) -> Committed:
    """Read and check all commit records of a feature in one generation.

    Raises:
        CorruptStoreError: A record is damaged, or lost from a feature that was complete.
    """
    records = read_records(generation, feature)
    segments = generation.segment_columns
    done_shards = np.zeros(generation.num_shards, bool)
    done_shards[list(records)] = True
    done: Mask = done_shards[segments["shard"]]
    ok = done.copy()
    for shard, record in records.items():
        if record.failed:
            ok[generation.shard_slice(shard)] = ~segment_failures(generation, record)
    num_videos = len(generation.video_ids)
    pending = np.zeros(num_videos, bool)
    pending[segments["video"][~done]] = True
    video_ok = np.zeros(num_videos, bool)
    video_ok[segments["video"]] = True
    video_ok[segments["video"][~ok]] = False
    return Committed(
        generation=generation,
        records=records,
        segment_done=done,
        segment_ok=ok,
        video_ok=video_ok,
        video_pending=pending,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardFile:
    """A data file as a reader needs it.

    Attributes:
        name: Its name among the files of the store.
        num_bytes: Recorded size.
        first_block: Number of its first block among all blocks of the feature.
        scale: float32 [C] for int8, otherwise ``None``.
        committed: The commit records to which its record and layout belong.
        shard: Shard number.
    """

    name: str
    num_bytes: int
    first_block: int
    scale: Scale | None
    committed: Committed
    shard: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowIndex:
    """The place of every visible row of a feature. Rows are ordered by generation, then by plan.

    Attributes:
        files: Data files that hold visible rows.
        file: int32 [rows], index into ``files``.
        offset: int64 [rows], byte offset of the row in its file.
        block: int64 [rows], number of the row's block among all blocks of the feature.
        block_offset: int64 [blocks], offset in the file, -1 for a block that was not written.
        block_bytes: int64 [blocks], size.
        block_crc32c: uint32 [blocks], checksum.
        video_ids: Ids of the V visible videos, in row order.
        video_start: int64 [V + 1], first row of each video, then the number of rows.
        num_crops: int64 [V], number of rows per moment of each video.
        is_test: bool [V], whether the rows of a video are test views.
        video: int32 [rows], index into ``video_ids``.
    """

    files: tuple[ShardFile, ...]
    file: npt.NDArray[np.int32]
    offset: Ints
    block: Ints
    block_offset: Ints
    block_bytes: Ints
    block_crc32c: npt.NDArray[np.uint32]
    video_ids: tuple[str, ...]
    video_start: Ints
    num_crops: Ints
    is_test: Mask
    video: npt.NDArray[np.int32]

    def stretches(self, num_bytes: int) -> Ints:
        """int64 [blocks]: the number of the stretch of its file, of about so many bytes, to which each block belongs.

        A stretch is one or several of those of :data:`READ_BYTES`, which are neighbouring blocks; a larger block is one
        of its own. The last of a file may be shorter.
        """
        largest = int(self.block_bytes.max(initial=1))
        at_once = max(1, READ_BYTES // largest)
        blocks = at_once * max(1, num_bytes // (at_once * largest))
        first = np.array([file.first_block for file in self.files], np.int64)
        per_file = np.diff(first, append=len(self.block_bytes))
        num_stretches = -(-per_file // blocks)
        inside = np.arange(len(self.block_bytes)) - np.repeat(first, per_file)
        return np.repeat(np.cumsum(num_stretches) - num_stretches, per_file) + inside // blocks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Views:
    """The rows of a generation's videos that are read, of those that are stored.

    Attributes:
        is_test: bool [videos], whether they are the test views of the sampling recipe.
        num_crops: int64 [videos], number of rows per moment.
        first: int64 [videos], the first row within the video; ``None``: all rows of all videos are read.
        stop: int64 [videos], the row behind the last; ``None`` like ``first``.
    """

    is_test: Mask
    num_crops: Ints
    first: Ints | None = None
    stop: Ints | None = None


def alike(sampling: SamplingRecipe, num_videos: int) -> Views:
    """All rows of videos that have the same recipe."""
    return Views(is_test=np.zeros(num_videos, bool), num_crops=np.full(num_videos, sampling.num_crops, np.int64))


def choose_views(sampling: SamplingRecipe, generation: Generation, splits: Sequence[str]) -> Views:
    """The views of a generation's videos by their splits.

    Args:
        sampling: Recipe of the store.
        generation: The generation.
        splits: Split of each video: that of the plan, or where every video has both views, any.
    """
    named = set(splits)
    recipes = {split: sampling.for_split(split) for split in named}
    has_test_views = {split: sampling.has_test_views(split) for split in named}
    is_test = np.array([has_test_views[split] for split in splits], bool)
    num_crops = np.array([recipes[split].num_crops for split in splits], np.int64)
    if not sampling.both_views:
        return Views(is_test=is_test, num_crops=num_crops)
    # The rows of a frame bank are moments times crops, and both kinds of views have the same moments.
    training, test = (one.num_crops * (1 if one.temporal == "bank" else one.num_clips) for one in sampling.stored(""))
    columns = generation.segment_columns
    num_rows = np.bincount(columns["video"], columns["num_rows"], len(splits)).astype(np.int64)
    boundary = num_rows * training // (training + test)
    return Views(
        is_test=is_test,
        num_crops=num_crops,
        first=np.where(is_test, boundary, 0),
        stop=np.where(is_test, num_rows, boundary),
    )


def current_videos(generations: Sequence[Generation], ids: Sequence[Sequence[str | None]]) -> list[Mask]:
    """Videos of each generation that have the content that counts: that of the latest plan with their id.

    A file that was replaced under its name is planned anew with another content hash. Older plans of that name then
    belong to a file that no longer exists.

    Args:
        generations: The generations, in order.
        ids: Present ids of each generation's videos; ``None`` for a removed video, which never counts.
    """
    if len(generations) == 1:  # ids are unique within a plan
        if None not in ids[0]:
            return [np.ones(len(ids[0]), bool)]
        return [np.array([name is not None for name in ids[0]], bool)]
    latest: dict[str | None, str] = {}
    for generation, names in zip(generations, ids, strict=True):
        latest.update(zip(names, generation.content_hashes, strict=True))
    return [
        np.array(
            [
                name is not None and latest[name] == content
                for name, content in zip(names, one.content_hashes, strict=True)
            ],
            bool,
        )
        for one, names in zip(generations, ids, strict=True)
    ]


def visible_videos(committed: list[Committed], ids: Sequence[Sequence[str | None]], current: list[Mask]) -> list[Mask]:
    """Videos of each generation that are read: among videos with the same id, the latest that is ``ok`` and current.

    Args:
        committed: Records of the feature, one item per generation.
        ids: Ids of each generation's videos.
        current: Result of :func:`current_videos`.
    """
    visible = [generation.video_ok & counts for generation, counts in zip(committed, current, strict=True)]
    seen: set[str | None] = set()
    for mask, names in zip(reversed(visible), reversed(ids), strict=True):
        if seen:
            hidden = [index for index in np.flatnonzero(mask).tolist() if names[index] in seen]
            mask[hidden] = False
        seen.update(names[index] for index in np.flatnonzero(mask).tolist())
    return visible


class _Builder:
    """Collects the columns of a :class:`RowIndex`."""

    def __init__(self, feature: FeatureDoc, file_format: FileFormat) -> None:
        self.feature = feature
        self.file_format = file_format
        self.files: list[ShardFile] = []
        self.num_blocks = 0
        self.columns: dict[str, list[npt.NDArray[Any]]] = {
            "file": [np.zeros(0, np.int32)],
            "offset": [np.zeros(0, np.int64)],
            "block": [np.zeros(0, np.int64)],
            "block_offset": [np.zeros(0, np.int64)],
            "block_bytes": [np.zeros(0, np.int64)],
            "block_crc32c": [np.zeros(0, np.uint32)],
        }

    def add(self, committed: Committed, record: CommitDoc, rows: Ints) -> None:
        """Add the visible rows of one shard."""
        assert record.data is not None, "a shard with rows has a data file"
        layout = shard_layout(committed.generation, self.feature, record, self.file_format)
        block = rows // record.data.block_rows
        inside = (rows - block * record.data.block_rows) * self.feature.record.num_bytes
        crcs = np.zeros(len(layout.offset), np.uint32)
        crcs[layout.offset >= 0] = record.data.block_crc32c
        for name, column in {
            "file": np.full(len(rows), len(self.files), np.int32),
            "offset": layout.offset[block] + inside,
            "block": self.num_blocks + block,
            "block_offset": layout.offset,
            "block_bytes": layout.num_bytes,
            "block_crc32c": crcs,
        }.items():
            self.columns[name].append(column)
        self.files.append(
            ShardFile(
                name=data_name(committed.generation, self.feature, record.shard, self.file_format),
                num_bytes=record.data.num_bytes,
                first_block=self.num_blocks,
                scale=record.int8_scale,
                committed=committed,
                shard=record.shard,
            )
        )
        self.num_blocks += len(layout.offset)


def _read_segments(generation: Generation, views: Views) -> Mapping[str, npt.NDArray[Any]]:
    """The columns of a generation's segments, each cut to the rows that are read; some may be left without any."""
    columns = generation.segment_columns
    if views.first is None or views.stop is None:
        return columns
    begin = columns["first_clip"].astype(np.int64)
    first = np.maximum(begin, views.first[columns["video"]])
    stop = np.minimum(begin + columns["num_rows"], views.stop[columns["video"]])
    return {**columns, "first_row": columns["first_row"] + first - begin, "num_rows": np.maximum(stop - first, 0)}


def build_index(
    committed: list[Committed],
    visible: list[Mask],
    ids: Sequence[Sequence[str | None]],
    *,
    views: Sequence[Views],
    feature: FeatureDoc,
    file_format: FileFormat,
) -> RowIndex:
    """Find the place of every visible row of a feature.

    Args:
        committed: Records of the feature, one item per generation.
        visible: Videos of each generation that are read.
        ids: Present ids of each generation's videos.
        views: Rows of each generation's videos that are read.
        feature: Description of the feature.
        file_format: File format of the data files.
    """
    builder = _Builder(feature, file_format)
    video_ids: list[str] = []
    video_rows: list[int] = []
    crops: list[Ints] = [np.zeros(0, np.int64)]
    is_test: list[Mask] = [np.zeros(0, bool)]
    for generation, mask, names, read in zip(committed, visible, ids, views, strict=True):
        columns = _read_segments(generation.generation, read)
        shown = mask[columns["video"]] & (columns["num_rows"] > 0)
        for shard, record in generation.records.items():
            where = generation.generation.shard_slice(shard)
            here = shown[where]
            if here.any():
                first, num = columns["first_row"][where][here], columns["num_rows"][where][here]
                builder.add(generation, record, ranges(first, num))
        order = columns["video"][shown]
        if len(order):
            changes = np.flatnonzero(np.diff(order, prepend=-1))  # windows of a long video are consecutive
            video_rows += np.add.reduceat(columns["num_rows"][shown], changes).tolist()
            video_ids += [name for index in order[changes].tolist() if (name := names[index]) is not None]
            crops.append(read.num_crops[order[changes]])
            is_test.append(read.is_test[order[changes]])
    joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in builder.columns.items()}
    return RowIndex(
        files=tuple(builder.files),
        video_ids=tuple(video_ids),
        video_start=np.concatenate([[0], np.cumsum(video_rows, dtype=np.int64)]).astype(np.int64),
        num_crops=np.concatenate(crops),
        is_test=np.concatenate(is_test),
        video=np.repeat(np.arange(len(video_rows), dtype=np.int32), video_rows),
        **joined,
    )
