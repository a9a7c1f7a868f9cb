"""Finds the videos of a source that a store still lacks: new, changed, and failed ones that are worth another try."""

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from featcache.data.remote import facts_of
from featcache.data.sampling import count_rows
from featcache.data.types import PASSING, VideoRecord
from featcache.extract.amending import differing
from featcache.extract.prepare import Prepared
from featcache.files.urls import url_of
from featcache.recipes import SamplingRecipe
from featcache.store.reader import Store

log = logging.getLogger(__name__)

MAX_TRIES = 6
"""Number of tries of a video that hangs or cannot be read; after that only ``--retry-failed`` tries it."""


def judge(videos: Sequence[VideoRecord], sampling: SamplingRecipe) -> tuple[VideoRecord, ...]:
    """The videos of a scan; a video that ends before the frame bank begins has no rows and becomes ``too_short``."""
    reason = f"it ends before the frame bank begins at {sampling.start_seconds} seconds"
    return tuple(
        replace(video, status="too_short", reason=reason) if video.status == "ok" and not rows else video
        for video, rows in zip(videos, rows_per_video(videos, sampling), strict=True)
    )


def rows_per_video(videos: Sequence[VideoRecord], sampling: SamplingRecipe) -> list[int]:
    """Number of rows of each video; 0 if it cannot be used."""
    return [
        sum(
            count_rows(views, num_frames=video.num_frames, duration_seconds=video.duration_seconds)
            for views in sampling.stored(video.split)
        )
        if video.status == "ok"
        else 0
        for video in videos
    ]


def videos_to_add(
    scanned: Sequence[VideoRecord],
    stored: Mapping[str, VideoRecord],
    *,
    removed: Collection[str] = (),
    retry: frozenset[str],
) -> list[VideoRecord]:
    """The videos that need a new generation: new ones, changed ones, and failed ones that are to be tried again.

    A stored video that the scan no longer finds is kept: its features outlive the file. A removed video stays removed.
    A video that is tried again keeps the store's labels and split; a replaced file gets those of the source.
    """
    added = []
    for video in scanned:
        known = stored.get(video.id)
        if known is None:
            is_due = True
        elif video.status == "ok":
            is_due = video.id in retry or known.status != "ok" or known.content_hash != video.content_hash
        else:  # a file that was replaced by an unusable one; a missing file has no hash
            is_other = video.content_hash not in ("", known.content_hash)
            is_due = is_other or (video.id in retry and known.status != "ok")
        if is_due and video.id not in removed:
            is_same = known is not None and known.content_hash in ("", video.content_hash)
            added.append(replace(video, labels=known.labels, split=known.split) if known and is_same else video)
    return added


def ids_to_retry(
    opened: Store, scanned: Mapping[str, VideoRecord], *, paths: Mapping[str, Path], prepared: Prepared
) -> frozenset[str]:
    """Stored videos that failed and are worth another try.

    A file that was missing or changed during the extraction is tried again once it exists as it was scanned (a manifest
    may be older than the files, and a retry that is bound to fail would add a generation each time). A video that hung
    or could not be read is tried up to :data:`MAX_TRIES` times (see :func:`worth_another_try`). An undecodable video is
    tried again only on request.
    """
    names = [feature.name for feature in prepared.features if feature.name in opened.features]
    failures = [failure for name in names for failure in opened.coverage(name).failures]
    if prepared.settings.retry_failed:
        unusable = [video.id for video in opened.videos.values() if video.status != "ok"]
        return frozenset([*(failure.id for failure in failures), *unusable])
    back = {
        failure.id
        for failure in failures
        if failure.status in ("missing", "changed")
        and failure.id in scanned
        and is_back(paths[failure.id], scanned[failure.id])
    }
    return worth_another_try(opened, scanned, names=names) | back


def worth_another_try(opened: Store, scanned: Mapping[str, VideoRecord], *, names: Iterable[str]) -> frozenset[str]:
    """Stored videos whose fault in one of the features may have passed, and that were not tried too often.

    Tries are counted from the commit records: each try is a generation of its own that records the outcome.
    """
    ids: set[str] = set()
    for name in names:
        tries = opened.tries(name)
        ids.update(
            failure.id
            for failure in opened.coverage(name).failures
            if failure.status in PASSING
            and tries[failure.id] < MAX_TRIES
            and failure.id in scanned
            and scanned[failure.id].status == "ok"
        )
    return frozenset(ids)


def is_back(path: Path, video: VideoRecord) -> bool:
    """Whether a file exists, is readable, and has its scanned size; its hash is checked when it is read."""
    try:
        is_same = facts_of(path).num_bytes == video.num_bytes
    except OSError:
        return False
    return is_same and (url_of(path) is not None or os.access(path, os.R_OK))


def tell_differences(scanned: Sequence[VideoRecord], opened: Store, *, source: str) -> None:
    """Log where the store differs from the source, and which commands adopt the source's state.

    Args:
        scanned: The source's videos.
        opened: The store, after new videos were planned.
        source: The options that name the source, for a command line.
    """
    here = {video.id for video in scanned}
    if others := [known.id for known, _ in differing(scanned, opened.videos)]:
        log.warning(
            "%d videos, %r among them, have other labels or another split in the source than in the store, which keeps "
            "its own; `featcache relabel %s %s` takes the source's",
            len(others), others[0], opened.path, source,
        )  # fmt: skip
    if gone := [video_id for video_id in opened.videos if video_id not in here]:
        log.info(
            "%d stored videos are not in the source, %r among them; they stay, and `featcache remove %s --not-in %s` "
            "takes them out",
            len(gone), gone[0], opened.path, source,
        )  # fmt: skip
    if out := [video_id for video_id in opened.removed_videos if video_id in here]:
        log.info(
            "%d videos of the source were removed from the store and stay out, %r among them; `featcache remove` with "
            "--undo takes them in again",
            len(out), out[0],
        )  # fmt: skip
