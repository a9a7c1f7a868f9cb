"""A scan that is kept in a file, so that starting again opens only files that are new or have changed.

The file is a manifest with one more column, the modification time of each file, or a digest of the version of an object
in a bucket. A file of the same path, size and time is not opened again. Which videos there are, their labels and their
splits come from the list of the day.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache.data.manifest import Manifest, manifest_table, table_to_videos, write_table
from featcache.data.parquet import UnreadableTableError, from_numbers, numbers, read_table
from featcache.data.remote import Facts, facts_of_many
from featcache.data.scan import scan_listed
from featcache.data.types import MAX_GIGAPIXELS, VideoRecord
from featcache.errors import ManifestError

log = logging.getLogger(__name__)

OnScan = Callable[[int, int], None]
_TIMES = "mtime_ns"
_METADATA_KEY = b"featcache.kept"
_OF_THE_FILE = ("ok", "undecodable")
"""Statuses that another scan of the same bytes would find again."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A video, and the stamp that its file had before it was scanned; see :class:`featcache.data.remote.Facts`."""

    video: VideoRecord
    time: int


def scan_keeping(
    listed: Manifest,
    path: Path,
    *,
    decoder: str = "pyav",
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_gigapixels: float = MAX_GIGAPIXELS,
    decodes: bool = False,
    at_once: int = 20_000,
    progress: OnScan | None = None,
) -> Manifest:
    """As :func:`featcache.data.scan.scan_listed`, except for files that an earlier call has kept; keeps what it finds.

    Args:
        listed: The videos.
        path: The file in which rows are kept; it need not exist, and one of other settings of the scan is replaced.
        decoder: As for a scan.
        num_workers: As for a scan.
        deadline_seconds: As for a scan.
        max_gigapixels: As for a scan.
        decodes: As for a scan.
        at_once: Number of scanned videos after which rows are kept, so that a killed scan goes on from there.
        progress: Called with (videos done, videos in total); those that are not opened count as done.

    Raises:
        UnknownNameError: There is no such decoder.
        FeatcacheError: As in a scan.
    """
    about = {"decoder": decoder, "max_gigapixels": max_gigapixels, "decodes": decodes, "root": listed.root}
    kept = _read(path, about)
    rows, lacking = [], []
    facts = facts_of_many([listed.path_of(video) for video in listed.videos])
    for place, video in enumerate(listed.videos):
        row, is_known = _looked_up(video, facts[place], kept)
        rows.append(row)
        if not is_known:
            lacking.append(place)
    num_all = sum(video.status == "ok" for video in listed.videos)
    num_done = num_all - len(lacking)
    for first in range(0, len(lacking), at_once):
        chunk, later = lacking[first : first + at_once], set(lacking[first + at_once :])
        part = scan_listed(
            replace(listed, videos=tuple(rows[place].video for place in chunk)),
            decoder=decoder,
            num_workers=num_workers,
            deadline_seconds=deadline_seconds,
            max_gigapixels=max_gigapixels,
            decodes=decodes,
            progress=_after(progress, num_done=num_done, num_all=num_all),
        )
        for place, video in zip(chunk, part.videos, strict=True):
            rows[place] = _Row(video, rows[place].time)
        num_done += len(chunk)
        if later:
            _write(path, about, [row for place, row in enumerate(rows) if place not in later])
    if lacking or [row.video for row in rows] != [row.video for row in kept.values()]:
        _write(path, about, rows)
    return replace(listed, videos=tuple(row.video for row in rows), is_decoded=decodes)


def _after(progress: OnScan | None, *, num_done: int, num_all: int) -> OnScan | None:
    """Reports of a part of the scan as reports of the whole."""
    return None if progress is None else lambda done, _: progress(num_done + done, num_all)


def _looked_up(video: VideoRecord, about: Facts | None, kept: Mapping[str, _Row]) -> tuple[_Row, bool]:
    """What is known of a listed video, and whether it need not be opened."""
    if video.status != "ok":
        return _Row(video, 0), True
    if about is None:  # the scan will say why
        return _Row(video, 0), False
    found = kept.get(video.path)
    if found is None or found.video.status not in _OF_THE_FILE:
        return _Row(video, about.stamp), False
    if (found.video.num_bytes, found.time) != (about.num_bytes, about.stamp):
        return _Row(video, about.stamp), False
    return _Row(replace(found.video, id=video.id, labels=video.labels, split=video.split), found.time), True


def _read(path: Path, about: Mapping[str, Any]) -> dict[str, _Row]:
    """The kept rows by path; none if there is no file, or one of other settings."""
    try:
        table = read_table(path)
        if json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"null")) != about:
            return {}
        times = numbers(table.column(_TIMES)).tolist()
        videos = table_to_videos(table)
    except FileNotFoundError:
        return {}
    except (UnreadableTableError, ManifestError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s); the videos are scanned again", path, error)
        return {}
    return {video.path: _Row(video, time) for video, time in zip(videos, times, strict=True)}


def _write(path: Path, about: Mapping[str, Any], rows: Sequence[_Row]) -> None:
    manifest = Manifest(root=about["root"], videos=tuple(row.video for row in rows), is_decoded=about["decodes"])
    table = manifest_table(manifest)
    table = table.append_column(_TIMES, from_numbers(np.array([row.time for row in rows], np.int64)))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _METADATA_KEY: json.dumps(about).encode()})
    write_table(table, path)
