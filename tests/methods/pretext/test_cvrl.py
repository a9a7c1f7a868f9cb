"""CVRL: its loss by hand, and the law of its clips."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from featcache.loaders.views import ClipShape
from featcache.methods.pretext.cvrl import Cvrl, draw_starts
from featcache.methods.pretext.nt_xent import nt_xent
from featcache.methods.pretext.task import Footage
from featcache.training.world import ALONE


def test_two_videos_at_a_right_angle():
    vectors = torch.eye(2)
    loss = nt_xent(vectors, vectors.clone(), temperature=0.1, world=ALONE)
    side = -math.log(math.exp(10) / (math.exp(10) + 2))
    assert float(loss.total) == pytest.approx(2 * side, abs=1e-6), "a sum over sides, not a mean"
    assert float(loss.metrics["accuracy"]) == 1.0


def test_the_loss_is_that_of_a_slow_reference():
    torch.manual_seed(0)
    one, other = (functional.normalize(torch.randn(5, 7), dim=1).requires_grad_() for _ in range(2))
    loss = nt_xent(one, other, temperature=0.1, world=ALONE).total
    total = 0.0
    for mine, theirs in ((one, other), (other, one)):
        for i in range(5):
            negatives = [mine[i] @ theirs[j] for j in range(5)] + [mine[i] @ mine[j] for j in range(5) if j != i]
            total = total - torch.log_softmax(torch.stack(negatives) / 0.1, dim=0)[i] / 5
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    found = torch.autograd.grad(loss, [one, other])
    expected = torch.autograd.grad(total, [one, other])
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, expected, strict=True))


def test_the_mean_distance_of_clips_is_a_third_of_the_room():
    rng, room, count = np.random.default_rng(0), 3000, 100_000
    starts = np.array([draw_starts(room, rng) for _ in range(count)])
    assert starts.min() >= 0
    assert starts.max() < room
    distances = np.abs(starts[:, 0] - starts[:, 1]) + 0.5  # whole frames: rounded down
    assert abs(distances.mean() - room / 3) < 3 * room / math.sqrt(18 * count)
    assert abs((starts[:, 0] < starts[:, 1]).mean() - 0.5) < 0.01, "in either order"


def test_the_shortest_video_has_one_place():
    task, rng = Cvrl(), np.random.default_rng(0)
    shape = ClipShape(16, 112)
    assert task.min_frames(shape) == 31
    views, targets = task.draw(Footage("v", 31, 128, 171, 1.0), shape, rng)
    assert targets == {}
    assert [view.frames[0] for view in views] == [0, 0]
    assert views[0].looks[0] != views[1].looks[0]


def test_the_head_is_that_of_the_release():
    head = Cvrl().heads(512)["clip"]
    linear = [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, torch.nn.Linear)]
    assert linear == [(512, 2048), (2048, 2048), (2048, 2048), (2048, 128)]
