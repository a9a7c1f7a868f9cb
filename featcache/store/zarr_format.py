"""Zarr v3 shards, written byte for byte as zarr writes them, and the metadata of groups and arrays.

A shard file is its written blocks in order, each followed by its crc32c, then the index (offset and length of every
block as little-endian uint64, all ones for a missing block) and the index's crc32c.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.recipes import RecordSpec
from featcache.store.blocks import BlockLayout, Buffer, EncodedShard, Mask, blocks_of, crc32c, crc32c_of_all

_CRC_BYTES = 4
_ENTRY_BYTES = 16
_MISSING = np.uint64(2**64 - 1)


def encode(
    array: npt.NDArray[Any],
    present: Mask,
    *,
    block_rows: int,
    num_rows: int,
    record: RecordSpec,
    scale: npt.NDArray[np.float32] | None,
) -> EncodedShard:
    """Encode a shard; a block without a present row is missing. See :class:`featcache.store.blocks.ShardFormat`."""
    del scale  # scales have an array of their own, see scale_chunk
    chunks: list[Buffer] = []
    crcs: list[int] = []
    blocks = blocks_of(array, present, num_rows=len(present), block_rows=block_rows, record=record)
    for data in itertools.compress(blocks, _written(present, block_rows).tolist()):
        crcs.append(crc32c(data))
        chunks += [data, crcs[-1].to_bytes(_CRC_BYTES, "little")]
    places = layout(present, block_rows=block_rows, num_rows=num_rows, record_bytes=record.num_bytes, data_offset=0)
    chunks.append(_index_bytes(places))
    checksums_and_index = [*chunks[1::2], chunks[-1]]
    return EncodedShard(
        chunks=tuple(chunks),
        num_bytes=places.file_bytes,
        frame_crc32c=crc32c_of_all(checksums_and_index),
        data_offset=0,
        block_crc32c=np.array(crcs, np.uint32),
    )


def layout(present: Mask, *, block_rows: int, num_rows: int, record_bytes: int, data_offset: int) -> BlockLayout:
    """Written blocks are stored consecutively, each followed by its checksum."""
    del num_rows
    written = _written(present, block_rows)
    size = block_rows * record_bytes
    rank = np.cumsum(written) - 1
    return BlockLayout(
        offset=np.where(written, data_offset + rank * (size + _CRC_BYTES), -1).astype(np.int64),
        num_bytes=np.where(written, size, 0).astype(np.int64),
        file_bytes=data_offset + int(written.sum()) * (size + _CRC_BYTES) + _ENTRY_BYTES * len(written) + _CRC_BYTES,
    )


def head_range(layout: BlockLayout, *, file_bytes: int) -> tuple[int, int]:
    """The index at the end of the file."""
    return file_bytes - _ENTRY_BYTES * len(layout.offset) - _CRC_BYTES, file_bytes


def check_head(head: npt.NDArray[np.uint8], layout: BlockLayout, *, file_bytes: int) -> bool:
    """Whether the index at the end of the file is that of this layout."""
    del file_bytes  # the index lies where it has to
    return head.tobytes() == _index_bytes(layout)


def _written(present: Mask, block_rows: int) -> Mask:
    written: Mask = np.logical_or.reduce(present.reshape(-1, block_rows), axis=1)
    return written


def _index_bytes(places: BlockLayout) -> bytes:
    missing = places.offset < 0
    lengths = places.num_bytes + _CRC_BYTES
    index = np.stack([places.offset, lengths], axis=1).astype("<u8")
    index[missing] = _MISSING
    data = index.tobytes()
    return data + crc32c(data).to_bytes(_CRC_BYTES, "little")


def scale_chunk(scale: npt.NDArray[np.float32]) -> bytes:
    """A chunk of the scale array: one shard's float32 [C] and its crc32c."""
    data = scale.astype("<f4").tobytes()
    return data + crc32c(data).to_bytes(_CRC_BYTES, "little")


def group_metadata() -> bytes:
    """``zarr.json`` of a group."""
    return _metadata({"attributes": {}, "node_type": "group", "zarr_format": 3})


def array_metadata(record: RecordSpec, *, num_shards: int, shard_rows: int, block_rows: int, name: str) -> bytes:
    """``zarr.json`` of a feature's array [num_shards * shard_rows, *record]."""
    checksummed = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    inner = [{"name": "bytes"}, {"name": "crc32c"}] if record.dtype == "int8" else checksummed
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [block_rows, *record.shape],
            "codecs": inner,
            "index_codecs": checksummed,
            "index_location": "end",
        },
    }
    return _array_metadata(
        shape=(num_shards * shard_rows, *record.shape),
        chunk_shape=(shard_rows, *record.shape),
        data_type=record.dtype,
        fill_value=0 if record.dtype == "int8" else "NaN",
        codecs=[sharding],
        dimension_names=("row", *record.axes),
        attributes={"scale_array": f"../{name}.scale", "shard_rows": shard_rows} if record.dtype == "int8" else {},
    )


def scale_metadata(*, num_shards: int, num_channels: int) -> bytes:
    """``zarr.json`` of the array of int8 scales [num_shards, C]."""
    return _array_metadata(
        shape=(num_shards, num_channels),
        chunk_shape=(1, num_channels),
        data_type="float32",
        fill_value="NaN",
        codecs=[{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        dimension_names=("shard", "c"),
        attributes={},
    )


def _array_metadata(
    *,
    shape: Sequence[int],
    chunk_shape: Sequence[int],
    data_type: str,
    fill_value: str | int,
    codecs: list[dict[str, Any]],
    dimension_names: Sequence[str],
    attributes: dict[str, Any],
) -> bytes:
    return _metadata(
        {
            "attributes": attributes,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": codecs,
            "data_type": data_type,
            "dimension_names": list(dimension_names),
            "fill_value": fill_value,
            "node_type": "array",
            "shape": list(shape),
            "storage_transformers": [],
            "zarr_format": 3,
        }
    )


def _metadata(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode("ascii") + b"\n"
