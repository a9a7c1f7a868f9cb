"""Overlays: changes to videos after they were planned, which need no new computation.

An overlay amends videos of the generations that existed when it was published: it gives a video other labels, another
split or another id, or removes it. Plans and records do not change; readers apply the overlays to them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featcache.data.manifest import table_to_videos, videos_to_table
from featcache.data.parquet import from_numbers, from_texts
from featcache.data.types import VideoRecord
from featcache.errors import CorruptStoreError, ManifestError, StoreError
from featcache.files.base import Files
from featcache.files.sealed import seal, sha256_bytes
from featcache.store import paths
from featcache.store.documents import read_document, read_table_bytes
from featcache.store.generation import Generation, check_ids
from featcache.store.rows import table_bytes, table_from_bytes
from featcache.store.schema import OverlayDoc, TableRef

_VIDEO, _REMOVED = "video", "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """A change to one video.

    Attributes:
        video: Id of the video before the change.
        record: Id, path, labels and split after the change; the other fields are those of the plan.
        removed: Whether the video is removed; a later amendment may bring it back.
    """

    video: str
    record: VideoRecord
    removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A published overlay.

    Attributes:
        number: Number of the overlay, from 0.
        generations: Number of generations to which it applies: those before it.
        amendments: Its changes.
        checksum: Checksum of its document, which the next overlay names.
    """

    number: int
    generations: int
    amendments: tuple[Amendment, ...]
    checksum: str


def shown(video: VideoRecord, amendment: Amendment | None) -> VideoRecord:
    """A video of a plan with its amendment applied, if there is one."""
    if amendment is None:
        return video
    new = amendment.record
    return replace(video, id=new.id, path=new.path, labels=new.labels, split=new.split)


def amend(generations: Sequence[Generation], overlays: Sequence[Overlay]) -> list[dict[int, Amendment]]:
    """For each generation, the last amendment of each row of its videos table that has one.

    Raises:
        CorruptStoreError: An overlay gives two videos of a generation the same id.
    """
    amended: list[dict[int, Amendment]] = []
    for generation in generations:
        last: dict[int, Amendment] = {}
        later = [overlay for overlay in overlays if overlay.generations > generation.number]
        row_of = {name: row for row, name in enumerate(generation.video_ids)} if later else {}
        for overlay in later:
            # All give up their ids before any takes its new one, so that two videos may swap ids.
            moved = [(row_of.pop(one.video), one) for one in overlay.amendments if one.video in row_of]
            for row, one in moved:
                if one.record.id in row_of:
                    raise CorruptStoreError(
                        f"overlay {overlay.number} of {generation.where} gives {one.video!r} the id of another video, "
                        f"{one.record.id!r}; restore it from a copy"
                    )
                row_of[one.record.id] = row
                last[row] = one
        amended.append(last)
    return amended


def shown_ids(generation: Generation, amended: dict[int, Amendment]) -> list[str | None]:
    """Present ids of a generation's videos; ``None`` for a removed video."""
    ids: list[str | None] = [*generation.video_ids]
    for row, one in amended.items():
        ids[row] = None if one.removed else one.record.id
    return ids


def overlay_numbers(files: Files) -> list[int]:
    """Numbers of the overlays of a store that have a document, valid or not, sorted."""
    names = files.names(paths.OVERLAYS)
    return sorted(number for name in names if (number := paths.overlay_number(name)) is not None)


def read_overlays(files: Files) -> list[Overlay]:
    """All overlays of a store in order.

    Raises:
        CorruptStoreError: An overlay is lost, damaged, or belongs to another store.
    """
    overlays: list[Overlay] = []
    for number in range(max(overlay_numbers(files), default=-1) + 1):
        overlays.append(read_overlay(files, number, previous=overlays[-1].checksum if overlays else ""))
    return overlays


def read_overlay(files: Files, number: int, *, previous: str | None) -> Overlay:
    """Read one overlay.

    Args:
        files: The files of the store.
        number: Number of the overlay.
        previous: Checksum of the overlay before it, empty for the first; ``None``: not compared.

    Raises:
        CorruptStoreError: The overlay is lost or damaged, or belongs to another store.
    """
    where = files.where(paths.overlay(number))
    document = read_document(files, paths.overlay(number), what="overlay")
    about = OverlayDoc.from_json(document, number=number, where=where)
    if previous is not None and about.previous != previous:
        raise CorruptStoreError(f"{where} does not follow the overlay before it; files come from another store")
    return Overlay(
        number=number,
        generations=about.generations,
        amendments=_read_amendments(files, about),
        checksum=str(document["checksum"]),
    )


def check_generations(files: Files, overlays: Sequence[Overlay], generations: Sequence[Generation]) -> None:
    """Check that the generations to which overlays apply exist. Overlays must be read before generations.

    Raises:
        CorruptStoreError: A generation is lost.
    """
    if overlays and overlays[-1].generations > len(generations):
        raise CorruptStoreError(
            f"overlay {overlays[-1].number} of {files.where()} is about {overlays[-1].generations} generations, and "
            f"{len(generations)} are there; restore the others from a copy"
        )


def publish_overlay(
    files: Files, amendments: Iterable[Amendment], *, num_generations: int, generations: Sequence[Generation] = ()
) -> None:
    """Publish an overlay under the next free number; the caller holds the planning lock.

    Args:
        files: The files of the store.
        amendments: The changes, at most one per id.
        num_generations: Number of generations of the store.
        generations: Those that the overlay has to fit, whatever others have published since the changes were found out.

    Raises:
        StoreError: Another process has given one of the ids to another video meanwhile.
    """
    amendments = sorted(amendments, key=lambda one: one.video)
    assert len({one.video for one in amendments}) == len(amendments), "a video is amended once"
    table = videos_to_table([one.record for one in amendments])
    table = table.append_column(_VIDEO, from_texts([one.video for one in amendments]))
    data = table_bytes(table.append_column(_REMOVED, from_numbers(np.array([one.removed for one in amendments], bool))))
    ref = TableRef(sha256=sha256_bytes(data), num_bytes=len(data))
    while True:
        overlays = read_overlays(files)
        mine = Overlay(number=len(overlays), generations=num_generations, amendments=tuple(amendments), checksum="")
        try:
            amend(generations, [*overlays, mine])
        except CorruptStoreError as error:
            raise StoreError(
                f"another process has renamed videos of {files.where()} meanwhile; run the same command again"
            ) from error
        document = OverlayDoc(
            number=len(overlays),
            generations=num_generations,
            num_videos=len(amendments),
            previous=overlays[-1].checksum if overlays else "",
            videos=ref,
        )
        files.put_exact(paths.overlay_table(document.number, ref.sha256), data)
        if files.put_new(paths.overlay(document.number), seal(document.to_json())):
            return


def overlay_table(files: Files, number: int) -> str:
    """Name of the table of an overlay."""
    document = read_document(files, paths.overlay(number), what="overlay")
    about = OverlayDoc.from_json(document, number=number, where=files.where(paths.overlay(number)))
    return paths.overlay_table(number, about.videos.sha256)


def _read_amendments(files: Files, about: OverlayDoc) -> tuple[Amendment, ...]:
    name = paths.overlay_table(about.number, about.videos.sha256)
    where = files.where(name)
    data = read_table_bytes(files, name, about.videos, what="table of an overlay")
    table = table_from_bytes(data, where=where)
    check_ids(table, where=where)
    usable = {name: table.column_names.count(name) == 1 for name in (_VIDEO, _REMOVED)}
    if not (
        len(table) == about.num_videos
        and all(usable.values())
        and table.column(_VIDEO).type == pa.string()
        and table.column(_REMOVED).type == pa.bool_()
        and not table.column(_VIDEO).null_count
        and not table.column(_REMOVED).null_count
    ):
        raise CorruptStoreError(f"{where} is not a table of an overlay; restore it from a copy")
    try:
        records = table_to_videos(table)
    except ManifestError as error:
        raise CorruptStoreError(f"{where}: {error}") from error
    videos = [str(name) for name in table.column(_VIDEO).to_pylist()]
    if len(set(videos)) != len(videos):
        raise CorruptStoreError(f"{where} amends a video twice; restore it from a copy")
    removed = [bool(value) for value in table.column(_REMOVED).to_pylist()]
    return tuple(
        Amendment(video=video, record=record, removed=gone)
        for video, record, gone in zip(videos, records, removed, strict=True)
    )
