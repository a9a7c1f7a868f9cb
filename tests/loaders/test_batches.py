"""The order of batches against plain permutations, and shares of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import ConfigError
from featcache.loaders.ahead import Views
from featcache.loaders.batches import BatchOrder, VideoBatches
from featcache.seeding import rng_for
from featcache.training.world import World


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3), st.data())
def test_batches_are_slices_of_a_permutation_of_each_epoch(num_items, batch_size, seed, data):
    items = 100 + 3 * np.arange(num_items)
    order = BatchOrder(items, batch_size=batch_size, seed=seed)
    size = min(batch_size, num_items)
    assert (order.batch_size, order.num_batches) == (size, num_items // size)
    assert order.num_items == order.num_batches * size
    asked = st.tuples(st.integers(0, 4), st.integers(0, order.num_batches - 1))
    for epoch, number in data.draw(st.lists(asked, max_size=8)):  # in any order, as a resumed run asks
        whole = items[rng_for(seed, "videos", epoch).permutation(num_items)]
        np.testing.assert_array_equal(order.batch(epoch, number), whole[number * size : (number + 1) * size])


class Noting:
    """Stands for a loader: its views are the numbers of the videos."""

    def __init__(self, num_videos):
        self.files = SimpleNamespace(videos=tuple(range(num_videos)))
        self.expected = []

    def views(self, batch, *, following=()):
        self.expected.append([(later.epoch, later.videos) for later in following])
        return Views(batch.videos, (torch.tensor(batch.videos),))


def test_processes_share_each_batch_and_all_later_ones_are_expected():
    alone = VideoBatches(Noting(11), batch_size=4, num_epochs=3, seed=5)
    assert (alone.num_batches, alone.num_items) == (2, 8)
    shares = [
        VideoBatches(Noting(11), batch_size=4, num_epochs=3, seed=5, world=World(rank=rank, size=2)) for rank in (0, 1)
    ]
    for epoch in range(3):
        for number in range(2):
            videos, (views,) = alone.views(epoch, number)
            parts = [share.views(epoch, number)[0] for share in shares]
            assert videos == (*parts[0], *parts[1]) == tuple(views.tolist())
    loader = Noting(11)
    batches = VideoBatches(loader, batch_size=4, num_epochs=3, seed=5)
    every = [(epoch, batches.views(epoch, number)[0]) for epoch in range(3) for number in range(2)]
    assert loader.expected == [every[place + 1 :] for place in range(6)]


def test_fewer_videos_than_a_batch_are_refused():
    with pytest.raises(ConfigError, match=r"3 training videos make no batch of 4; .*training\.batch_size=3 or less"):
        VideoBatches(Noting(3), batch_size=4, num_epochs=3, seed=0)
    with pytest.raises(ConfigError, match="which 3 processes cannot share equally"):
        VideoBatches(Noting(9), batch_size=4, num_epochs=3, seed=0, world=World(size=3))


def test_processes_share_a_plain_order_and_get_all_of_it():
    alone = BatchOrder(np.arange(11), batch_size=6, seed=2)
    shares = [BatchOrder(np.arange(11), batch_size=6, seed=2, world=World(rank=rank, size=3)) for rank in range(3)]
    for epoch in range(3):
        whole = alone.batch(epoch, 0)
        np.testing.assert_array_equal(np.concatenate([share.own(epoch, 0) for share in shares]), whole)
        assert all(np.array_equal(share.batch(epoch, 0), whole) for share in shares)
        np.testing.assert_array_equal(alone.own(epoch, 0), whole)
    few = BatchOrder(np.arange(4), batch_size=32, seed=2, world=World(rank=1, size=2))
    assert (few.num_batches, few.share) == (1, slice(2, 4))


@pytest.mark.parametrize("build", [lambda num, **rest: BatchOrder(np.arange(num), **rest), None])
def test_too_few_videos_for_the_processes_are_a_sentence(build):
    build = build or (lambda num, **rest: VideoBatches(Noting(num), num_epochs=1, **rest))
    with pytest.raises(ConfigError, match=r"^4 processes share each batch of videos, and there are 3 to train on; "):
        build(3, batch_size=4, seed=0, world=World(size=4))


def test_few_videos_that_processes_cannot_share_equally_are_a_sentence():
    with pytest.raises(ConfigError, match=r"^5 training videos are fewer than .*_size 32, and 2 .*batch_size=4$"):
        BatchOrder(np.arange(5), batch_size=32, seed=0, world=World(size=2))
    with pytest.raises(ConfigError, match="batch_size is 6, which 4 processes cannot share equally"):
        BatchOrder(np.arange(9), batch_size=6, seed=0, world=World(size=4))
