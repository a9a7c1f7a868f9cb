"""VideoMAE: masks and losses by hand."""

import numpy as np
import pytest
import torch

from featcache.errors import ConfigError
from featcache.loaders.views import ClipShape
from featcache.methods.pretext.task import Footage
from featcache.methods.pretext.videomae import VideoMae, masked_loss, patches_of
from featcache.testing import pretext as suite


def test_forty_four_of_forty_nine_cells_are_masked():
    rng, counts = np.random.default_rng(0), np.zeros((7, 7))
    for _ in range(300):
        _, targets = VideoMae().draw(Footage("v", 80, 128, 171, 4.0), ClipShape(16, 112), rng)
        assert targets["masked"].sum() == 44
        counts += targets["masked"]
    assert abs(counts / 300 - 44 / 49).max() < 0.1, "every cell as often as others"


def test_visible_cells_cost_nothing():
    masked = torch.zeros(1, 7, 7, dtype=torch.bool)
    masked[0, 2, 3] = masked[0, 6, 6] = True
    patches = torch.zeros(1, 8, 7, 7, 12)
    predicted = torch.full_like(patches, 100.0)
    predicted[:, :, 2, 3], predicted[:, :, 6, 6] = 1.0, 3.0
    predicted.requires_grad_()
    loss = masked_loss(predicted, patches, masked)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((1 + 9) / 2)
    assert not predicted.grad[0][:, ~masked[0]].any()


def test_patches_are_normalised_and_in_place():
    clip = torch.rand(2, 4, 3, 32, 32)
    patches = patches_of(clip)
    assert patches.shape == (2, 2, 2, 2, 1536)
    pixels = clip[1, 2:4, :, 16:32, 0:16].permute(0, 2, 3, 1).reshape(-1, 3)
    expected = (pixels - pixels.mean(0)) / (pixels.std(0) + 1e-6)
    assert torch.allclose(patches[1, 1, 1, 0], expected.flatten(), atol=1e-5)


def test_the_network_does_not_see_what_is_masked():
    task = VideoMae()
    module = suite.module_of(task).eval()
    (clip,), targets = suite.batch_of(task)
    shown = []
    module.maps = lambda pixels: shown.append(pixels) or torch.zeros(4, 64, 1, 2, 2)
    task.loss(module, (clip,), targets)
    hidden = targets["masked"].repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None, None].expand_as(clip)
    assert torch.equal(shown[0][~hidden], clip[~hidden])
    mean = torch.tensor([round(255 * part) for part in module.recipe.mean], dtype=torch.uint8).view(3, 1, 1)
    assert torch.equal(shown[0][hidden], mean.expand_as(clip)[hidden])


def test_clips_that_have_no_cells_are_refused():
    for shape in (ClipShape(15, 112), ClipShape(16, 100), ClipShape(16, 16)):
        with pytest.raises(ConfigError, match="videomae masks cells of 2 frames and 16 x 16 pixels"):
            VideoMae().min_frames(shape)
