"""Sources: the arguments of `scan`, listed without opening a video.

* **A folder**, recursively. Files are taken by suffix (:data:`VIDEO_SUFFIXES`); names that begin with a dot are
  skipped; symbolic links are followed, and a folder that contains itself is entered once. Files that are left out are
  counted, a hidden folder as one. The label is the name of the folder that holds the file; files directly in the root
  have none, so a flat folder is unlabelled. If all videos lie below folders with names of splits, at least two and
  ``train`` among them (:data:`SPLIT_NAMES`), that folder is the split: ``train/<class>/a.mp4``, ``test/<class>/b.mp4``.
* **A listing**: ``.csv``, ``.jsonl`` or ``.parquet`` with the column ``path`` and optionally ``id``, ``split``,
  ``label``, ``label.<name>`` and ``group`` (the label of that name); other columns are ignored. Relative paths start
  from the listing's folder. An empty cell is a missing value.
* **One video file**, or **a manifest** written before, whose videos are listed again.

Each of them may be in a bucket: ``s3://bucket/folder``. There a source is a folder unless it ends like a video or a
listing. Paths of a listing may be URLs, wherever the listing is.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from featcache.data.cells import cell_text, label_text, open_list, read_csv, squeezed
from featcache.data.manifest import Manifest, default_id, is_manifest, listed_label, read_parquet
from featcache.data.parquet import UnreadableTableError, opened, read_batches
from featcache.data.remote import facts_of, names_below, why
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError
from featcache.files.urls import SCHEMES, absolute, beside, shown, url_of

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"}
    | {".vob", ".webm", ".wmv", ".y4m"}
)

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Splits by the names that folders and lists use for them, without regard to case."""

_SUFFIX_LENGTH = 11  # with the dot; a longer suffix is the end of a sentence

# A row of a listing and its place, e.g. "line 3".
Row = tuple[str, dict[str, Any]]


def list_source(source: Path, *, needs_paths: bool = True) -> Manifest:
    """List the videos of a folder, a listing, a manifest or a single file, sorted by id, without opening one.

    The records have ``id``, ``path``, ``labels`` and ``split``; ``scan`` fills in the rest.

    Args:
        source: A folder, a listing, a manifest or a video file.
        needs_paths: Whether a row of a listing needs a ``path``; otherwise an ``id`` is enough.

    Raises:
        ManifestError: There is no such source, it holds no video, or a row cannot be used; names the row.
    """
    left_out: Counter[str] = Counter()
    named = shown(source)
    if is_folder_of_videos(source):
        url = url_of(source)
        paths = _walk_bucket(url, left_out) if url else _walk_folder(source, left_out)
        root, videos = source, _label_by_folder(paths)
        nothing = f"folder {named} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}); name another folder"
    elif problem := _why_not_there(source):
        raise ManifestError(f"{named} {problem}")
    elif source.suffix.lower() in VIDEO_SUFFIXES:
        root, videos, nothing = source.parent, [VideoRecord(id=default_id(source.name), path=source.name)], ""
    elif source.suffix.lower() == ".parquet" and is_manifest(source):
        manifest = read_parquet(source)
        root, nothing = Path(manifest.root), f"manifest {named} lists no video"
        videos = [VideoRecord(id=old.id, path=old.path, labels=old.labels, split=old.split) for old in manifest.videos]
    elif reader := _READERS.get(source.suffix.lower()):
        root, nothing = source.parent, f"listing {named} has no row; add videos to it"
        videos = [_record_of_row(source, place, row, needs_paths) for place, row in reader(source, needs_paths)]
    else:
        known = ", ".join(sorted(_READERS))
        raise ManifestError(f"{named} is neither a folder nor a listing ({known}) nor a video file by its suffix")
    if not videos:
        raise ManifestError(nothing)
    return Manifest(
        root=absolute(root),
        videos=tuple(sorted(videos, key=lambda video: video.id)),
        left_out=dict(left_out.most_common()),
    )


def _why_not_there(source: Path) -> str | None:
    """Why a source cannot be read, as the end of a sentence; ``None`` if nothing speaks against it."""
    try:
        facts_of(source)
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist; give a folder of videos or a .csv, .jsonl or .parquet listing"
    except OSError as error:
        return f"cannot be read ({why(error)}); fix that, or name another source"
    return None


def is_folder_of_videos(source: Path) -> bool:
    """Whether a source is a folder; in a bucket, where there are none, whatever is not named like a file."""
    if url_of(source) is None:
        return source.is_dir()
    return source.suffix.lower() not in {*VIDEO_SUFFIXES, *_READERS}


def _label_by_folder(paths: Sequence[PurePath]) -> list[VideoRecord]:
    """Rows of videos by their paths below the root."""
    # A class may be called "test": such folders are splits only if every video lies below one of them.
    splits = {path.parts[0]: SPLIT_NAMES.get(path.parts[0].casefold(), "") for path in paths if len(path.parts) > 1}
    has_splits = all(len(path.parts) > 1 for path in paths) and all(splits.values())
    has_splits = has_splits and "train" in splits.values() and len(set(splits.values())) > 1
    videos: list[VideoRecord] = []
    for path in paths:
        classes = path.parent.parts[1:] if has_splits else path.parent.parts
        videos.append(
            VideoRecord(
                id=default_id(path.as_posix()),
                path=path.as_posix(),
                labels={"label": default_id(classes[-1])} if classes else {},
                split=splits[path.parts[0]] if has_splits else "",
            )
        )
    return videos


def _walk_folder(root: Path, left_out: Counter[str]) -> list[PurePath]:
    return [path.relative_to(root) for path in _walk(root, ancestors=frozenset(), left_out=left_out)]


def _walk_bucket(url: str, left_out: Counter[str]) -> list[PurePath]:
    """As :func:`_walk_folder`, for what lies below a URL."""
    paths: list[PurePath] = []
    hidden: set[str] = set()
    for name in names_below(url):
        first_hidden = re.search(r"(?:^|/)\.[^/]*", name)
        if first_hidden:
            hidden.add(name[: first_hidden.end()])
        elif (path := PurePosixPath(name)).suffix.lower() in VIDEO_SUFFIXES:
            paths.append(path)
        else:
            left_out[_kind_of(path)] += 1
    if hidden:
        left_out["hidden"] = len(hidden)
    return paths


def _walk(folder: Path, *, ancestors: frozenset[tuple[int, int]], left_out: Counter[str]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ManifestError(f"folder {folder} cannot be listed ({error.strerror}); fix that or move it away") from error
    here = (status.st_dev, status.st_ino)
    if here in ancestors:
        return
    for entry in entries:
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif entry.is_dir():
            yield from _walk(entry, ancestors=ancestors | {here}, left_out=left_out)
        elif entry.suffix.lower() in VIDEO_SUFFIXES:
            yield entry
        else:
            left_out[_kind_of(entry)] += 1


def _kind_of(path: PurePath) -> str:
    """The kind under which a left-out file is counted: its suffix, if that is an ordinary one."""
    suffix = path.suffix.lower()
    if not suffix:
        return "no suffix"
    return suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= _SUFFIX_LENGTH else "other suffix"


def _record_of_row(listing: Path, place: str, row: dict[str, Any], needs_paths: bool) -> VideoRecord:
    cells = {column: text for column, cell in row.items() if (text := _text(listing, place, column, cell))}
    if "path" not in cells and (needs_paths or "id" not in cells):
        where = "the column 'path'" if needs_paths else "one of the columns 'path' and 'id'"
        raise ManifestError(f"{shown(listing)}, {place}: no path; every row needs one in {where}")
    scheme, is_url, _ = (given := cells.get("path", "")).partition("://")
    if is_url and scheme.isalnum() and scheme not in SCHEMES:
        raise ManifestError(
            f"{shown(listing)}, {place}: {given!r} is a {scheme} URL, which featcache does not read; copy it to "
            "a disk or into a bucket"
        )
    path = _placed(listing.parent, given) if given else cells["id"]
    labels = {name: text for column, text in cells.items() if (name := listed_label(column)) is not None}
    video_id = cells.get("id") or default_id(cells["path"])
    return VideoRecord(id=video_id, path=path, labels=labels, split=cells.get("split", ""))


def _text(listing: Path, place: str, column: str, cell: Any) -> str:
    """The text of one cell; empty if it is missing or the column is unknown."""
    if cell is None or not _is_wanted(column):
        return ""
    if not isinstance(cell, (str, int, float)):
        raise ManifestError(f"{shown(listing)}, {place}: column {column!r} holds {type(cell).__name__}, expected text")
    if column in {"path", "id"}:  # file names may be any bytes, and Manifest checks ids
        return cell_text(cell)
    text = label_text(squeezed(cell) if isinstance(cell, str) else cell)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"{shown(listing)}, {place}: column {column!r} is not UTF-8; save the listing so"
        ) from error
    return text


def _is_wanted(column: str) -> bool:
    return column in {"path", "id", "split"} or listed_label(column) is not None


def _placed(folder: Path, path: str) -> str:
    """A path of a listing in the manifest's form: relative inside ``folder``, absolute, or a URL."""
    if "\0" in path or url_of(path) or Path(path).is_absolute():
        return path  # Manifest refuses the first kind
    inside = os.path.normpath(path)
    if inside.split("/")[0] != "..":
        return inside
    if url := url_of(folder):
        return beside(url, inside)
    return os.path.normpath(folder.absolute() / path)


def _read_csv(listing: Path, needs_paths: bool) -> Iterator[Row]:
    yield from read_csv(listing, either=("path",) if needs_paths else ("path", "id"), pad=True)


def _read_jsonl(listing: Path, needs_paths: bool) -> Iterator[Row]:
    with open_list(listing) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = str(error).partition(";")[0]  # leaves out the advice on how to read 5,000 digits
                raise ManifestError(f"{shown(listing)}, line {number}: not JSON ({why}); fix the line") from error
            if not isinstance(row, dict):
                raise ManifestError(f"{shown(listing)}, line {number}: expected an object with a 'path'")
            yield f"line {number}", row


def _read_parquet(listing: Path, needs_paths: bool) -> Iterator[Row]:
    number = 0
    try:
        with opened(listing) as file:
            columns = file.schema_arrow.names
        if "path" not in columns and (needs_paths or "id" not in columns):
            raise ManifestError(f"{shown(listing)} has no column 'path' (it has {', '.join(columns)}); add one")
        wanted = [name for name in columns if _is_wanted(name)]
        if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
            raise ManifestError(f"{shown(listing)} has the column {twice[0]!r} twice; rename one")
        for batch in read_batches(listing, wanted):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except UnreadableTableError as problem:
        raise ManifestError(f"{shown(listing)} {problem}; write it again") from problem


_READERS: dict[str, Callable[[Path, bool], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
