"""Completion: the sealed note that every shard of a feature of a generation is committed, and by which records.

If a complete feature loses a commit record, that is damage. Without the note, the shard would seem to be still to
extract. The note is removed before any record of the feature changes, and published again once all records exist.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from featcache.errors import CorruptStoreError
from featcache.files.base import open_files
from featcache.files.sealed import seal, sha256_bytes
from featcache.store import paths
from featcache.store.documents import read_document, read_features, read_root
from featcache.store.generation import (
    Generation,
    read_generations,
    read_record,
    record_identity,
    recorded_shards,
)
from featcache.store.schema import CommitDoc, CompleteDoc, FeatureDoc

log = logging.getLogger(__name__)


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
    shards = recorded_shards(generation, feature.name)
    if note is not None and len(shards) < generation.num_shards:  # a listing may be old, see Files.names
        places = {shard: paths.commit(generation.number, feature.name, shard) for shard in range(generation.num_shards)}
        shards = [shard for shard, place in places.items() if generation.files.exists(place)]
    found = generation.files.each(partial(read_record, generation, feature), shards)
    records = dict(zip(shards, found, strict=True))
    check_complete(generation, feature, note, records)
    return records


def read_complete(generation: Generation, feature: FeatureDoc) -> CompleteDoc | None:
    """The note of a feature, or ``None`` if there is none.

    Raises:
        CorruptStoreError: The note is damaged.
    """
    files, name = generation.files, paths.complete(generation.number, feature.name)
    if not files.exists(name):
        return None
    return CompleteDoc.from_json(
        read_document(files, name, what="completion"),
        identity=record_identity(generation, feature),
        where=files.where(name),
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
    where = generation.files.where(paths.commits(generation.number, feature.name))
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
    note = seal(completion_of(generation, feature, records).to_json())
    generation.files.put_exact(paths.complete(generation.number, feature.name), note)


def withdraw_complete(generation: Generation, name: str) -> None:
    """Remove the note, if there is one; called before a record of the feature changes."""
    note = paths.complete(generation.number, name)
    if generation.files.exists(note):
        generation.files.remove(note)


def reopen_lost(path: Path | str) -> None:
    """Remove the notes that do not agree with their records, so that lost shards count as still to be written.

    Args:
        path: A store, or where none is yet.

    Raises:
        CorruptStoreError: An existing commit record is damaged: the user has to restore or remove it.
    """
    files = open_files(path)
    if not files.exists(paths.ROOT):
        return
    for generation in read_generations(files, read_root(files).sampling):
        for feature in read_features(files).values():
            try:
                note = read_complete(generation, feature)
            except CorruptStoreError as error:
                log.warning("%s; it is written again", error)
                withdraw_complete(generation, feature.name)
                continue
            shards = recorded_shards(generation, feature.name)
            found = files.each(partial(read_record, generation, feature), shards)
            records = dict(zip(shards, found, strict=True))
            try:
                check_complete(generation, feature, note, records)
            except CorruptStoreError as error:
                log.warning("%s; what is lost is written again", error)
                withdraw_complete(generation, feature.name)
