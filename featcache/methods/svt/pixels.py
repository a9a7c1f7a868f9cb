"""The pixels of a video's views: each frame is decoded once, and cut for all views that take it.

A view's pixels are those of :func:`featcache.data.transforms.crop_resize` (bicubic) and ``recolor``. What is trained
on is normalised with the mean and deviation that extraction with a trained SVT uses.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.backbones.svt import CARD
from featcache.data.decoding.base import VideoReader
from featcache.data.decoding.clips import one_thread
from featcache.data.transforms import crop_resize, normalise, recolor
from featcache.loaders.ahead import Pixels
from featcache.loaders.videos import VideoFiles
from featcache.methods.svt.settings import SvtViewSettings
from featcache.methods.svt.views import Look, View, draw_views, frames_of


def read_views(reader: VideoReader, views: Sequence[View]) -> tuple[Tensor, ...]:
    """Decode all views of an open video in one pass; see :func:`cut_views`.

    Raises:
        VideoError: A frame cannot be had.
    """
    return cut_views(reader.read(frames_of(views).tolist()), views)


def cut_views(pictures: Iterable[tuple[int, npt.NDArray[np.uint8]]], views: Sequence[View]) -> tuple[Tensor, ...]:
    """Put views together from frames as they come.

    Memory holds one frame and the views. Frames of a view that share frame and look are computed once.

    Args:
        pictures: Frame index and RGB picture [H, W, 3]; at least all frames that the views take, in any order.
        views: What to cut.

    Returns:
        One tensor a view, uint8 [T, 3, S, S].

    Raises:
        ValueError: A box does not fit the picture, or a frame is not among the pictures.
    """
    clips = tuple(torch.empty((len(view.frames), 3, view.size, view.size), dtype=torch.uint8) for view in views)
    needs: dict[int, list[tuple[int, int]]] = defaultdict(list)  # frame -> view and place in it
    for number, view in enumerate(views):
        for place, frame in enumerate(view.frames):
            needs[frame].append((number, place))
    with one_thread():
        for frame, picture in pictures:
            image = torch.from_numpy(picture).permute(2, 0, 1)
            shared: dict[tuple[Look, int], Tensor] = {}
            for number, place in needs.pop(frame, ()):
                view = views[number]
                look = view.looks[place]
                if (look, view.size) not in shared:
                    cut = crop_resize(image, look.box, size=view.size, interpolation="bicubic", flip=look.flip)
                    shared[look, view.size] = recolor(cut, look.color)
                clips[number][place] = shared[look, view.size]
    if needs:
        raise ValueError(f"frames {sorted(needs)} are not among the pictures; decode what frames_of() names")
    return clips


def network_input(pixels: Tensor) -> Tensor:
    """What the network sees of views, uint8 [..., 3, S, S]: float32 of the same shape, normalised, on their device."""
    return normalise(pixels, mean=CARD.mean, std=CARD.std)


class SvtViewSource:
    """See :class:`featcache.loaders.ahead.ViewSource`; a view is uint8 [T, 3, S, S].

    Attributes:
        files: The videos.
    """

    def __init__(self, files: VideoFiles, settings: SvtViewSettings, *, seed: int) -> None:
        self.files = files
        self._settings = settings
        self._seed = seed

    def pixels(self, video: int, epoch: int) -> Pixels:
        """All views of one video.

        Raises:
            VideoError: It could be used when it was scanned, and cannot now.
        """
        name = self.files.videos[video].id
        with self.files.open_scanned(video) as reader:
            views = draw_views(self._settings, reader.timeline, video_id=name, epoch=epoch, seed=self._seed)
            return tuple(clip.numpy() for clip in read_views(reader, views))
