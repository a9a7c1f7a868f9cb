"""Whether the files of a commit record are there, and are its own.

A record is believed once the sizes of its files agree with it, since no file is changed under a record. There is one
way in which that could come about: two writers of a shard that compute different bytes and do not exclude each other
(a disk without locks, or whose locks end at the host), and a kill. So whoever is about to replace a file of a shard
leaves a note of doubt first, in its own name, and removes it after it has seen that files and record agree. While a
shard has a note, its files are read and compared.
"""

import secrets

import numpy as np

from featcache.errors import CorruptStoreError
from featcache.store import paths, zarr_format
from featcache.store.blocks import crc32c, crc32c_of_all, frame
from featcache.store.generation import FORMATS, Generation, data_name, shard_layout
from featcache.store.paths import FileFormat
from featcache.store.schema import CommitDoc, FeatureDoc


def is_whole(generation: Generation, feature: FeatureDoc, record: CommitDoc, file_format: FileFormat) -> bool:
    """Whether the files of a valid record exist with their recorded sizes, and where in doubt, with its bytes."""
    rows = paths.rows(generation.number, record.shard, record.rows.sha256)
    whole = generation.files.size(rows) == record.rows.num_bytes
    if record.data is not None:
        data = data_name(generation, feature, record.shard, file_format)
        whole = whole and generation.files.size(data) == record.data.num_bytes
    if whole and record.shard in doubted(generation, feature.name):
        return agrees(generation, feature, record, file_format)
    return whole


def agrees(generation: Generation, feature: FeatureDoc, record: CommitDoc, file_format: FileFormat) -> bool:
    """Whether the data file and the scales of a valid record have its bytes."""
    if record.data is None:
        return True
    try:
        check_data(generation, feature, record, file_format, deep=True)
        if record.int8_scale is not None and file_format == "zarr":
            chunk = paths.scale_chunk(generation.number, feature.name, record.shard)
            return generation.files.read(chunk, what="scales") == zarr_format.scale_chunk(record.int8_scale)
    except CorruptStoreError:
        return False
    return True


def doubted(generation: Generation, name: str) -> set[int]:
    """Shards of a feature of which a writer may have replaced files under a record."""
    notes = generation.files.names(paths.doubts(generation.number, name))
    return {shard for note in notes if (shard := paths.doubt_shard(note)) is not None}


def notes_of_doubt(generation: Generation, name: str, shard: int) -> set[str]:
    """Names of the notes of doubt of a shard."""
    folder = paths.doubts(generation.number, name)
    return {f"{folder}/{note}" for note in generation.files.names(folder) if paths.doubt_shard(note) == shard}


def doubt(generation: Generation, name: str, shard: int) -> str:
    """Publish a note of doubt of this writer; returns its name."""
    note = f"{paths.doubts(generation.number, name)}/{shard:05d}-{secrets.token_hex(8)}"
    generation.files.put_new(note, b"")
    return note


def check_data(
    generation: Generation, feature: FeatureDoc, record: CommitDoc, file_format: FileFormat, *, deep: bool
) -> None:
    """Check the size of the data file, if deep its checksum, and that blocks are where readers will look."""
    assert record.data is not None, "called for shards with data"
    files, name = generation.files, data_name(generation, feature, record.shard, file_format)
    where = files.where(name)
    layout = shard_layout(generation, feature, record, file_format)
    size = files.size(name)
    if size is None:
        raise CorruptStoreError(f"data file {where} is missing; restore it from a copy, or run extract again")
    if size != record.data.num_bytes:
        raise CorruptStoreError(f"data file {where} has {size} bytes, its record says {record.data.num_bytes}")
    if not deep:
        return
    data = np.frombuffer(files.read(name, what="data file"), np.uint8)
    written = layout.offset >= 0
    places = zip(layout.offset[written].tolist(), layout.num_bytes[written].tolist(), strict=True)
    blocks = [crc32c(data[start : start + length]) for start, length in places]
    intact = blocks == record.data.block_crc32c.tolist() and record.data.frame_crc32c == crc32c_of_all(
        frame(data, layout)
    )
    shard_format = FORMATS[file_format]
    first, last = shard_format.head_range(layout, file_bytes=len(data))
    if not intact or not shard_format.check_head(data[first:last], layout, file_bytes=len(data)):
        raise CorruptStoreError(
            f"data file {where} is damaged or another shard's (its crc32c does not match its record); "
            "restore it from a copy"
        )
