"""Amends a store without computing features: videos that were renamed, relabelled or removed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from featcache.data.manifest import Manifest
from featcache.data.remote import is_there
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError, unknown_name
from featcache.extract.origin import source_roots
from featcache.files.urls import place_of
from featcache.recipes import SamplingRecipe
from featcache.store.overlay import Amendment
from featcache.store.reader import Store, open_store
from featcache.store.writer import StoreWriter
from featcache.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Amended:
    """Result of an amendment.

    Attributes:
        store: Folder of the store.
        what: What was done to them: ``relabelled``, ``removed`` or ``taken in again``.
        changed: Ids of the videos that it was done to.
        unchanged: Number of named videos that needed no change.
        not_stored: Number of named videos that the store does not have.
        kept_split: Number of videos that keep their split, because the store samples the other split differently.
    """

    store: str
    what: str
    changed: tuple[str, ...]
    unchanged: int
    not_stored: int = 0
    kept_split: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def summary(self) -> Summary:
        """What to show of it."""
        lines = []
        if self.not_stored:
            lines.append(f"{self.not_stored} videos of the source are not in the store")
        if self.kept_split:
            lines.append(
                f"{self.kept_split} videos keep their split: the store samples the other one otherwise, so that they "
                "would need other rows; extract to a new store for that"
            )
        done = f"{len(self.changed)} videos, {self.unchanged} were so already"
        return Summary(facts={"store": self.store, self.what: done}, lines=tuple(lines))


def find_renames(scanned: Manifest, opened: Store) -> list[Amendment]:
    """Find renamed videos: the store has the same bytes under another id, whose file no longer exists.

    Among several candidates the one with the same file name is taken, otherwise the first. A video that moved to a
    split that the store samples differently does not count, because it needs other rows.

    Args:
        scanned: The source, with content hashes.
        opened: The store.
    """
    here = {video.id for video in scanned.videos}
    new = [
        video
        for video in scanned.videos
        if video.content_hash and video.id not in opened.videos and video.id not in opened.removed_videos
    ]
    wanted = {video.content_hash for video in new}
    left = [known for known in opened.videos.values() if known.content_hash in wanted and known.id not in here]
    roots = [Path(scanned.root), *source_roots(opened)] if left else []
    gone: dict[str, list[VideoRecord]] = {}
    for known in left:
        if not any(is_there(place_of(root, known.path)) for root in roots):
            gone.setdefault(known.content_hash, []).append(known)
    found: list[Amendment] = []
    for same_name in (True, False):  # first those that kept their file name
        taken = {one.record.id for one in found}
        for video in (video for video in new if video.id not in taken):
            fitting = [
                known
                for known in gone.get(video.content_hash, ())
                if (_name(known) == _name(video) or not same_name)
                and _sampled_alike(opened.sampling, known.split, video.split)
            ]
            if fitting:
                gone[video.content_hash].remove(fitting[0])
                record = replace(fitting[0], id=video.id, path=video.path, labels=video.labels, split=video.split)
                found.append(Amendment(video=fitting[0].id, record=record))
    return found


def relabelled(known: VideoRecord, given: VideoRecord, *, columns: Collection[str], has_splits: bool) -> VideoRecord:
    """A stored video with the source's labels and split; label columns and splits that the source lacks are kept.

    Args:
        known: The stored video.
        given: The same video in the source.
        columns: Label columns of the source.
        has_splits: Whether any video of the source has a split.
    """
    kept = {name: text for name, text in known.labels.items() if name not in columns}
    return replace(known, labels={**kept, **given.labels}, split=given.split if has_splits else known.split)


def differing(
    scanned: Sequence[VideoRecord], stored: Mapping[str, VideoRecord]
) -> list[tuple[VideoRecord, VideoRecord]]:
    """(stored, relabelled) of the videos whose labels or split differ between a source and the store."""
    columns = {name for video in scanned for name in video.labels}
    has_splits = any(video.split for video in scanned)
    pairs = []
    for video in scanned:
        if (known := stored.get(video.id)) is not None:
            new = relabelled(known, video, columns=columns, has_splits=has_splits)
            if (new.labels, new.split) != (known.labels, known.split):
                pairs.append((known, new))
    return pairs


def relabel(path: Path | str, listed: Manifest) -> Amended:
    """Give stored videos the labels and splits of a source; see :func:`relabelled`.

    If the store samples all splits alike, any split may become any other. If it does not (fixed views of test videos),
    a video that would change its views keeps its split.

    Args:
        path: Folder of the store.
        listed: The source; its videos need not be scanned.

    Raises:
        ManifestError: The source names no stored video.
        StoreError: There is no store.
    """
    with _planning(path) as writer:
        opened = open_store(path)
        named = [video for video in listed.videos if video.id in opened.videos]
        if not named:
            like = next(iter(opened.videos), "")
            raise ManifestError(
                f"none of the {len(listed)} videos of the source is in {path}, e.g. {listed.videos[0].id!r}; ids of "
                f"the store look like {like!r}, give such ones in the column 'id'"
            )
        amendments, kept = [], 0
        for known, given in differing(named, opened.videos):
            alike = _sampled_alike(opened.sampling, known.split, given.split)
            new = given if alike else replace(given, split=known.split)
            kept += not alike
            if (new.labels, new.split) != (known.labels, known.split):
                amendments.append(Amendment(video=known.id, record=new))
        writer.add_overlay(amendments)
    return Amended(
        store=str(path),
        what="relabelled",
        changed=tuple(one.video for one in amendments),
        unchanged=len(named) - len(amendments),
        not_stored=len(listed) - len(named),
        kept_split=kept,
    )


def remove(path: Path | str, ids: Sequence[str], *, undo: bool = False) -> Amended:
    """Remove videos from a store, or bring them back; their features stay on the disk and are not computed again.

    A later extraction or import does not add a removed video, even if its source still has it.

    Args:
        path: Folder of the store.
        ids: Ids of the videos.
        undo: Bring the videos back.

    Raises:
        UnknownNameError: There is no such video.
        StoreError: There is no store.
    """
    with _planning(path) as writer:
        opened = open_store(path)
        amendments = [
            Amendment(video=video_id, record=record, removed=not undo)
            for video_id in dict.fromkeys(ids)
            if (record := _removable(opened, video_id, undo=undo)) is not None
        ]
        writer.add_overlay(amendments)
    changed = tuple(one.video for one in amendments)
    what = "taken in again" if undo else "removed"
    return Amended(store=str(path), what=what, changed=changed, unchanged=len(set(ids)) - len(changed))


def ids_not_in(path: Path | str, listed: Manifest) -> list[str]:
    """Ids of the stored videos that a source does not have.

    Raises:
        ManifestError: The source has none of them, so it is probably the wrong one.
    """
    stored = open_store(path).videos
    here = {video.id for video in listed.videos}
    lacking = [video_id for video_id in stored if video_id not in here]
    if stored and len(lacking) == len(stored):
        raise ManifestError(
            f"the source has no video of {path}, e.g. not {lacking[0]!r}; give the one it was made from"
        )
    return lacking


def _removable(opened: Store, video_id: str, *, undo: bool) -> VideoRecord | None:
    """The record of a video to remove or bring back; ``None`` if nothing has to change."""
    removed = opened.removed_videos
    if video_id not in opened.videos and video_id not in removed:
        raise unknown_name("video", video_id, [*opened.videos, *removed])
    return (removed if undo else opened.videos).get(video_id)


@contextmanager
def _planning(path: Path | str) -> Iterator[StoreWriter]:
    """A writer of an existing store, with its planning lock held."""
    opened = open_store(path)
    with (
        StoreWriter.open(path, sampling=opened.sampling, file_format=opened.file_format) as writer,
        writer.planning_lock(),
    ):
        yield writer


def _sampled_alike(sampling: SamplingRecipe, first: str, second: str) -> bool:
    return sampling.stored(first) == sampling.stored(second)


def _name(video: VideoRecord) -> str:
    return PurePosixPath(video.path).name
