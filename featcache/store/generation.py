"""Generations: immutable plans with their videos and segments, and the commit records under them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featcache.data.manifest import id_problem, table_to_videos
from featcache.data.parquet import from_numbers
from featcache.data.types import VideoRecord
from featcache.errors import CorruptStoreError, ManifestError
from featcache.files.base import Files
from featcache.recipes import SamplingRecipe, recipe_hash
from featcache.store import hdf5_format, paths, zarr_format
from featcache.store.blocks import BlockLayout, ShardFormat
from featcache.store.documents import read_document, read_table_bytes
from featcache.store.paths import FileFormat
from featcache.store.plan import Segment
from featcache.store.rows import RowTable, int_column, rows_from_bytes, table_from_bytes
from featcache.store.schema import CommitDoc, FeatureDoc, PlanDoc, PlannedDoc, TableRef

Ints = npt.NDArray[np.int64]

FORMATS: dict[FileFormat, ShardFormat] = {"zarr": zarr_format, "hdf5": hdf5_format}


@dataclass(frozen=True)
class Generation:
    """A plan and its tables, which are read on demand.

    Attributes:
        files: The files of the store.
        plan: The plan.
        plan_hash: Checksum of the plan.
    """

    files: Files
    plan: PlanDoc
    plan_hash: str

    @property
    def where(self) -> str:
        """How messages call the store."""
        return self.files.where()

    @property
    def number(self) -> int:
        """Generation number."""
        return self.plan.generation

    @property
    def shard_rows(self) -> int:
        """Largest number of rows per shard."""
        return self.plan.shard_rows

    @property
    def num_shards(self) -> int:
        """Number of shards according to the segments, which cannot claim more shards than they fill."""
        shards = self.segment_columns["shard"]
        return int(shards[-1]) + 1 if len(shards) else 0

    @property
    def encode_batch(self) -> int:
        """Number of rows per forward pass."""
        return self.plan.encode_batch

    @property
    def threads(self) -> int:
        """Number of intra-op threads of the forward pass."""
        return self.plan.threads

    @cached_property
    def video_table(self) -> pa.Table:
        """The manifest slice as a table."""
        table = self._read("videos", self.plan.videos)
        if len(table) != self.plan.num_videos:
            raise CorruptStoreError(f"{self.where}: generation {self.number} lists {len(table)} videos, not its plan's")
        check_ids(table, where=f"{self.where}: the table of videos of generation {self.number}")
        return table

    @cached_property
    def videos(self) -> tuple[VideoRecord, ...]:
        """The manifest slice."""
        try:
            return table_to_videos(self.video_table)
        except ManifestError as error:
            raise CorruptStoreError(f"{self.where}: generation {self.number}: {error}") from error

    @cached_property
    def video_ids(self) -> list[str]:
        """Ids of the manifest slice; unlike other text they are stored unescaped (see ``id_problem``)."""
        return [str(video_id) for video_id in self.video_table.column("id").to_pylist()]

    @cached_property
    def content_hashes(self) -> list[str]:
        """Content hash of each video's file when it was planned; empty if unknown."""
        return [str(content) for content in self.video_table.column("content_hash").to_pylist()]

    @cached_property
    def segment_columns(self) -> dict[str, Ints]:
        """int64 columns ``video, shard, first_row, first_clip, num_rows``, ordered by shard and first row."""
        table = self._read("segments", self.plan.segments)
        where = f"{self.where}: the segments of generation {self.number}"
        columns = {name: int_column(table, name, where=where) for name in SEGMENT_COLUMNS}
        if not segments_fit(columns, self.plan):
            raise CorruptStoreError(f"{where} do not fit its plan; restore both from a copy")
        return columns

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, ordered by shard and first row."""
        columns = self.segment_columns
        return tuple(Segment(*values) for values in zip(*(columns[n].tolist() for n in SEGMENT_COLUMNS), strict=True))

    @cached_property
    def _shard_starts(self) -> Ints:
        shards = self.segment_columns["shard"]
        return np.searchsorted(shards, np.arange(self.num_shards + 1)).astype(np.int64)

    def shard_slice(self, shard: int) -> slice:
        """Slice of a shard's segments among all segments."""
        return slice(int(self._shard_starts[shard]), int(self._shard_starts[shard + 1]))

    def shard_segments(self, shard: int) -> tuple[Segment, ...]:
        """The segments of a shard."""
        return self.segments[self.shard_slice(shard)]

    def planned_rows(self, shard: int) -> int:
        """Number of rows of a shard that the plan uses."""
        last = self.shard_slice(shard).stop - 1
        return int(self.segment_columns["first_row"][last] + self.segment_columns["num_rows"][last])

    def _read(self, kind: Literal["videos", "segments"], ref: TableRef) -> pa.Table:
        name, what = paths.table(self.number, kind, ref.sha256), f"table of {kind}"
        data = read_table_bytes(self.files, name, ref, what=what)
        return table_from_bytes(data, where=f"{what} {self.files.where(name)}")


# These include every id with a problem and hardly any other; the few are checked one by one.
_UNUSUAL_ID = r"^$|^/|^[A-Za-z]:/|\\|[^ -~]|(^|/)\.{0,2}(/|$)"

SEGMENT_COLUMNS = ("video", "shard", "first_row", "first_clip", "num_rows")


def check_ids(table: pa.Table, *, where: object) -> None:
    """Refuse a table of videos with unusable ids, since an export turns ids into file names.

    Raises:
        CorruptStoreError: There is no column of texts, or an id is unusable or occurs twice; names the id.
    """
    usable = table.column_names.count("id") == 1 and table.column("id").type == pa.string()
    if not usable or table.column("id").null_count:
        raise CorruptStoreError(f"{where} has no usable column 'id'; restore it from a copy")
    column = table.column("id")
    for video_id in map(str, column.filter(pc.match_substring_regex(column, _UNUSUAL_ID)).to_pylist()):
        if problem := id_problem(video_id):
            raise CorruptStoreError(f"{where} has the id {video_id!r}, which {problem}; the store was tampered with")
    ids = column.to_pylist()
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise CorruptStoreError(f"{where} has the id {twice!r} twice; the store was tampered with")


def segments_fit(columns: Mapping[str, Ints], plan: PlanDoc) -> bool:
    """Whether segments lie in the plan's shards, in order and without overlap, and leave no shard empty."""
    if any((column < 0).any() for column in columns.values()):
        return False
    shard, first_row, num_rows = columns["shard"], columns["first_row"], columns["num_rows"]
    if not len(shard):
        return plan.num_shards == 0
    inside = (num_rows > 0).all() and (first_row + num_rows <= plan.shard_rows).all()
    if not inside or columns["video"].max() >= plan.num_videos or shard[0] != 0 or shard[-1] != plan.num_shards - 1:
        return False
    step = np.diff(shard)
    follows = (step == 1) | ((step == 0) & (first_row[1:] >= (first_row + num_rows)[:-1]))
    return bool(follows.all() and (np.diff(columns["video"]) >= 0).all())


def ranges(first: Ints, num: Ints) -> Ints:
    """``[first[0], …, first[0] + num[0] - 1, first[1], …]``."""
    ends = np.cumsum(num)
    return np.repeat(first - (ends - num), num) + np.arange(ends[-1] if len(ends) else 0)


def segments_table(segments: Sequence[Segment]) -> pa.Table:
    """Segments as a table of int32 columns."""
    columns = {name: np.array([getattr(s, name) for s in segments], np.int32) for name in SEGMENT_COLUMNS}
    return pa.table({name: from_numbers(column) for name, column in columns.items()})


def read_generations(files: Files, sampling: SamplingRecipe) -> list[Generation]:
    """All generations in order.

    Raises:
        CorruptStoreError: A plan is lost, damaged, or belongs to another store.
    """
    notes = _read_planned(files)  # first: a writer beside may publish a plan and its note at any time
    listed = {n for name in files.names("") if (n := paths.generation_number(name)) is not None}
    numbers = sorted(listed | set(range(len(notes))))  # a listing may be old, see Files.names
    planned = [n for n in numbers if files.exists(paths.plan(n))]
    for number in range(max(planned, default=-1) + 1):
        if number not in planned:
            raise _lost_plan(files, number)
    for number in numbers:
        if number not in planned and _has_records(files, number):
            raise _lost_plan(files, number)
    generations = [read_generation(files, number, sampling) for number in planned]
    _check_planned(files, notes, generations)
    return generations


def _lost_plan(files: Files, number: int) -> CorruptStoreError:
    return CorruptStoreError(f"plan {files.where(paths.plan(number))} is missing; restore it from a copy")


def _has_records(files: Files, number: int) -> bool:
    """Whether a generation's folder holds commit records, valid or not."""
    folder = paths.generation(number)
    return any(name.startswith(f"{folder}/commits/") and name.endswith(".json") for name, _ in files.walk(folder))


def _read_planned(files: Files) -> list[PlannedDoc]:
    """The notes of planned generations, in order.

    The note of the last generation may still be missing, since it is published after the plan; stores of version 1 have
    none.
    """
    noted = (number for name in files.names(paths.PLANNED) if (number := paths.planned_number(name)) is not None)
    notes = []
    for number in range(max(noted, default=-1) + 1):
        name = paths.planned(number)
        document = read_document(files, name, what="note of a plan")
        notes.append(PlannedDoc.from_json(document, generation=number, where=files.where(name)))
    return notes


def _check_planned(files: Files, notes: Sequence[PlannedDoc], generations: Sequence[Generation]) -> None:
    """Check that every noted generation exists with its plan."""
    for number, note in enumerate(notes):
        where, plan = files.where(paths.planned(number)), files.where(paths.plan(number))
        if number >= len(generations):
            raise CorruptStoreError(
                f"generation {number} of {files.where()} is lost: {where} says that it was planned, and {plan} is not "
                "there; restore it from a copy"
            )
        if generations[number].plan_hash != note.plan_hash:
            raise CorruptStoreError(
                f"{plan} is not the plan that {where} names; files come from another store, restore both from a copy"
            )


def read_generation(files: Files, number: int, sampling: SamplingRecipe) -> Generation:
    """Read one generation."""
    name = paths.plan(number)
    document = read_document(files, name, what="plan")
    plan = PlanDoc.from_json(document, generation=number, sampling_hash=recipe_hash(sampling), where=files.where(name))
    return Generation(files=files, plan=plan, plan_hash=document["checksum"])


def record_identity(generation: Generation, feature: FeatureDoc) -> dict[str, Any]:
    """Members that tie a feature's documents in a generation to their place; commit records also have their shard."""
    return {
        "feature": feature.name,
        "recipe_hash": feature.recipe_hash,
        "plan_hash": generation.plan_hash,
        "generation": generation.number,
    }


def recorded_shards(generation: Generation, name: str) -> list[int]:
    """Shards that have a commit record, valid or not."""
    names = generation.files.names(paths.commits(generation.number, name))
    shards = (paths.commit_shard(file_name) for file_name in names)
    return sorted(shard for shard in shards if shard is not None and shard < generation.num_shards)


def read_record(generation: Generation, feature: FeatureDoc, shard: int) -> CommitDoc:
    """The commit record of a shard, after checking that it belongs there.

    Raises:
        CorruptStoreError: The record is missing, damaged, swapped, or does not agree with the plan.
    """
    name = paths.commit(generation.number, feature.name, shard)
    where = generation.files.where(name)
    record = CommitDoc.from_json(
        read_document(generation.files, name, what="commit record"),
        identity={**record_identity(generation, feature), "shard": shard},
        where=where,
    )
    num_planned = len(range(*generation.shard_slice(shard).indices(len(generation.segment_columns["shard"]))))
    if record.num_ok + len(record.failed) != num_planned or (record.data is None) != (record.num_ok == 0):
        raise CorruptStoreError(f"{where} accounts for other videos than the plan of its shard; restore it from a copy")
    if (record.int8_scale is None) != (feature.record.dtype != "int8"):
        raise CorruptStoreError(f"{where} and the recipe of {feature.name!r} differ about int8 scales; restore it")
    if record.int8_scale is not None and len(record.int8_scale) != feature.record.shape[-1]:
        raise CorruptStoreError(f"{where} has {len(record.int8_scale)} int8 scales; restore it from a copy")
    return record


def read_rows(generation: Generation, record: CommitDoc) -> RowTable:
    """The row table of a committed shard."""
    name = paths.rows(generation.number, record.shard, record.rows.sha256)
    data = read_table_bytes(generation.files, name, record.rows, what="row table")
    return rows_from_bytes(data, where=f"row table {generation.files.where(name)}")


def segment_failures(generation: Generation, record: CommitDoc) -> npt.NDArray[np.bool_]:
    """Segments of the shard that the record lists as failed, bool [segments]."""
    where = generation.shard_slice(record.shard)
    first_rows = generation.segment_columns["first_row"][where]
    num_rows = generation.segment_columns["num_rows"][where]
    videos = generation.segment_columns["video"][where]
    failed = np.zeros(len(first_rows), bool)
    for outcome in record.failed:
        index = int(np.searchsorted(first_rows, outcome.first_row))
        fits = index < len(first_rows) and first_rows[index] == outcome.first_row and not failed[index]
        fits = fits and num_rows[index] == outcome.num_rows
        if not fits or generation.video_ids[videos[index]] != outcome.id:
            raise CorruptStoreError(
                f"the commit record of shard {record.shard} of {record.feature!r} in {generation.where} lists a failed "
                f"video {outcome.id!r} that its plan does not have there; restore it from a copy"
            )
        failed[index] = True
    return failed


def present_rows(generation: Generation, record: CommitDoc) -> npt.NDArray[np.bool_]:
    """Rows that a committed shard holds, bool [shard_rows]."""
    where = generation.shard_slice(record.shard)
    ok = ~segment_failures(generation, record)
    present = np.zeros(generation.shard_rows, bool)
    columns = generation.segment_columns
    present[ranges(columns["first_row"][where][ok], columns["num_rows"][where][ok])] = True
    return present


def data_name(generation: Generation, feature: FeatureDoc, shard: int, file_format: FileFormat) -> str:
    """Name of a shard's data file."""
    return paths.data(file_format, generation.number, feature.name, shard, record_ndim=len(feature.record.shape))


def shard_layout(
    generation: Generation, feature: FeatureDoc, record: CommitDoc, file_format: FileFormat
) -> BlockLayout:
    """Places of the blocks of a committed shard, from its record and plan alone.

    Raises:
        CorruptStoreError: The record's sizes are inconsistent.
    """
    assert record.data is not None, f"shard {record.shard} has no data file"
    data = record.data
    where = generation.files.where(paths.commit(generation.number, feature.name, record.shard))
    if data.block_rows < 1 or generation.shard_rows % data.block_rows:
        raise CorruptStoreError(f"{where} has blocks of {data.block_rows} rows; restore it from a copy")
    layout = FORMATS[file_format].layout(
        present_rows(generation, record),
        block_rows=data.block_rows,
        num_rows=generation.planned_rows(record.shard),
        record_bytes=feature.record.num_bytes,
        data_offset=data.data_offset,
    )
    ends = layout.offset + layout.num_bytes
    num_written = int((layout.offset >= 0).sum())
    if layout.file_bytes not in (-1, data.num_bytes) or ends.max() > data.num_bytes:
        raise CorruptStoreError(f"{where} says {data.num_bytes} bytes, which its rows do not have; restore it")
    if len(data.block_crc32c) != num_written:
        raise CorruptStoreError(f"{where} has {len(data.block_crc32c)} checksums for {num_written} blocks; restore it")
    return layout
