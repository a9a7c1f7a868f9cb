"""TDL: its mixing, its negative, its queue and key network."""

import numpy as np
import torch

from featcache.loaders.views import ClipShape
from featcache.methods.pretext.task import Footage
from featcache.methods.pretext.tdl import Tdl, mixed, moved_away
from featcache.testing import pretext as suite

SHAPE = ClipShape(16, 112)


def test_anchor_and_positive_begin_together_and_the_negative_elsewhere():
    task, rng = Tdl(), np.random.default_rng(0)
    assert task.min_frames(SHAPE) == 69
    for num_frames in (69, 70, 75, 200):
        for _ in range(200):
            views, targets = task.draw(Footage("v", num_frames, 128, 171, 3.0), SHAPE, rng)
            anchor, positive, negative = (view.frames[0] for view in views)
            assert anchor == positive
            assert abs(anchor - negative) >= 2
            assert views[0].looks[0] != views[1].looks[0]
            assert 0 <= targets["mixed_share"] < 0.1


def test_a_negative_that_is_too_near_moves_by_a_third():
    assert moved_away(7, 3, num_starts=30) == 7
    assert moved_away(3, 3, num_starts=30) == 13
    assert moved_away(28, 29, num_starts=30) == 8


def test_a_share_of_one_own_frame_is_mixed_in():
    clips = torch.zeros(2, 3, 3, 2, 2, dtype=torch.uint8)
    clips[0, 1], clips[1, 2], clips[1, 0] = 100, 200, 50
    found = mixed(clips, torch.tensor([1, 2]), torch.tensor([0.1, 0.05]))
    assert found.dtype == torch.uint8
    assert found[0, :, 0, 0, 0].tolist() == [10, 100, 10]
    assert found[1, :, 0, 0, 0].tolist() == [58, 10, 200], "0.95 * 50 + 0.05 * 200 = 57.5"
    assert not clips[0, 0].any(), "the clips stay as they are"


def test_keys_of_positives_come_into_the_queue_after_the_loss():
    task = Tdl(queue=6)
    module = suite.module_of(task)
    clips, targets = suite.batch_of(task)
    before = module.queues["moment"].keys.clone()
    module.eval()
    expected = module.keys(clips[1], splits=2)["moment"]
    first = task.loss(module, clips, targets)
    after = module.queues["moment"].keys
    assert torch.allclose(after[:4], expected, atol=1e-6)
    assert torch.equal(after[4:], before[4:])
    second = task.loss(module, clips, targets)
    assert float(second.total.detach()) != float(first.total.detach()), "the same keys are negatives now"
    assert int(module.queues["moment"].place) == 2


def test_the_negative_trains_the_network_and_the_positive_does_not():
    task = Tdl()
    module = suite.module_of(task)
    clips, targets = suite.batch_of(task)
    seen = []
    features = module.features
    module.features = lambda pixels: seen.append(pixels) or features(pixels)
    task.loss(module, clips, targets)
    assert len(seen) == 2
    assert torch.equal(seen[0], mixed(clips[0], targets["mixed_frame"], targets["mixed_share"]))
    assert torch.equal(seen[1], clips[2])
    assert task.queues == {"moment": (500, 128)}
