"""The reader's row index: the file and offset of every row of a feature, from plans and commit records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
    video: npt.NDArray[np.int32]


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


def build_index(
    committed: list[Committed],
    visible: list[Mask],
    ids: Sequence[Sequence[str | None]],
    *,
    num_crops: list[Ints],
    feature: FeatureDoc,
    file_format: FileFormat,
) -> RowIndex:
    """Find the place of every visible row of a feature.

    Args:
        committed: Records of the feature, one item per generation.
        visible: Videos of each generation that are read.
        ids: Present ids of each generation's videos.
        num_crops: Number of rows per moment of each generation's videos.
        feature: Description of the feature.
        file_format: File format of the data files.
    """
    builder = _Builder(feature, file_format)
    video_ids: list[str] = []
    video_rows: list[int] = []
    crops: list[Ints] = [np.zeros(0, np.int64)]
    for generation, mask, names, generation_crops in zip(committed, visible, ids, num_crops, strict=True):
        columns = generation.generation.segment_columns
        shown = mask[columns["video"]]
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
            crops.append(generation_crops[order[changes]])
    joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in builder.columns.items()}
    return RowIndex(
        files=tuple(builder.files),
        video_ids=tuple(video_ids),
        video_start=np.concatenate([[0], np.cumsum(video_rows, dtype=np.int64)]).astype(np.int64),
        num_crops=np.concatenate(crops),
        video=np.repeat(np.arange(len(video_rows), dtype=np.int32), video_rows),
        **joined,
    )
