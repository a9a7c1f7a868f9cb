"""The registry of data sets: a function a data set that turns its official lists into rows.

An importer is one file. It reads the lists that the data set was published with, in whatever packing the videos came,
and yields a row for each video that they name, in the order of the lists. A video without a file is a row of status
``missing``. Files that no list names are counted and said, never taken.

Label columns follow one rule for all data sets: ``label`` is the class, ``group`` names what belongs together (clips of
one source video, so that no random split may separate them), ``split1`` … are official splits where there are several,
and ``split_<task>`` is the split of the label ``<task>``.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.data.importers.files import DatasetFiles
from featcache.data.manifest import Manifest
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError, unknown_name

log = logging.getLogger(__name__)

ListVideos = Callable[[DatasetFiles], Iterable[VideoRecord]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetEntry:
    """One registered data set.

    Attributes:
        name: Registry name, e.g. ``ucf101``.
        summary: One line for ``featcache datasets``.
        layout: The folders and lists that are expected, in one line.
        split_columns: Label columns that hold official splits, where there are several; the first one of which the
            lists are there is the default, unless ``has_default_split`` is false.
        has_default_split: Whether a row's ``split`` is filled in without being asked.
        list_videos: Lists the videos; rows may leave ``split`` to ``split_columns``.
    """

    name: str
    summary: str
    layout: str
    split_columns: tuple[str, ...]
    has_default_split: bool
    list_videos: ListVideos


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A data set as it is found on disk.

    Attributes:
        manifest: A row for each video that the lists name; not yet scanned.
        unlisted: Video files that no list names, relative to the root; they are not taken.
    """

    manifest: Manifest
    unlisted: tuple[str, ...]


_ENTRIES: dict[str, DatasetEntry] = {}


def register_dataset(
    name: str, *, summary: str, layout: str, split_columns: tuple[str, ...] = (), has_default_split: bool = True
) -> Callable[[ListVideos], ListVideos]:
    """Register the function that lists a data set; see :class:`DatasetEntry`."""

    def register(list_videos: ListVideos) -> ListVideos:
        if name in _ENTRIES:
            raise ValueError(f"data set {name!r} is registered already")
        _ENTRIES[name] = DatasetEntry(
            name=name,
            summary=summary,
            layout=layout,
            split_columns=split_columns,
            has_default_split=has_default_split,
            list_videos=list_videos,
        )
        return list_videos

    return register


def dataset_entries() -> list[DatasetEntry]:
    """All registered data sets, by name."""
    return [_ENTRIES[name] for name in sorted(_ENTRIES)]


def find_dataset(name: str) -> DatasetEntry:
    """The data set of a name.

    Raises:
        UnknownNameError: No such data set; names the closest.
    """
    if name not in _ENTRIES:
        raise unknown_name("data set", name, _ENTRIES, hint="Run `featcache datasets` for the list.")
    return _ENTRIES[name]


def read_listing(name: str, *, root: Path, split_column: str | None = None) -> Listing:
    """List a data set without opening a video.

    Args:
        name: Registered data set.
        root: Folder with the videos and the official lists, in any of the usual packings.
        split_column: Official split that becomes the rows' ``split``; ``None`` is the default of the data set.

    Raises:
        UnknownNameError: No such data set or split column.
        ManifestError: A list is missing or a row of it cannot be used; the sentence says which.
    """
    entry = find_dataset(name)
    files = DatasetFiles.under(root)
    videos = tuple(entry.list_videos(files))
    if not videos:
        raise ManifestError(f"the lists of {name} in {root} name no video; fetch them again")
    if entry.split_columns:
        videos = _choose_split(entry, videos, split_column)
    elif split_column is not None:
        raise unknown_name("split column", split_column, (), hint=f"{name} has one official split; leave it out.")
    taken = {video.path for video in videos if video.status == "ok"}
    return Listing(
        manifest=Manifest(root=str(root.absolute()), videos=videos),
        unlisted=tuple(path for path in files.videos if path not in taken),
    )


def list_dataset(name: str, *, root: Path, split_column: str | None = None) -> Manifest:
    """As :func:`read_listing`, but only the rows; what is missing or not listed is said in a line of the log."""
    listing = read_listing(name, root=root, split_column=split_column)
    missing = [video for video in listing.manifest.videos if video.status == "missing"]
    if missing:
        log.warning(
            "%d of the %d videos that the lists of %s name are missing, %r among them; they are rows with the reason",
            len(missing), len(listing.manifest), name, missing[0].id,
        )  # fmt: skip
    if listing.unlisted:
        log.warning(
            "%d video files are in no list of %s, or are other copies of a listed one; they are not taken, %r among "
            "them",
            len(listing.unlisted), name, listing.unlisted[0],
        )  # fmt: skip
    return listing.manifest


def make_row(
    video_id: str, *, found: str | None, expected: str, labels: Mapping[str, str], split: str = ""
) -> VideoRecord:
    """The row of a listed video.

    Args:
        video_id: Its id.
        found: Its file relative to the root, or ``None``.
        expected: Where the file is in the official layout; the path of the row if it is missing.
        labels: Its label columns.
        split: Its split, where the data set has one.
    """
    if found is not None:
        return VideoRecord(id=video_id, path=found, labels=labels, split=split)
    name = expected.rpartition("/")[2]
    return VideoRecord(
        id=video_id,
        path=expected,
        labels=labels,
        split=split,
        status="missing",
        reason=f"the official list names it, and no file {name!r} (or with another video suffix) is under the root",
    )


def _choose_split(
    entry: DatasetEntry, videos: tuple[VideoRecord, ...], split_column: str | None
) -> tuple[VideoRecord, ...]:
    there = [column for column in entry.split_columns if any(column in video.labels for video in videos)]
    if split_column is not None and split_column not in there:
        raise unknown_name("split column", split_column, there, hint=f"{entry.name} here has: {', '.join(there)}.")
    column = split_column or (there[0] if entry.has_default_split and there else None)
    return videos if column is None else tuple(replace(video, split=video.labels.get(column, "")) for video in videos)
