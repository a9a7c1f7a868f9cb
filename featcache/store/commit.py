"""The commit protocol of one feature of one shard. The record is the commit point; a valid committed shard wins.

The order is: row table, data file (and int8 scales), commit record, each published atomically and durably. A record
that is damaged, or whose files are missing, is removed before any of its files changes, so that a valid record never
points to other bytes. Nothing of this rests on the lock that the caller holds: a file that is in the way is replaced
under a note of doubt (see :mod:`featcache.store.whole`).
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.types import VideoOutcome
from featcache.errors import CorruptStoreError, NonFiniteFeatureError
from featcache.files.sealed import seal
from featcache.store import paths, zarr_format
from featcache.store.blocks import Buffer, EncodedShard
from featcache.store.completion import withdraw_complete
from featcache.store.generation import FORMATS, Generation, data_name, read_record, record_identity
from featcache.store.paths import FileFormat
from featcache.store.plan import block_rows
from featcache.store.precision import Scale, quantise, staging_dtype, stored_dtype
from featcache.store.schema import CommitDoc, DataRef, FeatureDoc, TableRef
from featcache.store.whole import doubt, is_whole

log = logging.getLogger(__name__)


def commit_feature(
    generation: Generation,
    feature: FeatureDoc,
    shard: int,
    *,
    array: npt.NDArray[np.generic],
    present: npt.NDArray[np.bool_],
    rows: TableRef,
    failed: tuple[VideoOutcome, ...],
    provenance: Mapping[str, Any],
    file_format: FileFormat,
    with_metadata: bool,
    scale: Scale | None = None,
) -> None:
    """Publish one feature of a shard; the caller holds the shard's publish lock. See ``StoreWriter.commit_shard``."""
    encoded, scale, size = _encode(
        generation, feature, shard, array=array, present=present, file_format=file_format, scale=scale
    )
    record = CommitDoc(
        **record_identity(generation, feature),
        shard=shard,
        rows=rows,
        data=None
        if encoded is None
        else DataRef(
            num_bytes=encoded.num_bytes,
            frame_crc32c=encoded.frame_crc32c,
            data_offset=encoded.data_offset,
            block_rows=size,
            block_crc32c=encoded.block_crc32c,
        ),
        int8_scale=scale,
        num_ok=len(generation.shard_segments(shard)) - len(failed),
        failed=failed,
        provenance=provenance,
    )
    sealed = seal(record.to_json())
    if _keep_committed(generation, feature, shard, record=record, file_format=file_format):
        return
    if with_metadata and file_format == "zarr":
        _publish_metadata(generation, feature, size)
    contents: dict[str, tuple[Buffer, ...]] = {}
    if encoded is not None:
        contents[data_name(generation, feature, shard, file_format)] = encoded.chunks
        if scale is not None and file_format == "zarr":
            contents[paths.scale_chunk(generation.number, feature.name, shard)] = (zarr_format.scale_chunk(scale),)
    files = generation.files
    are_new = [files.put_new(name, chunks) for name, chunks in contents.items()]
    if all(are_new) and files.put_new(paths.commit(generation.number, feature.name, shard), sealed):
        return
    _settle(generation, feature, shard, contents=contents, record=record, sealed=sealed, file_format=file_format)


def _settle(
    generation: Generation,
    feature: FeatureDoc,
    shard: int,
    *,
    contents: Mapping[str, tuple[Buffer, ...]],
    record: CommitDoc,
    sealed: bytes,
    file_format: FileFormat,
) -> None:
    """Publish a shard where files of another writer are in the way, who may be dead or at work, until all agree."""
    files = generation.files
    note = doubt(generation, feature.name, shard)
    while not _keep_committed(generation, feature, shard, record=record, file_format=file_format):
        for name, chunks in contents.items():
            files.put_exact(name, chunks)
        files.put_new(paths.commit(generation.number, feature.name, shard), sealed)
    files.remove(note)


def _encode(
    generation: Generation,
    feature: FeatureDoc,
    shard: int,
    *,
    array: npt.NDArray[np.generic],
    present: npt.NDArray[np.bool_],
    file_format: FileFormat,
    scale: Scale | None,
) -> tuple[EncodedShard | None, Scale | None, int]:
    """The shard's file (``None`` without a present row), its int8 scales, and the number of rows per block.

    With ``scale`` the rows are int8 already, copied from another shard.
    """
    record = feature.record
    shape = (generation.shard_rows, *record.shape)
    assert array.shape == shape, f"{feature.name} is {array.shape}, a shard of it is {shape}"
    expected = staging_dtype(record.dtype) if scale is None else stored_dtype(record.dtype)
    assert array.dtype == expected, f"{feature.name} is {array.dtype}, not {expected}"
    size = block_rows(record.num_bytes, generation.shard_rows, max_bytes=generation.plan.block_bytes)
    stored = np.ascontiguousarray(array)
    try:
        if record.dtype == "int8" and scale is None:
            stored, scale = quantise(stored.astype(np.float32, copy=False), present)
        if not present.any():
            return None, scale, size
        encoded = FORMATS[file_format].encode(
            stored,
            present,
            block_rows=size,
            num_rows=generation.planned_rows(shard),
            record=record,
            scale=scale,
        )
    except NonFiniteFeatureError as error:
        raise NonFiniteFeatureError(
            f"feature {feature.name!r} cannot be stored: {error} of shard {shard}; "
            "check the weights, or store it with precision float32"
        ) from error
    return encoded, scale, size


def _keep_committed(
    generation: Generation,
    feature: FeatureDoc,
    shard: int,
    *,
    record: CommitDoc,
    file_format: FileFormat,
) -> bool:
    """Whether a valid committed shard exists and wins; an invalid record is removed."""
    files, name = generation.files, paths.commit(generation.number, feature.name, shard)
    is_there = files.exists(name)  # also as a link, which is no record and is replaced
    files.settle(paths.commits(generation.number, feature.name))
    if not is_there:
        withdraw_complete(generation, feature.name)
        return False
    try:
        found = read_record(generation, feature, shard)
    except CorruptStoreError as error:
        log.warning("replacing a damaged commit record: %s", error)
        withdraw_complete(generation, feature.name)
        files.remove(name)
        return False
    if not is_whole(generation, feature, found, file_format):
        log.warning("shard %d of %r has other files than its record says; writing it again", shard, feature.name)
        withdraw_complete(generation, feature.name)
        files.remove(name)
        return False
    mine, theirs = (doc.data.to_json() if doc.data else None for doc in (record, found))
    if mine != theirs or found.rows != record.rows:
        log.warning(
            "shard %d of %r is committed already with other bytes; the committed one stays", shard, feature.name
        )
    return True


def _publish_metadata(generation: Generation, feature: FeatureDoc, size: int) -> None:
    array = zarr_format.array_metadata(
        feature.record,
        num_shards=generation.num_shards,
        shard_rows=generation.shard_rows,
        block_rows=size,
        name=feature.name,
    )
    folder = paths.array(generation.number, feature.name)
    generation.files.put_exact(f"{folder}/{paths.GROUP}", array)
    if feature.record.dtype == "int8":
        scales = zarr_format.scale_metadata(num_shards=generation.num_shards, num_channels=feature.record.shape[-1])
        folder = paths.scale_array(generation.number, feature.name)
        generation.files.put_exact(f"{folder}/{paths.GROUP}", scales)
