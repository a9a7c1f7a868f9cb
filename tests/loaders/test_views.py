"""Pixels of views: one pass for all, each by itself, and torchvision's own transforms on the frames give the same."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from featcache.data.decoding import open_video
from featcache.data.decoding.base import VideoReader
from featcache.loaders.views import cut_views, frames_of, read_views
from featcache.methods.svt.module import network_input
from featcache.methods.svt.views import draw_views
from featcache.testing.videos import sequential_frames, write_video
from tests.methods.svt.helpers import small_views

LAWS = {
    "as_released": {},
    "all_colours": {"blur": (1.0, 1.0, 1.0), "solarise": (1.0, 1.0, 1.0)},
    "a_draw_a_frame": {"consistent": False},
    "whole_frames": {"no_spatial": True},
    "one_window": {"no_temporal": True},
}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("views") / "a.mp4"
    write_video(path, num_frames=24)
    return path


class Counting:
    """A reader that notes what it is asked for."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader, self.reads = reader, []

    def read(self, indices):
        self.reads.append(list(indices))
        return self._reader.read(indices)


def drawn(video, law, epoch=0):
    with open_video(video) as reader:
        return draw_views(small_views(**law), reader.timeline, video_id="a", epoch=epoch, seed=0)


def slow_view(frames, view):
    """Each frame through torchvision, step by step."""
    pixels = []
    for frame, look in zip(view.frames, view.looks, strict=True):
        box = look.box
        image = torch.from_numpy(frames[frame]).permute(2, 0, 1)[:, box.y0 : box.y1, box.x0 : box.x1].contiguous()
        image = functional.resize(image, [view.size] * 2, interpolation=InterpolationMode.BICUBIC, antialias=True)
        image = functional.horizontal_flip(image) if look.flip else image
        for name, amount in look.color:
            radius = min(int(-(-4 * amount // 1)), view.size - 1)
            image = {
                "brightness": lambda x, a: functional.adjust_brightness(x, a),
                "contrast": lambda x, a: functional.adjust_contrast(x, a),
                "saturation": lambda x, a: functional.adjust_saturation(x, a),
                "grey": lambda x, a: functional.rgb_to_grayscale(x, 3),
                "blur": lambda x, a, radius=radius: functional.gaussian_blur(x, [2 * radius + 1] * 2, [a, a]),
                "solarise": lambda x, a: functional.solarize(x, a),
            }[name](image, amount)
        pixels.append(image)
    return torch.stack(pixels)


@pytest.mark.parametrize("law", LAWS)
def test_one_pass_gives_what_each_view_by_itself_and_torchvision_give(video, law):
    frames = sequential_frames(video)
    for epoch in range(3):
        views = drawn(video, LAWS[law], epoch)
        with open_video(video) as reader:
            counting = Counting(reader)
            together = read_views(counting, views)
        assert counting.reads == [frames_of(views).tolist()], "one pass, each frame once"
        for view, clip in zip(views, together, strict=True):
            assert clip.shape == (len(view.frames), 3, view.size, view.size)
            with open_video(video) as reader:
                (alone,) = read_views(reader, [view])
            assert torch.equal(clip, alone)
            assert torch.equal(clip, slow_view(frames, view))


def test_the_order_of_frames_and_more_of_them_do_not_matter(video):
    frames = list(enumerate(sequential_frames(video)))
    views = drawn(video, {})
    for one, other in zip(cut_views(frames, views), cut_views(frames[::-1], views), strict=True):
        assert torch.equal(one, other)


def test_a_missing_frame_is_an_error(video):
    views = drawn(video, {})
    frames = [pair for pair in enumerate(sequential_frames(video)) if pair[0] != views[0].frames[3]]
    with pytest.raises(ValueError, match=rf"frames \[{views[0].frames[3]}\] are not among"):
        cut_views(frames, views)


def test_consistent_colours_keep_a_still_video_still(video):
    frames = sequential_frames(video)
    still = [(number, frames[0]) for number in range(len(frames))]
    for epoch in range(3):
        for clip in cut_views(still, drawn(video, LAWS["all_colours"], epoch)):
            assert torch.equal(clip, clip[:1].expand_as(clip))
    moving = cut_views(still, drawn(video, LAWS["a_draw_a_frame"]))[0]
    assert not torch.equal(moving, moving[:1].expand_as(moving))


def test_the_network_sees_normalised_rgb():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 1)
    seen = network_input(pixels)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen[0, 0, :, 0, 0], -torch.tensor([0.485 / 0.229, 0.456 / 0.224, 0.406 / 0.225]))
    torch.testing.assert_close(seen[0, 1, :, 0, 0], torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))
