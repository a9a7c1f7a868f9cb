"""Completion: the sealed note that every shard of a feature of a generation is committed, and by which records.

If a complete feature loses a commit record, that is damage. Without the note, the shard would seem to be still to
extract. The note is removed before any record of the feature changes, and published again once all records exist.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from featcache.errors import CorruptStoreError
from featcache.files import publish
from featcache.files.places import safe_join
from featcache.files.sealed import read_sealed, seal, sha256_bytes
from featcache.store import paths
from featcache.store.generation import (
    Generation,
    read_features,
    read_generations,
    read_record,
    read_root,
    record_identity,
    recorded_shards,
)
from featcache.store.schema import CommitDoc, CompleteDoc, FeatureDoc

log = logging.getLogger(__name__)


def complete_path(generation: Generation, name: str) -> Path:
    """Path of the note of a feature."""
    return safe_join(generation.root, paths.complete(generation.number, name))


def completion_of(generation: Generation, feature: FeatureDoc, records: Mapping[int, CommitDoc]) -> CompleteDoc:
    """The note for these commit records, given by shard."""
    identity = record_identity(generation, feature)
    checksums = "".join(f"{records[shard].checksum}\n" for shard in sorted(records))
    return CompleteDoc(**identity, num_records=len(records), records_sha256=sha256_bytes(checksums.encode("ascii")))


def read_records(generation: Generation, feature: FeatureDoc) -> dict[int, CommitDoc]:
    """All commit records of a feature in one generation, by shard, compared with the note if there is one.

    Raises:
        CorruptStoreError: A record is damaged, lost or replaced by another one, or the note is damaged.
    """
    note = read_complete(generation, feature)  # first: another writer may commit at any time
    records = {shard: read_record(generation, feature, shard) for shard in recorded_shards(generation, feature.name)}
    check_complete(generation, feature, note, records)
    return records


def read_complete(generation: Generation, feature: FeatureDoc) -> CompleteDoc | None:
    """The note of a feature, or ``None`` if there is none.

    Raises:
        CorruptStoreError: The note is damaged.
    """
    path = complete_path(generation, feature.name)
    if not os.path.lexists(path):
        return None
    return CompleteDoc.from_json(
        read_sealed(path, what="completion"), identity=record_identity(generation, feature), where=path
    )


def check_complete(
    generation: Generation, feature: FeatureDoc, note: CompleteDoc | None, records: Mapping[int, CommitDoc]
) -> None:
    """Compare a note with the commit records that were read after it.

    Raises:
        CorruptStoreError: A record is lost or replaced by another one.
    """
    if note is None or note == completion_of(generation, feature, records):
        return
    lost = sorted(set(range(generation.num_shards)) - set(records))
    where = generation.root / paths.commits(generation.number, feature.name)
    if lost:
        problem = f"lacks {len(lost)} of its {note.num_records} commit records, {lost[0]:05d}.json first"
    else:
        problem = "has other commit records than it was completed with"
    raise CorruptStoreError(
        f"{where} {problem}; restore it from a copy, or run the command that filled {feature.name!r} again, which "
        "computes lost shards anew"
    )


def publish_complete(generation: Generation, feature: FeatureDoc, records: Mapping[int, CommitDoc]) -> None:
    """Publish the note for all records of a feature, unless it already exists."""
    assert set(records) == set(range(generation.num_shards)), "a complete feature has a record for each shard"
    path = complete_path(generation, feature.name)
    publish.put_exact(path, seal(completion_of(generation, feature, records).to_json()))


def withdraw_complete(generation: Generation, name: str) -> None:
    """Remove the note, if there is one; called before a record of the feature changes."""
    path = complete_path(generation, name)
    if os.path.lexists(path):
        publish.remove(path)


def reopen_lost(root: Path) -> None:
    """Remove the notes that do not agree with their records, so that lost shards count as still to be written.

    Args:
        root: Folder of a store, or of a future one.

    Raises:
        CorruptStoreError: An existing commit record is damaged: the user has to restore or remove it.
    """
    if not (root / paths.ROOT).exists():
        return
    for generation in read_generations(root, read_root(root).sampling):
        for feature in read_features(root).values():
            try:
                note = read_complete(generation, feature)
            except CorruptStoreError as error:
                log.warning("%s; it is written again", error)
                withdraw_complete(generation, feature.name)
                continue
            shards = recorded_shards(generation, feature.name)
            records = {shard: read_record(generation, feature, shard) for shard in shards}
            try:
                check_complete(generation, feature, note, records)
            except CorruptStoreError as error:
                log.warning("%s; what is lost is written again", error)
                withdraw_complete(generation, feature.name)
