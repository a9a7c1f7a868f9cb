"""The registry of data sets: one function per data set that turns its official lists into rows.

How a package adds one is in ``docs/adding-a-dataset.md``. An importer is one file. It reads the lists that were
published with the data set, however the videos are arranged, and yields a row for each video that they name, in the
order of the lists. A video without a file becomes a row of status ``missing``. Files that no list names are counted and
reported, never taken.

Label columns follow one rule for all data sets: ``label`` is the class, ``group`` names videos that belong together
(clips of one source video, which no random split may separate), ``split1`` … are official splits if there are several,
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
from featcache.files.urls import absolute
from featcache.plugins import Place, Registry

log = logging.getLogger(__name__)

ListVideos = Callable[[DatasetFiles], Iterable[VideoRecord]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetEntry:
    """One data set.

    Attributes:
        list_videos: Function that lists the videos; its rows may leave ``split`` to ``split_columns``.
        layout: The expected folders and lists, in one line.
        split_columns: Label columns that hold official splits, if there are several; the first one whose lists are
            present is the default, unless ``has_default_split`` is false.
        has_default_split: Whether a row's ``split`` is filled in by default.
    """

    list_videos: ListVideos
    layout: str
    split_columns: tuple[str, ...] = ()
    has_default_split: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A data set as found on disk.

    Attributes:
        manifest: One row for each video that the lists name; not yet scanned.
        unlisted: Video files that no list names, relative to the root; they are ignored.
    """

    manifest: Manifest
    unlisted: tuple[str, ...]


DATASETS: Registry[DatasetEntry] = Registry(
    kind="data set",
    group="featcache.datasets",
    entry=DatasetEntry,
    built_in=tuple(
        Place(name=name, target=f"featcache.data.importers.{target}", summary=summary)
        for name, (target, summary) in {
            "diving48": (
                "diving48:DIVING48",
                "48 dives, version 2 of the labels: 15,027 + 1,970 clips; group: clips of one competition video",
            ),
            "diving48-v1": (
                "diving48:DIVING48_V1",
                "48 dives, version 1 of the labels: 15,943 + 2,096 clips; group: clips of one competition video",
            ),
            "hmdb51": (
                "hmdb51:HMDB51",
                "51 actions, 6,766 clips, 3 splits of 3,570 + 1,530; group: clips of one source",
            ),
            "kinetics400": (
                "kinetics:KINETICS",
                "400 actions, nominally 246k + 20k clips of 10 s; group: clips of one YouTube video",
            ),
            "kinetics600": (
                "kinetics:KINETICS",
                "600 actions, nominally 390k + 30k clips of 10 s; group: clips of one YouTube video",
            ),
            "kinetics700": (
                "kinetics:KINETICS",
                "700 actions, nominally 545k + 35k clips of 10 s; group: clips of one YouTube video",
            ),
            "lvu": (
                "lvu:LVU",
                "9 tasks over long film clips: labels relationship, scene, …, each with split_<task>; group: the film",
            ),
            "ssv2": (
                "ssv2:SSV2",
                "174 templates, 168,913 + 24,777 + 27,157 clips; caption: the sentence of each clip",
            ),
            "ucf101": (
                "ucf101:UCF101",
                "101 actions, 13,320 clips, 3 splits; group: clips cut from one source video",
            ),
        }.items()
    ),
    hint="Run `featcache datasets` for the list.",
)


def read_listing(name: str, *, root: Path, split_column: str | None = None) -> Listing:
    """List a data set without opening a video.

    Args:
        name: Name of a registered data set.
        root: Folder with the videos and the official lists, in any of the usual arrangements.
        split_column: Official split that becomes the rows' ``split``; ``None`` is the default of the data set.

    Raises:
        UnknownNameError: No such data set or split column.
        PluginError: The package that offers the data set is broken.
        ManifestError: A list is missing or a row of it cannot be used; the sentence says which.
    """
    entry = DATASETS.load(name)
    files = DatasetFiles.under(root)
    videos = tuple(entry.list_videos(files))
    if not videos:
        raise ManifestError(f"the lists of {name} in {files.place} name no video; fetch them again")
    if entry.split_columns:
        videos = _choose_split(name, entry, videos, split_column)
    elif split_column is not None:
        raise unknown_name("split column", split_column, (), hint=f"{name} has one official split; leave it out.")
    taken = {video.path for video in videos if video.status == "ok"}
    return Listing(
        manifest=Manifest(root=absolute(root), videos=videos),
        unlisted=tuple(path for path in files.videos if path not in taken),
    )


def list_dataset(name: str, *, root: Path, split_column: str | None = None) -> Manifest:
    """As :func:`read_listing`, but returns only the rows; the log reports missing and unlisted videos."""
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
    """Make the row of a listed video.

    Args:
        video_id: Id of the video.
        found: File of the video relative to the root, or ``None``.
        expected: Path of the file in the official layout; the path of the row if the file is missing.
        labels: Label columns of the video.
        split: Split of the video, if the data set has one.
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
    name: str, entry: DatasetEntry, videos: tuple[VideoRecord, ...], split_column: str | None
) -> tuple[VideoRecord, ...]:
    there = [column for column in entry.split_columns if any(column in video.labels for video in videos)]
    if split_column is not None and split_column not in there:
        raise unknown_name("split column", split_column, there, hint=f"{name} here has: {', '.join(there)}.")
    column = split_column or (there[0] if entry.has_default_split and there else None)
    return videos if column is None else tuple(replace(video, split=video.labels.get(column, "")) for video in videos)
