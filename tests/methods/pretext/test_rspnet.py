"""RSPNet: speeds, losses and queue by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from featcache.loaders.views import ClipShape
from featcache.methods.pretext.rspnet import Rspnet
from featcache.methods.pretext.task import Footage
from featcache.testing import pretext as suite

SHAPE = ClipShape(16, 112)


def test_the_key_is_one_stretch_at_both_speeds():
    task, rng = Rspnet(), np.random.default_rng(0)
    assert task.min_frames(SHAPE) == 32
    speeds = set()
    for _ in range(50):
        views, targets = task.draw(Footage("v", 60, 128, 171, 2.0), SHAPE, rng)
        query, same, other = (view.frames[1] - view.frames[0] for view in views)
        assert query == same == (1, 2)[targets["speed"]]
        assert other == 3 - same
        assert views[1].frames[0] == views[2].frames[0]
        assert views[1].looks == views[2].looks != views[0].looks
        speeds.add(query)
    assert speeds == {1, 2}


def test_equal_cosines_cost_the_margin():
    vectors = functional.normalize(torch.randn(6, 8), dim=1)
    keys = functional.normalize(torch.randn(6, 8), dim=1)
    assert float(Rspnet().ranking(vectors, keys, keys.clone()).total) == 2.0


def test_a_key_that_is_nearer_by_the_margin_costs_nothing():
    query = torch.tensor([[1.0, 0.0]])
    for cosine, cost in ((0.14, 0.0), (0.07, 1.0), (-0.07, 3.0)):
        near = torch.tensor([[cosine, math.sqrt(1 - cosine**2)]])
        loss = Rspnet().ranking(query, near, torch.tensor([[0.0, 1.0]]))
        assert float(loss.total) == pytest.approx(cost, abs=1e-5)
        assert float(loss.metrics["accuracy"]) == float(cosine > 0)


def test_the_loss_is_the_ranking_and_both_keys_among_the_queue():
    task = Rspnet(queue=6)
    module = suite.module_of(task).eval()
    clips, targets = suite.batch_of(task)
    queue = module.queues["appearance"].keys.clone()
    query = module.projected(clips[0])
    same, other = (module.keys(clip, splits=1) for clip in clips[1:])
    ranked = functional.relu(2.0 - ((query["motion"] * (same["motion"] - other["motion"])).sum(dim=1) / 0.07)).mean()
    found = [
        -torch.log_softmax(
            torch.cat([(query["appearance"] * keys["appearance"]).sum(1, keepdim=True),
                       query["appearance"] @ queue.T], dim=1) / 0.07, dim=1)[:, 0].mean()
        for keys in (same, other)
    ]  # fmt: skip
    loss = task.loss(module, clips, targets)
    assert float(loss.total.detach()) == pytest.approx(float((ranked + found[0] + found[1]).detach()), rel=1e-4)
    after = module.queues["appearance"].keys
    assert torch.allclose(after[:4], other["appearance"], atol=1e-6), "the keys of the other speed"
    assert torch.equal(after[4:], queue[4:])


def test_sizes_are_those_of_the_release():
    task = Rspnet()
    assert (task.queues, task.temperature, task.margin, task.momentum) == (
        {"appearance": (16384, 128)}, 0.07, 2.0, 0.999,
    )  # fmt: skip
    assert {name: (head.in_features, head.out_features) for name, head in task.heads(512).items()} == {
        "motion": (512, 128), "appearance": (512, 128),
    }  # fmt: skip
