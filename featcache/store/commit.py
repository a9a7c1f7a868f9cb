"""The commit protocol of one feature of one shard. The record is the commit point; a valid committed shard wins.

The order is: row table, data file (and int8 scales), commit record, each published atomically and durably. A record
that is damaged, or whose files are missing, is removed before any of its files changes, so that a valid record never
points to other bytes.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.types import VideoOutcome
from featcache.errors import CorruptStoreError, NonFiniteFeatureError
from featcache.files import publish
from featcache.files.places import safe_join
from featcache.files.sealed import seal
from featcache.store import paths, zarr_format
from featcache.store.blocks import EncodedShard
from featcache.store.completion import withdraw_complete
from featcache.store.generation import FORMATS, Generation, data_path, read_record, record_identity
from featcache.store.paths import FileFormat
from featcache.store.plan import block_rows
from featcache.store.precision import Scale, quantise, staging_dtype
from featcache.store.schema import CommitDoc, DataRef, FeatureDoc, TableRef

log = logging.getLogger(__name__)


def is_whole(generation: Generation, feature: FeatureDoc, record: CommitDoc, file_format: FileFormat) -> bool:
    """Whether the files of a valid record exist with their recorded sizes."""
    rows = safe_join(generation.root, paths.rows(generation.number, record.shard, record.rows.sha256))
    whole = _has_size(rows, record.rows.num_bytes)
    if record.data is not None:
        data = data_path(generation, feature, record.shard, file_format)
        whole = whole and _has_size(data, record.data.num_bytes)
    return whole


def _has_size(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes


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
) -> None:
    """Publish one feature of a shard; the caller holds the shard's publish lock. See ``StoreWriter.commit_shard``."""
    encoded, scale, size = _encode(generation, feature, shard, array=array, present=present, file_format=file_format)
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
    safe_join(generation.root, paths.commits(generation.number, feature.name))
    path = generation.root / paths.commit(generation.number, feature.name, shard)  # a link is replaced
    if _keep_committed(generation, feature, shard, path=path, record=record, file_format=file_format):
        return
    if with_metadata and file_format == "zarr":
        _publish_metadata(generation, feature, size)
    if encoded is not None:
        _publish_data(data_path(generation, feature, shard, file_format), encoded)
        if scale is not None and file_format == "zarr":
            publish.put_exact(
                safe_join(generation.root, paths.scale_chunk(generation.number, feature.name, shard)),
                zarr_format.scale_chunk(scale),
            )
    if not publish.put_new(path, sealed):
        log.warning("shard %d of %r was committed by another writer meanwhile; its record stays", shard, feature.name)


def _encode(
    generation: Generation,
    feature: FeatureDoc,
    shard: int,
    *,
    array: npt.NDArray[np.generic],
    present: npt.NDArray[np.bool_],
    file_format: FileFormat,
) -> tuple[EncodedShard | None, Scale | None, int]:
    """The shard's file (``None`` without a present row), its int8 scales, and the number of rows per block."""
    record = feature.record
    shape = (generation.shard_rows, *record.shape)
    assert array.shape == shape, f"{feature.name} is {array.shape}, a shard of it is {shape}"
    assert array.dtype == staging_dtype(record.dtype), f"{feature.name} is {array.dtype}, not its staging dtype"
    size = block_rows(record.num_bytes, generation.shard_rows)
    stored, scale = np.ascontiguousarray(array), None
    try:
        if record.dtype == "int8":
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
    path: Path,
    record: CommitDoc,
    file_format: FileFormat,
) -> bool:
    """Whether a valid committed shard exists and wins; an invalid record is removed."""
    is_there = os.path.lexists(path)
    if path.parent.is_dir():
        publish.sync_folder(path.parent)  # the process that published or removed it may have died before syncing
    if not is_there:
        withdraw_complete(generation, feature.name)
        return False
    try:
        found = read_record(generation, feature, shard)
    except CorruptStoreError as error:
        log.warning("replacing a damaged commit record: %s", error)
        withdraw_complete(generation, feature.name)
        publish.remove(path)
        return False
    if not is_whole(generation, feature, found, file_format):
        log.warning("shard %d of %r has lost files of its record; writing it again", shard, feature.name)
        withdraw_complete(generation, feature.name)
        publish.remove(path)
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
    folder = safe_join(generation.root, paths.array(generation.number, feature.name))
    publish.put_exact(folder / paths.GROUP, array)
    if feature.record.dtype == "int8":
        scales = zarr_format.scale_metadata(num_shards=generation.num_shards, num_channels=feature.record.shape[-1])
        folder = safe_join(generation.root, paths.scale_array(generation.number, feature.name))
        publish.put_exact(folder / paths.GROUP, scales)


def _publish_data(path: Path, encoded: EncodedShard) -> None:
    """Publish a data file; an uncommitted file with the same bytes is reused, any other is replaced."""
    if publish.put_new(path, encoded.chunks):
        return
    if not _has_size(path, encoded.num_bytes) or not same_bytes(path, encoded):
        publish.put_replace(path, encoded.chunks)


def same_bytes(path: Path, encoded: EncodedShard) -> bool:
    """Whether a file holds exactly these buffers."""
    if path.is_symlink():
        return False
    with path.open("rb") as file:
        return all(file.read(len(chunk)) == bytes(chunk) for chunk in encoded.chunks) and not file.read(1)
