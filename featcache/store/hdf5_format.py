"""HDF5 shards: one file per shard with one contiguous dataset ``features``, so that a reader can map it at its offset.

h5py lays the file out on a recorder that keeps the few metadata bytes; :mod:`featcache.files.publish` then writes the
feature bytes between them, without passing through HDF5.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.recipes import RecordSpec
from featcache.store.blocks import BlockLayout, Buffer, EncodedShard, Mask, blocks_of, crc32c, crc32c_of_all
from featcache.store.precision import stored_dtype

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class _Recorder(io.RawIOBase):
    """A file object that records writes by position; all other bytes read as zeros."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.size = 0
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self.pieces.append((self._position, piece))
        self._position += len(piece)
        self.size = max(self.size, self._position)
        return len(piece)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = self.between(self._position, self._position + len(view))
        self._position += len(view)
        return len(view)

    def between(self, first: int, last: int) -> bytes:
        """Bytes ``first`` to ``last`` as written."""
        region = bytearray(last - first)
        for start, piece in self.pieces:
            low, high = max(first, start), min(last, start + len(piece))
            if low < high:
                region[low - first : high - first] = piece[low - start : high - start]
        return bytes(region)


def _dataset(file: Any, name: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], layout: int) -> Any:
    import h5py

    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(layout)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # a time stamp would change the bytes of the file
    return h5py.h5d.create(file.id, name, h5py.h5t.py_create(dtype), h5py.h5s.create_simple(shape), properties)


def _frame(shape: tuple[int, ...], record: RecordSpec, scale: npt.NDArray[np.float32] | None) -> tuple[bytes, bytes]:
    """Bytes before and after the feature data of a file."""
    import h5py  # a reader maps the files and does without

    recorder = _Recorder()
    dtype = stored_dtype(record.dtype)
    with h5py.File(recorder, "w", libver=("earliest", "v110")) as file:
        file.attrs["axes"] = np.bytes_(",".join(("row", *record.axes)))
        if scale is not None:
            compact = _dataset(file, b"scale", scale.shape, np.dtype("<f4"), h5py.h5d.COMPACT)
            compact.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(scale, "<f4"))
        offset = _dataset(file, b"features", shape, dtype, h5py.h5d.CONTIGUOUS).get_offset()
    end = offset + int(np.prod(shape)) * dtype.itemsize
    return recorder.between(0, offset), recorder.between(end, recorder.size)


def encode(
    array: npt.NDArray[Any],
    present: Mask,
    *,
    block_rows: int,
    num_rows: int,
    record: RecordSpec,
    scale: npt.NDArray[np.float32] | None,
) -> EncodedShard:
    """Encode the first ``num_rows`` rows. See :class:`featcache.store.blocks.ShardFormat`."""
    before, after = _frame((num_rows, *record.shape), record, scale)
    blocks = list(blocks_of(array, present, num_rows=num_rows, block_rows=block_rows, record=record))
    chunks: tuple[Buffer, ...] = (before, *blocks, after)
    return EncodedShard(
        chunks=chunks,
        num_bytes=sum(len(chunk) for chunk in chunks),
        frame_crc32c=crc32c_of_all([before, after]),
        data_offset=len(before),
        block_crc32c=np.array([crc32c(block) for block in blocks], np.uint32),
    )


def layout(present: Mask, *, block_rows: int, num_rows: int, record_bytes: int, data_offset: int) -> BlockLayout:
    """Planned rows are stored consecutively; the last block may be short."""
    first_row = np.arange(0, len(present), block_rows)
    rows = np.clip(num_rows - first_row, 0, block_rows)
    return BlockLayout(
        offset=np.where(rows > 0, data_offset + first_row * record_bytes, -1).astype(np.int64),
        num_bytes=(rows * record_bytes).astype(np.int64),
        file_bytes=-1,
    )


def head_range(layout: BlockLayout, *, file_bytes: int) -> tuple[int, int]:
    """The signature."""
    del layout
    return 0, min(len(_SIGNATURE), file_bytes)


def check_head(head: npt.NDArray[np.uint8], layout: BlockLayout, *, file_bytes: int) -> bool:
    """Whether the file begins with the HDF5 signature and the last block ends inside it."""
    end = int((layout.offset + layout.num_bytes).max())
    return head.tobytes() == _SIGNATURE and end <= file_bytes
