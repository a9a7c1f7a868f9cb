"""A sample of the videos of a training that is planned: which are there, and how fast one core decodes them.

Videos are listed, not scanned, so that the plan of a large data set takes seconds; only the sample is opened.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from featcache.data.decoding import available
from featcache.data.listing import listed_videos
from featcache.data.manifest import Manifest
from featcache.data.scan import scan_listed
from featcache.data.selection import VideosSettings
from featcache.errors import ManifestError, VideoError
from featcache.loaders.ahead import ViewSource
from featcache.loaders.usable import of_split
from featcache.loaders.videos import VideoFiles
from featcache.machine import forward_threads
from featcache.stages import OnStage, ignore
from featcache.training.forecast import DecodeSample

NUM_SAMPLED = 24
"""Largest number of videos that are opened."""
SECONDS = 5.0
"""Time after which no further video is decoded, once two have been."""
_LEAST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The training videos of a source as they are listed, and some of them opened.

    Attributes:
        num_train: Number of training videos that are there; ``None`` if they cannot be listed.
        num_left_out: Number of listed training videos without a file, or that an earlier scan found unusable.
        sample: Files of some of them; ``None`` if none can be opened.
        failures: Each sampled video that cannot be used, with the reason.
        missing: What is not at hand, a sentence each.
    """

    num_train: int | None = None
    num_left_out: int = 0
    sample: VideoFiles | None = None
    failures: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def preview(settings: VideosSettings, *, split: str, on_stage: OnStage = ignore) -> Preview:
    """List the training videos of a source, and open at most :data:`NUM_SAMPLED` of them.

    Args:
        settings: Where videos come from.
        split: The split to train on.
        on_stage: Called with the stage ``sample``, videos opened and videos in the sample.

    Raises:
        UnknownNameError: There is no such data set, decoder, split or column.
        ConfigError: The videos do not allow the selection.
    """
    try:
        listed = listed_videos(
            source=settings.source, dataset=settings.dataset, root=settings.root, selection=settings.selection
        )
    except ManifestError as error:
        return Preview(missing=(str(error),))
    videos = of_split(listed.videos, split)
    there = [video for video in videos if video.status == "ok"]
    gone = [video for video in videos if video.status != "ok"]
    missing = []
    if gone:
        missing.append(f"{len(gone)} of {len(videos)} training videos, e.g. {gone[0].id!r} ({gone[0].reason})")
    found = Preview(num_train=len(there), num_left_out=len(gone), missing=tuple(missing))
    problem = available(settings.decoder)
    if problem is not None:
        return dataclasses.replace(found, missing=(*missing, problem))
    if not there:
        return found
    scanned = scan_listed(
        Manifest(root=listed.root, videos=tuple(there[number] for number in spread(len(there)))),
        decoder=settings.decoder,
        deadline_seconds=settings.deadline_seconds,
        max_gigapixels=settings.max_gigapixels,
        progress=lambda done, total: on_stage("sample", done, total),
    ).videos
    usable = [video for video in scanned if video.status == "ok"]
    broken = tuple(f"{video.id!r} ({video.reason})" for video in scanned if video.status != "ok")
    if not usable:
        sentence = f"a video that can be used: none of {len(broken)} sampled ones can, e.g. {broken[0]}"
        return dataclasses.replace(found, failures=broken, missing=(*missing, sentence))
    paths = [listed.path_of(video) for video in usable]
    return dataclasses.replace(found, sample=VideoFiles(usable, paths, decoder=settings.decoder), failures=broken)


def spread(num_videos: int) -> list[int]:
    """Numbers of at most :data:`NUM_SAMPLED` of so many videos, equally spaced."""
    places = np.linspace(0, num_videos - 1, min(NUM_SAMPLED, num_videos))
    return [round(place) for place in places.tolist()]


def measure_source(
    source: ViewSource, files: VideoFiles, *, failures: Sequence[str] = (), on_stage: OnStage = ignore
) -> DecodeSample | None:
    """How fast one core decodes views, on some of the videos; ``None`` if none can be decoded.

    Args:
        source: How views are drawn.
        files: The videos.
        failures: Sampled videos that cannot be used, with the reasons.
        on_stage: Called with the stage ``decode``, videos decoded and videos to decode.
    """
    chosen = [files.file(number) for number in spread(len(files.videos))]
    names = [file.video.id for file in chosen]
    return measure(lambda place: source.pixels(chosen[place], 0), names, failures=failures, on_stage=on_stage)


def measure(
    decode: Callable[[int], object],
    names: Sequence[str],
    *,
    num_at_once: int = 1,
    failures: Sequence[str] = (),
    on_stage: OnStage = ignore,
) -> DecodeSample | None:
    """Time calls on one core, for :data:`SECONDS` at most once two are done; the first call is made twice, to warm up.

    Args:
        decode: Decodes ``num_at_once`` videos, given the number of the call.
        names: What each call decodes, for the report.
        num_at_once: Number of videos per call.
        failures: Sampled videos that cannot be used, with the reasons.
        on_stage: Called with the stage ``decode``, calls done and calls in total.

    Returns:
        The rate, or ``None`` if every call failed.
    """
    seconds, num_done = 0.0, 0
    broken = list(failures)
    with forward_threads(1):
        for place, name in enumerate(names):
            if seconds > SECONDS and num_done >= _LEAST:
                break
            on_stage("decode", place, len(names))
            try:
                if not num_done:
                    decode(place)
                started = time.perf_counter()
                decode(place)
            except VideoError as error:
                broken.append(f"{name!r} ({error.reason})")
                continue
            seconds += time.perf_counter() - started
            num_done += 1
    on_stage("decode", len(names), len(names))
    if not num_done:
        return None
    return DecodeSample(
        num_videos=num_done * num_at_once,
        num_failed=len(broken),
        failure=broken[0] if broken else "",
        seconds=seconds / (num_done * num_at_once),
    )
