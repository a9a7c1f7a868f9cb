"""VCOP: the numbers of its paper."""

import itertools

import numpy as np
import pytest

from featcache.loaders.views import ClipShape
from featcache.methods.pretext.task import Footage
from featcache.methods.pretext.vcop import Vcop

SHAPE = ClipShape(16, 112)


@pytest.mark.parametrize(
    ("complexity", "clips", "pairs", "orders", "frames"),
    [("c1", 3, 3, 6, 64), ("c2", 4, 6, 24, 88), ("c3", 5, 10, 120, 112)],
)
def test_sizes_are_those_of_the_paper(complexity, clips, pairs, orders, frames):
    task = Vcop(complexity=complexity)
    head = task.heads(512)["order"]
    assert len(head.pairs) == pairs
    assert (head.pair[0].in_features, head.pair[0].out_features) == (1024, 512)
    assert (head.order[1].in_features, head.order[1].out_features) == (512 * pairs, orders)
    assert task.min_frames(SHAPE) == frames
    assert task.chance == 1 / orders
    assert len(task.draw(Footage("v", frames, 128, 171, 4.0), SHAPE, np.random.default_rng(0)).views) == clips


def test_the_answer_is_the_number_of_the_order_and_each_clip_has_its_own_crop():
    task, rng = Vcop(), np.random.default_rng(0)
    for _ in range(20):
        views, targets = task.draw(Footage("v", 90, 128, 171, 4.0), SHAPE, rng)
        starts = [view.frames[0] for view in views]
        first = min(starts)
        order = list(itertools.permutations(range(3)))[targets["order"]]
        assert starts == [first + 24 * place for place in order]
        assert all(view.frames == tuple(range(start, start + 16)) for view, start in zip(views, starts, strict=True))
        assert len({view.looks[0].box for view in views}) > 1
