"""One feature of an open store: rows by number, from mapped files, by reads of many at a time, or from memory."""

import hashlib
import itertools
from collections.abc import Callable
from functools import cached_property
from types import EllipsisType, TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featcache.errors import FeatcacheError, RowError, unknown_name
from featcache.files.threads import ProcessLock
from featcache.recipes import recipe_hash
from featcache.store.checks import Checks
from featcache.store.generation import read_rows
from featcache.store.index import RowIndex
from featcache.store.paths import FileFormat
from featcache.store.precision import dequantise, stored_dtype
from featcache.store.row_reader import Device, row_reader
from featcache.store.rows import RowTable
from featcache.store.schema import FeatureDoc

_LOAD_BYTES = 64 << 20


class Features:
    """Rows of one feature, numbered 0 to ``num_rows - 1`` by generation, video and row within the video.

    Each block is checked against its commit record when it is first read in a process. Features can be shared between
    threads, forked and pickled; a forked worker shares the pages, a spawned one opens the store again.

    Attributes:
        name: Name of the feature.
        recipe: Recipe of the feature.
        record: Shape, axes and dtype of a row.
        video_ids: Ids of the V videos that have rows, in row order.
        video_index: int32 [num_rows], index into ``video_ids``.
        video_start: int64 [V + 1], first row of each video, then ``num_rows``.
        num_crops: int64 [V], number of crops of each video: crop k at moment t is row
            ``video_start + t * num_crops + k``.
        is_test: bool [V], whether the rows of a video are test views of the store's sampling recipe.
    """

    def __init__(
        self,
        feature: FeatureDoc,
        index: RowIndex,
        *,
        file_format: FileFormat,
        device: Device,
        verify: bool,
        max_open_maps: int,
        keep_bytes: int,
        reopen: Callable[[], "Features"],
    ) -> None:
        self.name = feature.name
        self.recipe = feature.recipe
        self.record = feature.record
        self.video_ids = index.video_ids
        self.video_index = index.video
        self.video_start = index.video_start
        self.num_crops = index.num_crops
        self.is_test = index.is_test
        self._index = index
        self._reopen = reopen
        self._lock = ProcessLock()
        self._dtype = stored_dtype(feature.record.dtype)
        self._reader = row_reader(
            device,
            index,
            row_bytes=feature.record.num_bytes,
            checks=Checks(index, feature=feature, file_format=file_format, verify=verify),
            max_open=max_open_maps,
            keep_bytes=keep_bytes,
        )
        self._memory: npt.NDArray[Any] | None = None
        if device == "ram":
            self._memory = self._load()

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self._index.file)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(num_rows, *record.shape)``."""
        return (self.num_rows, *self.record.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored dtype."""
        return self._dtype

    @property
    def num_open_maps(self) -> int:
        """Number of files that are open at present."""
        return self._reader.num_open

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        return f"Features({self.name!r}, shape={self.shape}, dtype={self.dtype}, num_videos={len(self.video_ids)})"

    def __reduce__(self) -> tuple[Callable[[], "Features"], tuple[()]]:
        return self._reopen, ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release files and threads, when reads have ended that other threads have begun; a later read opens them."""
        with self._lock:
            self._reader.close()

    def gather(
        self, rows: npt.ArrayLike, *, out: npt.NDArray[Any] | None = None, dequantised: bool = False
    ) -> npt.NDArray[Any]:
        """Copy rows in the given order, by numpy's rules; a row may occur more than once.

        Args:
            rows: Integers of any shape [...] in ``[-num_rows, num_rows)``, negative ones counted from the end, or a
                bool mask [num_rows] of n true entries.
            out: C-contiguous [..., *record] of ``dtype`` to fill instead of a new array.
            dequantised: Return float32, with int8 multiplied by its scale (``out`` must be ``None``).

        Returns:
            [..., *record] of ``dtype``, or float32; [n, *record] for a mask.

        Raises:
            RowError: A row is out of range, a mask has another length, or a value is not a row number (e.g. a float).
            CorruptStoreError: A file is missing, short, swapped or damaged.
        """
        numbers = self._numbers(rows)
        shape = (*numbers.shape, *self.record.shape)
        index = numbers.reshape(-1)
        if out is not None:
            assert out.shape == shape, f"out is {out.shape}, not {shape}"
            assert out.dtype == self._dtype, f"out is {out.dtype}, not {self._dtype}"
            assert out.flags.c_contiguous, "out is not C-contiguous"
            assert not dequantised, "dequantised rows go to a fresh array"
        if self._memory is not None:
            # the index is in range; mode "raise" would buffer out
            values = self._memory[index].reshape(shape) if out is None else out
            if out is not None:
                self._memory.take(numbers, axis=0, out=out, mode="clip")
        else:
            flat = None if out is None else out.reshape(len(index), *self.record.shape)
            with self._lock as is_forked:
                if is_forked:
                    self._reader.close()
                values = self._reader.gather(index, flat)
            values = out if out is not None else values.view(self._dtype).reshape(shape)
        return self._dequantised(values, numbers) if dequantised else values

    def ahead(self, rows: npt.ArrayLike) -> None:
        """Say which rows will be gathered soon, so that the disk can fetch them meanwhile (device ``disk``).

        Args:
            rows: Row numbers as in :meth:`gather`.

        Raises:
            RowError: As in :meth:`gather`; any other error is left to it.
        """
        index = self._numbers(rows).reshape(-1)
        if self._memory is None and len(index):
            with self._lock as is_forked:
                if is_forked:
                    self._reader.close()
                self._reader.ahead(index)

    def scales(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """What int8 rows are multiplied by, float32 [..., C] for row numbers [...], as in :meth:`gather`.

        Raises:
            RowError: As in :meth:`gather`.
        """
        assert self.record.dtype == "int8", f"{self.name!r} is {self.record.dtype}, which has no scales"
        found: npt.NDArray[np.float32] = self._scales[self._index.file[self._numbers(rows)]]
        return found

    def __getitem__(self, rows: slice | EllipsisType | npt.ArrayLike) -> npt.NDArray[Any]:
        """One row [*record], or rows [..., *record] by slice, indices or mask, as in :meth:`gather`."""
        if isinstance(rows, EllipsisType):
            rows = slice(None)
        if isinstance(rows, slice):
            return self.gather(np.arange(*rows.indices(self.num_rows)))
        if isinstance(rows, tuple):
            raise RowError(
                f"{self.name!r} is indexed by row alone, and {rows!r} names more axes; index what comes back"
            )
        return self.gather(rows)

    def _numbers(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Row numbers in ``[0, num_rows)``, by numpy's rules."""
        try:
            index = np.asarray(rows)
        except ValueError as error:  # lists of different lengths
            raise RowError(f"row numbers are no array ({error}); give integers or a mask") from error
        if index.dtype == bool:
            if index.shape != (self.num_rows,):
                raise RowError(f"a mask {list(index.shape)} does not fit {self.num_rows} rows; give one entry per row")
            return np.flatnonzero(index)
        if not index.size:  # an empty list has no dtype of its own
            return np.zeros(index.shape, np.int64)
        if index.dtype.kind not in "iu":
            raise RowError(f"row numbers are {index.dtype}, not integers; round them yourself")
        first, last = int(index.min()), int(index.max())
        if first < -self.num_rows or last >= self.num_rows:
            wrong = first if first < -self.num_rows else last
            raise RowError(f"row {wrong} is not in [{-self.num_rows}, {self.num_rows}); {self.name!r} has no such row")
        numbers = index.astype(np.int64, copy=False)
        return np.where(numbers < 0, numbers + self.num_rows, numbers) if first < 0 else numbers

    def digest(self, rows: npt.NDArray[np.int64]) -> str:
        """A hex SHA-256 that identifies the contents of rows without reading them.

        It is computed from recorded values: the recipe, the CRC-32C of each row's block and the row's place in it, and
        the scales of int8. Equal features in other blocks have another digest.

        Args:
            rows: int64 [n], in order.
        """
        block = self._index.block[rows]
        digest = hashlib.sha256(recipe_hash(self.recipe).encode("ascii"))
        digest.update(self._index.block_crc32c[block].astype("<u4").tobytes())
        digest.update((self._index.offset[rows] - self._index.block_offset[block]).astype("<i8").tobytes())
        if self.record.dtype == "int8":
            digest.update(self._scales[self._index.file[rows]].astype("<f4").tobytes())
        return digest.hexdigest()

    def groups(self, rows: npt.NDArray[np.int64], *, num_bytes: int) -> npt.NDArray[np.int64]:
        """Numbers of the stretches of the files, whole blocks of about ``num_bytes``, in which rows int64 [n] lie.

        Rows with the same number are near each other on the disk, and no block belongs to two stretches.
        """
        return self._index.stretches(num_bytes)[self._index.block[rows]]

    def rows_of(self, video_id: str, *, crop: int | None = None) -> npt.NDArray[np.int64]:
        """Rows of a video, in order.

        ``features.rows.select(rows)`` gives their boxes and times; :meth:`clips` turns rows ``[B, T]`` of one crop of a
        frame bank into clips.

        Args:
            video_id: Id of the video.
            crop: Only the rows of this crop, one per moment.

        Raises:
            UnknownNameError: No video with rows has this id.
            RowError: The video has no such crop.
        """
        if video_id not in self._video_numbers:
            raise unknown_name(f"video of feature {self.name}", video_id, self.video_ids)
        number = self._video_numbers[video_id]
        rows = np.arange(self.video_start[number], self.video_start[number + 1])
        if crop is None:
            return rows
        num_crops = int(self.num_crops[number])
        if not 0 <= crop < num_crops:
            raise RowError(f"crop {crop} of {video_id!r} is not in [0, {num_crops})")
        return rows[crop::num_crops]

    def video(self, video_id: str) -> npt.NDArray[Any]:
        """All rows of a video, [n, *record]."""
        return self.gather(self.rows_of(video_id))

    def clips(self, rows: npt.ArrayLike) -> npt.NDArray[Any]:
        """Clips of a frame bank: [B, T, *record] for row numbers [B, T]."""
        return self.gather(rows)

    @cached_property
    def rows(self) -> RowTable:
        """Box and times of each row; ``video`` indexes ``video_ids``, ``row`` is the row within its shard."""
        return self.details(np.arange(self.num_rows))

    def details(self, rows: npt.NDArray[np.int64]) -> RowTable:
        """The part of :attr:`rows` that is about some rows; only the tables of their shards are read.

        Args:
            rows: int64 [n] in ``[0, num_rows)``, in any order.
        """
        files = self._index.file[rows]
        starts = np.flatnonzero(np.diff(files, prepend=-1)).tolist()
        if not starts:
            return RowTable.empty(num_frames=0)

        def read(ends: tuple[int, int]) -> RowTable:
            file = self._index.files[files[ends[0]]]
            table = read_rows(file.committed.generation, file.committed.records[file.shard])
            return table.select(self._rows_in(table, rows[slice(*ends)]))

        place = self._index.files[0].committed.generation.files
        tables = place.each(read, itertools.pairwise([*starts, len(rows)]))
        joined = RowTable.concatenate(tables)
        columns = {name: getattr(joined, name) for name in RowTable.__dataclass_fields__}
        return RowTable(**{**columns, "video": self.video_index[rows]})

    def provenance(self, rows: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """How some rows were computed: the provenance of the shards that hold them, in order, each once.

        Args:
            rows: int64 [n] in ``[0, num_rows)``.
        """
        found: list[dict[str, Any]] = []
        for number in np.unique(self._index.file[rows]).tolist():
            file = self._index.files[number]
            made = dict(file.committed.records[file.shard].provenance)
            if made not in found:
                found.append(made)
        return found

    def _rows_in(self, table: RowTable, mine: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Positions in a shard's row table of the visible rows ``mine``."""
        file = self._index.files[self._index.file[mine[0]]]
        data = file.committed.records[file.shard].data
        assert data is not None, "a file with rows has a record of its data"
        block = self._index.block[mine] - file.first_block
        start = self._index.block_offset[self._index.block[mine]]
        inside = (self._index.offset[mine] - start) // self.record.num_bytes
        row = block * data.block_rows + inside
        positions: npt.NDArray[np.intp] = np.searchsorted(table.row, row)
        if positions.max() >= len(table) or not np.array_equal(table.row[positions], row):
            raise FeatcacheError(
                f"the row table of shard {file.shard} lacks rows of {self.name!r}; run featcache verify"
            )
        return positions

    @cached_property
    def _video_numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.video_ids)}

    def _dequantised(self, values: npt.NDArray[Any], index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if self.record.dtype != "int8":
            return values.astype(np.float32)
        scale = self.scales(index)
        return dequantise(values, scale.reshape(*index.shape, *[1] * (len(self.record.shape) - 1), -1))

    @cached_property
    def _scales(self) -> npt.NDArray[np.float32]:
        """float32 [files, C]."""
        scales = [file.scale for file in self._index.files if file.scale is not None]
        return np.stack(scales) if scales else np.ones((0, self.record.shape[-1]), np.float32)

    def _load(self) -> npt.NDArray[Any]:
        """Load all rows into memory and check each block."""
        memory = np.empty(self.shape, self._dtype)
        step = max(1, _LOAD_BYTES // self.record.num_bytes)
        for first in range(0, self.num_rows, step):
            last = min(first + step, self.num_rows)
            self._reader.gather(np.arange(first, last), memory[first:last])
        self._reader.close()
        return memory
