r"""The manifest: one row per video, usable or not, and its exact form as a table.

Text in tables is UTF-8. File names need not be, so a byte that is not UTF-8 is written ``\xNN`` and a backslash
``\\``; reading undoes both. Labels are the column ``label`` for the label of that name and ``label.<name>`` for any
other; a missing label is null.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featcache.data.parquet import UnreadableTableError, from_numbers, from_texts, numbers, opened, read_table
from featcache.data.types import STATUSES, Status, VideoRecord
from featcache.errors import ManifestError
from featcache.files.publish import put_replace
from featcache.files.urls import place_of, without_scheme

_TEXT_FIELDS = ("id", "path", "content_hash", "codec", "transfer", "split", "status", "reason")
_INT_FIELDS = ("num_bytes", "num_frames", "height", "width")
_FLOAT_FIELDS = ("fps", "duration_seconds", "start_seconds", "pixel_aspect")
# Columns that a table has only if a video needs them, so that tables of ordinary videos never change.
RARE_FIELDS: Mapping[str, float | str] = {"pixel_aspect": 1.0, "transfer": ""}
_LATER_FIELDS: Mapping[str, float | str] = {"start_seconds": 0.0, **RARE_FIELDS}  # absent from older tables
_METADATA_KEY = b"featcache.manifest"
_VERSION = 1

# Control characters, lone surrogates (bytes that are not UTF-8), line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """All videos of a source, in a fixed order.

    Attributes:
        root: Folder to which relative paths refer, on this machine or in a bucket.
        videos: One record per video; ids are unique.
        left_out: Numbers of files of the source that were left out, by kind (``.gif``, ``hidden``, …); known only after
            listing, and not part of the written manifest.
        is_decoded: Whether every frame of the usable videos was decoded when they were scanned.

    Raises:
        ManifestError: A duplicate or unusable id, a path that leaves the root, or an unusable label name.
    """

    root: str
    videos: tuple[VideoRecord, ...]
    left_out: Mapping[str, int] = field(default_factory=dict, compare=False)
    is_decoded: bool = False

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for video in self.videos:
            if problem := id_problem(video.id):
                raise ManifestError(f"video id {video.id!r} {problem}; rename the file or give it an id of its own")
            if video.id in seen:
                raise ManifestError(f"video id {video.id!r} occurs twice; remove one or give each an id of its own")
            if problem := _path_problem(video.path):
                raise ManifestError(f"path {video.path!r} of video {video.id!r} {problem}")
            for name in video.labels:
                if not name or _has_unprintable(name):
                    raise ManifestError(f"label name {name!r} of video {video.id!r} is empty or unprintable; rename it")
            seen.add(video.id)

    def __len__(self) -> int:
        return len(self.videos)

    def path_of(self, video: VideoRecord) -> Path:
        """Path of a video's file."""
        return place_of(self.root, video.path)  # validated: relative inside the root, absolute, or a URL

    @property
    def same_content(self) -> tuple[tuple[str, str], ...]:
        """Ids of videos whose file has the same content as an earlier video, each with the earlier video's id."""
        first: dict[str, str] = {}
        return tuple(
            (video.id, earlier)
            for video in self.videos
            if video.status == "ok" and video.content_hash
            if (earlier := first.setdefault(video.content_hash, video.id)) != video.id
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of all label columns, ``label`` first."""
        return _label_names(self.videos)

    def count_by_status(self) -> dict[Status, int]:
        """Number of videos of each status, including zeros; the sum is ``len(self)``."""
        counts = Counter(video.status for video in self.videos)
        return {status: counts[status] for status in STATUSES}

    def select(self, *, split: str | None = None, status: Status | None = None) -> "Manifest":
        """The videos of a split, of a status, or of both."""
        return Manifest(
            root=self.root,
            videos=tuple(
                video
                for video in self.videos
                if (split is None or video.split == split) and (status is None or video.status == status)
            ),
            is_decoded=self.is_decoded,
        )

    def summary(self) -> dict[str, Any]:
        """Totals, short enough for a screen, as JSON-ready values."""
        usable = [video for video in self.videos if video.status == "ok"]
        return {
            "root": self.root,
            "num_videos": len(self),
            "is_decoded": self.is_decoded,
            "status": self.count_by_status(),
            "splits": dict(sorted(Counter(video.split for video in self.videos if video.split).items())),
            "labels": {
                name: len({video.labels[name] for video in self.videos if name in video.labels})
                for name in self.label_names
            },
            "num_bytes": sum(video.num_bytes for video in self.videos),
            "num_frames": sum(video.num_frames for video in usable),
            "duration_seconds": sum(video.duration_seconds for video in usable),
            "num_not_square": sum(not video.has_square_pixels for video in usable),
            "num_hdr": sum(bool(video.transfer) for video in usable),
            "num_same_content": len(self.same_content),
            "left_out": dict(self.left_out),
        }


def id_problem(video_id: str) -> str | None:
    """Why a name cannot be a video id, as the end of a sentence; ``None`` if it can.

    Ids are relative POSIX paths of printable characters. Unicode, spaces and quotes are fine.
    """
    if not video_id:
        return "is empty"
    if video_id.startswith("/") or re.match(r"[A-Za-z]:/", video_id):
        return "is an absolute path"
    if "\\" in video_id:
        return "contains a backslash"
    if _has_unprintable(video_id):
        return "contains a control character, a line break or a byte that is not UTF-8"
    if bad := {"", ".", ".."} & set(video_id.split("/")):
        return f"has a path part {min(bad)!r}"
    return None


def default_id(path: str) -> str:
    """The id that a file gets from its path: the path itself without anchor or scheme, ``.`` and ``..``.

    Characters that an id cannot contain (control characters, backslashes, bytes that are not UTF-8) are written
    ``%XX``, byte by byte.
    """
    parts = [part for part in PurePosixPath(without_scheme(path)).parts if part not in {"/", "//", ".", ".."}]

    def escape(character: str) -> str:
        if character != "\\" and not _has_unprintable(character):
            return character
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))

    return "".join(map(escape, "/".join(parts)))


def videos_to_table(videos: Sequence[VideoRecord]) -> pa.Table:
    """Records as a table; :func:`table_to_videos` gives back equal records.

    Columns: the fields of ``VideoRecord`` except ``labels``, then one string column per label name (see the module's
    rule). The columns :data:`RARE_FIELDS` are present only if a video has an unusual value.
    """
    columns: dict[str, pa.Array[Any]] = {}
    for name in _TEXT_FIELDS:
        columns[name] = from_texts([_escape(getattr(video, name)) for video in videos])
    for name in _INT_FIELDS:
        columns[name] = from_numbers(np.array([getattr(video, name) for video in videos], np.int64))
    for name in _FLOAT_FIELDS:
        columns[name] = from_numbers(np.array([getattr(video, name) for video in videos], np.float64))
    for name, usual in RARE_FIELDS.items():
        if all(getattr(video, name) == usual for video in videos):
            del columns[name]
    for name in _label_names(videos):
        values = [_escape(video.labels[name]) if name in video.labels else None for video in videos]
        columns[label_column(name)] = from_texts(values)
    return pa.table(columns)


def table_to_videos(table: pa.Table) -> tuple[VideoRecord, ...]:
    """Records from a table made by :func:`videos_to_table`; unknown columns are ignored.

    Raises:
        ManifestError: A column is missing, occurs twice, has another type or gaps, a count is below 0, or a status is
            unknown.
    """
    fields = (*_TEXT_FIELDS, *_INT_FIELDS, *_FLOAT_FIELDS)
    if missing := [name for name in fields if name not in table.column_names and name not in _LATER_FIELDS]:
        raise ManifestError(
            f"table of videos has no column {missing[0]!r}; it was not written by featcache, scan again"
        )
    label_columns = {column: name for column in table.column_names if (name := label_name(column)) is not None}
    for name in (*fields, *label_columns):
        if problem := _column_problem(table, name):
            raise ManifestError(
                f"table of videos has a column {name!r} that {problem}; it was not written by featcache, scan again"
            )
    videos: list[VideoRecord] = []
    for row in table.to_pylist():
        known: dict[str, Any] = {name: row.get(name, _LATER_FIELDS.get(name)) for name in fields} | {
            name: _unescape(row[name]) for name in _TEXT_FIELDS if name in row
        }
        if known["status"] not in STATUSES:
            raise ManifestError(
                f"video {known['id']!r} has status {known['status']!r}, expected one of {', '.join(STATUSES)}; "
                "the table was written by a newer featcache, upgrade"
            )
        labels = {name: _unescape(row[column]) for column, name in label_columns.items() if row[column] is not None}
        videos.append(VideoRecord(**known, labels=labels))
    return tuple(videos)


def _column_problem(table: pa.Table, name: str) -> str | None:
    """Why :func:`videos_to_table` cannot have made a column, as the end of a sentence; ``None`` if it can."""
    found = table.column_names.count(name)
    if found != 1:
        return None if not found and name in _LATER_FIELDS else "is there twice"
    column = table.column(name)
    kind = pa.int64() if name in _INT_FIELDS else pa.float64() if name in _FLOAT_FIELDS else pa.string()
    if column.type != kind:
        return f"holds {column.type}, not {kind}"
    if column.null_count and label_name(name) is None:
        return "has empty cells"
    if name in _INT_FIELDS and len(column) and numbers(column).min() < 0:
        return "has numbers below 0"
    return None


def label_column(name: str) -> str:
    """Column that holds a label: ``label`` for the label of that name, otherwise ``label.<name>``."""
    return "label" if name == "label" else f"label.{name}"


def label_name(column: str) -> str | None:
    """Label that a column holds, or ``None`` if it is not a label column."""
    if column == "label":
        return "label"
    return column.removeprefix("label.") if column.startswith("label.") and column != "label." else None


def listed_label(column: str) -> str | None:
    """As :func:`label_name`, for lists written by people, in which ``group`` may stand for ``label.group``."""
    return column if column == "group" else label_name(column)


def is_manifest(path: Path) -> bool:
    """Whether a Parquet file was written by :func:`write_parquet`; False for any other file."""
    try:
        with opened(path) as file:
            return _METADATA_KEY in (file.schema_arrow.metadata or {})
    except (UnreadableTableError, FileNotFoundError):
        return False


def write_parquet(manifest: Manifest, path: Path) -> None:
    """Write a manifest; :func:`read_parquet` gives back an equal one."""
    write_table(manifest_table(manifest), path)


def manifest_table(manifest: Manifest) -> pa.Table:
    """The table of a manifest, whose metadata say what it is."""
    about: dict[str, Any] = {"version": _VERSION, "root": _escape(manifest.root)}
    if manifest.is_decoded:  # manifests of ordinary scans never change
        about["is_decoded"] = True
    return videos_to_table(manifest.videos).replace_schema_metadata({_METADATA_KEY: json.dumps(about).encode()})


def write_table(table: pa.Table, path: Path) -> None:
    """Publish a table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    put_replace(path, sink.getvalue().to_pybytes())


def read_parquet(path: Path) -> Manifest:
    """Read a manifest written by :func:`write_parquet`.

    Raises:
        ManifestError: No such file, or not a manifest.
    """
    try:
        table = read_table(path)
    except FileNotFoundError as error:
        raise ManifestError(f"manifest {path} does not exist; make it with `featcache scan`") from error
    except UnreadableTableError as problem:
        raise ManifestError(f"manifest {path} {problem}; scan the source again") from problem
    about = (table.schema.metadata or {}).get(_METADATA_KEY)
    if about is None:
        raise ManifestError(f"{path} is a Parquet file but no manifest; pass it as a listing to `featcache scan`")
    try:
        facts = json.loads(about)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not isinstance(facts.get("root"), str):
        raise ManifestError(f"manifest {path} does not say which folder its videos are in; scan the source again")
    if facts.get("version") != _VERSION:
        raise ManifestError(
            f"manifest {path} has version {facts.get('version')!s:.20}, this featcache reads {_VERSION}; upgrade"
        )
    try:
        videos = table_to_videos(table)
        return Manifest(root=_unescape(facts["root"]), videos=videos, is_decoded=facts.get("is_decoded") is True)
    except ManifestError as error:
        raise ManifestError(f"manifest {path}: {error}") from error


def _label_names(videos: Iterable[VideoRecord]) -> tuple[str, ...]:
    names = {name for video in videos for name in video.labels}
    return tuple(sorted(names, key=lambda name: (name != "label", name)))


def _has_unprintable(text: str) -> bool:
    if text.isprintable():  # nearly every name, and a hundred times faster
        return False
    return any(unicodedata.category(character) in _UNPRINTABLE for character in text)


def _path_problem(path: str) -> str | None:
    """Why a path cannot be used, as the end of a sentence; ``None`` if it can."""
    if not path or "\0" in path:
        return "is empty or contains a NUL; no file has that name"
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "contains half a surrogate pair; no file has that name"
    if ".." in path and ".." in PurePosixPath(path).parts and not path.startswith("/"):
        return "leaves the manifest's root; write it as an absolute path"
    return None


def _escape(text: str) -> str:
    if text.isascii() and "\\" not in text:  # nearly every text, and ten times faster
        return text
    raw = text.replace("\\", "\\\\").encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    raw = re.sub(rb"\\(\\|x([0-9a-f]{2}))", _unescape_match, text.encode())
    return raw.decode("utf-8", "surrogateescape")


def _unescape_match(match: re.Match[bytes]) -> bytes:
    return b"\\" if match[2] is None else bytes.fromhex(match[2].decode())
