"""The block shuffle: a permutation, how far it is from a full one, and the same for any number of processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import ConfigError
from featcache.loaders.bank import open_bank
from featcache.loaders.batches import BatchOrder
from featcache.loaders.online import open_source
from featcache.loaders.orders import block_order
from featcache.loaders.settings import BankSettings
from featcache.recipes import SamplingRecipe
from featcache.seeding import rng_for
from featcache.store.reader import open_store
from featcache.testing import stores
from featcache.training.world import World


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_each_item_occurs_once_and_the_order_depends_on_the_generator_alone(groups, window, seed):
    groups = np.array(groups, np.int64)
    order = block_order(groups, window=window, rng=np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(groups)))
    again = block_order(groups, window=window, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(order, again)


@given(st.integers(1, 12), st.integers(2, 12), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_items_of_a_group_stay_within_the_window(num_groups, size, window, seed):
    groups = np.repeat(np.arange(num_groups), size)
    place = block_order(groups, window=window, rng=np.random.default_rng(seed)).argsort()
    count = len(groups)
    for mine in place.reshape(num_groups, size):
        gaps = (mine[:, None] - mine) % count
        assert np.minimum(gaps, count - gaps).max() <= 2 * min(window, count) + size


def same_group_pairs(order, groups, batch):
    """Mean number of pairs of items of one group within a batch."""
    batches = groups[order][: len(order) // batch * batch].reshape(-1, batch)
    same = (batches[:, :, None] == batches[:, None, :]).sum() - batches.size
    return same / 2 / len(batches)


def test_the_stated_quality():
    """Pairs of one group meet in a batch about N / window times as often as after a full shuffle."""
    groups, batch, rng = np.repeat(np.arange(400), 12), 32, np.random.default_rng(0)
    full = np.mean([same_group_pairs(rng.permutation(len(groups)), groups, batch) for _ in range(30)])
    assert full == pytest.approx(batch * (batch - 1) / 2 * 11 / (len(groups) - 1), rel=0.1)
    for window in (4800, 1200, 480):
        orders = [block_order(groups, window=window, rng=rng) for _ in range(30)]
        pairs = np.mean([same_group_pairs(order, groups, batch) for order in orders])
        assert pairs / full == pytest.approx(len(groups) / window, rel=0.15)
        # an item's place says nothing about where it is stored
        correlation = np.corrcoef(np.concatenate(orders), np.tile(np.arange(len(groups)), 30))[0, 1]
        assert abs(correlation) < 0.05


def test_a_window_of_everything_is_a_full_shuffle():
    counts = np.zeros((4, 4), int)
    rng = np.random.default_rng(0)
    for _ in range(4000):
        counts[np.arange(4), block_order(np.array([0, 0, 1, 1]), window=99, rng=rng)] += 1
    assert abs(counts - 1000).max() < 150


@given(st.integers(4, 40), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_processes_share_the_batches_of_one_block_shuffle(num_items, size, epoch):
    items = 7 + 2 * np.arange(num_items)

    def made(world):
        return BatchOrder(
            items, batch_size=4, seed=3, world=world,
            order=lambda rng: block_order(np.arange(num_items) // 3, window=6, rng=rng),
        )  # fmt: skip

    alone = made(World())
    whole = np.concatenate([alone.batch(epoch, number) for number in range(alone.num_batches)])
    assert len(set(whole.tolist())) == len(whole) == num_items // 4 * 4
    shares = [made(World(rank=rank, size=size)) for rank in range(size)]
    for number in range(alone.num_batches):
        parts = np.concatenate([share.own(epoch, number) for share in shares])
        np.testing.assert_array_equal(parts, alone.batch(epoch, number))


BANK = SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    root = tmp_path_factory.mktemp("orders") / "s"
    plan = stores.StorePlan(
        records={"map": stores.make_record((2, 2, 6))}, num_videos=24, rows_per_video=(5, 3), shard_rows=8
    )
    stores.write_store(root, plan, sampling=BANK)
    return root


def test_a_bank_is_shuffled_by_the_setting_and_not_by_the_place_of_its_rows(path, monkeypatch):
    monkeypatch.setattr("featcache.loaders.bank.GROUP_BYTES", 1)
    monkeypatch.setattr("featcache.loaders.bank.WINDOW_BYTES", 3 * 4 * 48)  # three videos
    videos = np.arange(24)
    found = []
    for storage in ("mmap", "disk", "ram", "device"):
        source = open_bank(BankSettings(store=str(path), storage=storage, shuffle="block"))
        found.append(source.order(videos)(rng_for(0, "videos", 0)))
        assert sorted(found[-1].tolist()) == videos.tolist()
        assert open_bank(BankSettings(store=str(path), storage=storage)).order(videos) is None
    assert all(np.array_equal(found[0], each) for each in found)
    place = found[0].argsort()
    with open_store(path).feature() as features:
        shard = features.groups(features.video_start[:-1], num_bytes=1)
    gaps = [np.ptp(place[shard == number]) for number in np.unique(shard)]
    assert np.median(gaps) <= 4, "videos of a block are near each other"


def test_a_stored_bank_is_opened_for_the_device_that_there_is(path):
    assert open_source(BankSettings(store=str(path)), videos=open_store(path)).residence in ("ram", "device")


def test_what_is_decoded_has_no_blocks(path):
    with pytest.raises(ConfigError, match=r"bank\.shuffle=block is an order of stored rows"):
        open_source(BankSettings(store=str(path), shuffle="block", online=True), videos=open_store(path))
