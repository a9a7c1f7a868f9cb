"""Views of a video: their frames, crops, colours and pixels; each frame is decoded once for all views.

A view's pixels are those of :func:`featcache.data.transforms.crop_resize`, or of ``cut_tilted`` and ``resized``, and of
``recolor``.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.data.decoding.base import VideoReader
from featcache.data.decoding.clips import one_thread
from featcache.data.transforms import TiltedBox, cropped, cut_tilted, recolor, resized, tilted_box
from featcache.data.types import Box, ColorStep
from featcache.recipes import Interpolation

Indices = npt.NDArray[np.int64]


class Look(NamedTuple):
    """Operations that turn a frame into pixels of a view: tilt, crop, resize, mirroring, colours, quarter turns.

    Attributes:
        box: Box to cut out.
        flip: Whether it is mirrored left to right.
        color: Colour steps, in order.
        turns: Number of final quarter turns counter-clockwise.
        tilt: Angle in degrees, counter-clockwise, by which the whole frame is rotated about its centre before the crop.
    """

    box: Box
    flip: bool
    color: tuple[ColorStep, ...]
    turns: int = 0
    tilt: float = 0.0


class ClipShape(NamedTuple):
    """Shape of a clip for a network.

    Attributes:
        num_frames: Number of frames.
        size: Side in pixels.
        interpolation: Filter with which boxes are resized.
    """

    num_frames: int
    size: int
    interpolation: Interpolation = "bicubic"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One view of a video.

    Attributes:
        frames: Frame indices, ascending, with repeats if the window has too few frames.
        looks: One look per frame; all equal if the augmentation is temporally consistent.
        size: Side in pixels.
        interpolation: Filter with which boxes are resized.
    """

    frames: tuple[int, ...]
    looks: tuple[Look, ...]
    size: int
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        assert len(self.frames) == len(self.looks), f"{len(self.frames)} frames but {len(self.looks)} looks"


def strided_view(start: int, stride: int, shape: ClipShape, look: Look) -> View:
    """Frames at equal distances with the same look.

    Args:
        start: Number of the first frame.
        stride: Distance between neighbouring frames.
        shape: Number and size of the frames.
        look: Look of every frame.
    """
    return view_of([start + stride * place for place in range(shape.num_frames)], shape, look)


def view_of(frames: Sequence[int], shape: ClipShape, look: Look) -> View:
    """Any number of frames with the same look, of the size of a clip."""
    return View(frames=tuple(frames), looks=(look,) * len(frames), size=shape.size, interpolation=shape.interpolation)


def frames_of(views: Sequence[View]) -> Indices:
    """The distinct frames of some views, ascending, which one pass of a decoder has to read, int64 [n]."""
    return np.unique(np.fromiter(itertools.chain.from_iterable(view.frames for view in views), np.int64))


def read_views(reader: VideoReader, views: Sequence[View]) -> tuple[Tensor, ...]:
    """Decode all views of an open video in one pass; see :func:`cut_views`.

    Raises:
        VideoError: A frame cannot be decoded.
    """
    return cut_views(reader.read(frames_of(views).tolist()), views)


def cut_views(pictures: Iterable[tuple[int, npt.NDArray[np.uint8]]], views: Sequence[View]) -> tuple[Tensor, ...]:
    """Assemble views from frames as they arrive.

    Memory holds one frame and the views. Pictures of a view with the same frame and look are computed once.

    Args:
        pictures: Frame index and RGB picture [H, W, 3]; at least all frames of the views, in any order.
        views: The views.

    Returns:
        One tensor per view, uint8 [T, 3, S, S].

    Raises:
        ValueError: A box does not fit the picture, or a frame is not among the pictures.
    """
    clips = tuple(torch.empty((len(view.frames), 3, view.size, view.size), dtype=torch.uint8) for view in views)
    tilts = lru_cache(maxsize=len(views))(tilted_box)  # frames of one look share one
    needs: dict[int, list[tuple[int, int]]] = defaultdict(list)  # frame -> view and place in it
    for number, view in enumerate(views):
        for place, frame in enumerate(view.frames):
            needs[frame].append((number, place))
    with one_thread():
        for frame, picture in pictures:
            image = torch.from_numpy(picture).permute(2, 0, 1)
            shared: dict[tuple[Look, int, Interpolation], Tensor] = {}
            for number, place in needs.pop(frame, ()):
                view = views[number]
                look = view.looks[place]
                key = (look, view.size, view.interpolation)
                if key not in shared:
                    shared[key] = _seen(image, look, view, tilts=tilts)
                clips[number][place] = shared[key]
    if needs:
        raise ValueError(f"frames {sorted(needs)} are not among the pictures; decode what frames_of() names")
    return clips


def _seen(image: Tensor, look: Look, view: View, *, tilts: Callable[..., TiltedBox]) -> Tensor:
    """A frame uint8 [3, H, W] with a look, uint8 [3, S, S]; ``tilts`` is :func:`tilted_box`, which may remember."""
    if look.tilt:
        part = cut_tilted(image, tilts(look.box, look.tilt, height=image.shape[1], width=image.shape[2]))
    else:
        part = cropped(image, look.box)
    cut = resized(part, size=view.size, interpolation=view.interpolation, flip=look.flip)
    return torch.rot90(recolor(cut, look.color), look.turns, (-2, -1))
