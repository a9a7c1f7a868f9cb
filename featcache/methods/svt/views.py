"""Frames and boxes of the views of a video: pure index arithmetic (SVT §3.2, CVRL for ``tis``).

Views are a function of the seed, the video and the epoch. Windows are times; a view spreads its frames from the first
to the last frame of its window, and takes the frames with the nearest timestamps.

A view with more frames than its window repeats them in order, as the released code does: it never wraps, and reaches no
further than the frames nearest to its window's ends. :func:`short_views` lists such views.

Differs from the paper: windows are times, not frame numbers, so variable frame rates are respected. Differs from the
released code: globals have windows at random places (there the first and the last 5 frames of 256 are left out), and a
view is 8 or 16 frames long whatever its place in the list.
"""

import dataclasses

import numpy as np

from featcache.data.boxes import draw_color, random_resized_box
from featcache.data.types import Box, ColorStep, Timeline, VideoRecord
from featcache.loaders.ahead import Pixels
from featcache.loaders.looks import SOLARISE_FROM
from featcache.loaders.videos import VideoFile
from featcache.loaders.views import Look, View, read_views
from featcache.loaders.windows import Window, tis_distance, window_frames
from featcache.methods.svt.pairs import NUM_GLOBALS
from featcache.methods.svt.settings import SvtViewSettings
from featcache.seeding import rng_for

# For windows counted in frames: far above float rounding.
_SAME_POSITION = 1e-6


def draw_views(
    settings: SvtViewSettings, timeline: Timeline, *, video_id: str, epoch: int, seed: int
) -> tuple[View, ...]:
    """The views of a video in one epoch: two globals, then the locals.

    Args:
        settings: Settings of the views.
        timeline: Timestamps and size of the video; at least one frame.
        video_id: Id of the video, a key of the draws.
        epoch: Number of the epoch, a key of the draws.
        seed: Seed of the run, a key of the draws.
    """
    windows = draw_windows(settings, timeline, video_id=video_id, epoch=epoch, seed=seed)
    views = []
    for number, (window, num_frames, size) in enumerate(zip(windows, settings.num_frames, settings.sizes, strict=True)):
        frames = window_frames(window, timeline, num_frames=num_frames)
        # Each frame has its own generator, and a consistent view uses the first frame's for all.
        looks = [
            draw_look(
                settings,
                rng_for(seed, "look", video_id, epoch, number, frame),
                view=number,
                height=timeline.height,
                width=timeline.width,
            )
            for frame in range(1 if settings.consistent else num_frames)
        ]
        views.append(
            View(
                frames=tuple(frames.tolist()),
                looks=tuple(looks if len(looks) == num_frames else looks * num_frames),
                size=size,
            )
        )
    return tuple(views)


def draw_windows(
    settings: SvtViewSettings, timeline: Timeline, *, video_id: str, epoch: int, seed: int
) -> tuple[Window, ...]:
    """Draw the window of each view, globals first.

    Places are uniform. With ``tis`` the distance of the globals is drawn by :func:`tis_distance`, and their order is
    random. With ``no_temporal`` all views have the first global's window.
    """
    widths = _window_widths(settings, timeline)
    span = _span_seconds(settings, timeline)
    first = rng_for(seed, "span", video_id, epoch).uniform(0.0, timeline.duration_seconds - span)
    places = [rng_for(seed, "window", video_id, epoch, view).random() for view in range(len(widths))]
    if settings.no_temporal:
        places = [places[0]] * len(widths)
    starts = [first + place * (span - width) for place, width in zip(places, widths, strict=True)]
    if settings.sampler == "tis":
        rng = rng_for(seed, "interval", video_id, epoch)
        room = span - widths[0]
        distance = tis_distance(rng.random(), room=room)
        earlier = first + rng.random() * (room - distance)
        is_swapped = rng.random() < 0.5
        starts[:NUM_GLOBALS] = [earlier + distance, earlier] if is_swapped else [earlier, earlier + distance]
    return tuple(Window(start, width) for start, width in zip(starts, widths, strict=True))


def short_views(settings: SvtViewSettings, video: Timeline | VideoRecord) -> tuple[int, ...]:
    """Numbers of the views whose window has fewer frames than they need, so that they repeat some.

    At a constant frame rate all frames of the other views differ.
    """
    widths = _window_widths(settings, video)
    rate = video.num_frames / video.duration_seconds
    return tuple(
        view
        for view, (width, wanted) in enumerate(zip(widths, settings.num_frames, strict=True))
        if width * rate < wanted - _SAME_POSITION
    )


def draw_look(settings: SvtViewSettings, rng: np.random.Generator, *, view: int, height: int, width: int) -> Look:
    """Draw box, flip and colours of a view; with ``no_spatial`` the whole, unchanged frame.

    Args:
        settings: Settings of the views.
        rng: Random generator.
        view: Number of the view.
        height: Frame height in pixels.
        width: Frame width in pixels.
    """
    if settings.no_spatial:
        return Look(box=Box(y0=0, x0=0, y1=height, x1=width), flip=False, color=())
    flip, solarise = (rng.random(2) < (settings.flip_probability, settings.solarise[min(view, NUM_GLOBALS)])).tolist()
    color: tuple[ColorStep, ...] = ()
    if settings.color is not None:
        law = dataclasses.replace(settings.color, blur_probability=settings.blur[min(view, NUM_GLOBALS)])
        color = draw_color(rng, law) + ((ColorStep("solarise", SOLARISE_FROM),) if solarise else ())
    scale = settings.global_scale if view < NUM_GLOBALS else settings.local_scale
    box = random_resized_box(rng, height=height, width=width, scale=scale, ratio=settings.ratio)
    return Look(box=box, flip=flip, color=color)


def same_shapes(settings: SvtViewSettings) -> tuple[tuple[int, ...], ...]:
    """Groups of views that can share a forward pass, those with equal frames and side; globals first."""
    groups: dict[tuple[int, int], list[int]] = {}
    for view, shape in enumerate(zip(settings.num_frames, settings.sizes, strict=True)):
        groups.setdefault(shape, []).append(view)
    return tuple(tuple(group) for group in groups.values())


def _span_seconds(settings: SvtViewSettings, video: Timeline | VideoRecord) -> float:
    """Length of the part of a video from which its views come."""
    return min(settings.span_seconds or video.duration_seconds, video.duration_seconds)


def _window_widths(settings: SvtViewSettings, video: Timeline | VideoRecord) -> tuple[float, ...]:
    """Width of each view's window in seconds, globals first; at most the span."""
    span = _span_seconds(settings, video)
    widths = [settings.global_time * span] * NUM_GLOBALS
    widths += [(settings.global_time if settings.no_temporal else settings.local_time) * span] * len(
        settings.local_frames
    )
    if settings.sampler == "tis":
        period = video.duration_seconds / video.num_frames
        clip = ((settings.global_frames[0] - 1) * settings.tis_stride + 1) * period
        widths[:NUM_GLOBALS] = [min(clip, span)] * NUM_GLOBALS
    return tuple(widths)


class SvtViewSource:
    """See :class:`featcache.loaders.ahead.ViewSource`; a view is uint8 [T, 3, S, S]."""

    def __init__(self, settings: SvtViewSettings, *, seed: int) -> None:
        self._settings = settings
        self._seed = seed

    def pixels(self, file: VideoFile, epoch: int) -> Pixels:
        """All views of one video.

        Raises:
            VideoError: The video is missing, has changed since it was scanned, or cannot be decoded.
        """
        with file.open() as reader:
            views = draw_views(self._settings, reader.timeline, video_id=file.video.id, epoch=epoch, seed=self._seed)
            return tuple(clip.numpy() for clip in read_views(reader, views))
