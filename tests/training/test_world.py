"""Processes that share a run: shares of a batch, what torchrun says, and two real processes against one."""

import itertools
import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import ConfigError, StoppedError
from featcache.training.checkpoint import read_checkpoint
from featcache.training.logs import read_log
from featcache.training.runs import cores_of, prepare_torch
from featcache.training.settings import TrainingSettings
from featcache.training.world import ALONE, World, find_world, join_world
from tests.training.processes import together
from tests.training.shared_toy import SharedToy, main, run

SECOND = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@given(st.integers(1, 9), st.integers(1, 9))
def test_shares_make_up_the_batch(size, each):
    batch = list(range(size * each))
    shares = [batch[World(rank=rank, size=size).share(len(batch))] for rank in range(size)]
    assert {len(share) for share in shares} == {each}
    assert [*itertools.chain(*shares)] == batch


@given(st.integers(1, 9), st.integers(0, 40))
def test_every_item_belongs_to_one_process(size, count):
    mine = [World(rank=rank, size=size).mine(count) for rank in range(size)]
    assert sorted(itertools.chain(*mine)) == list(range(count))
    assert max(map(len, mine)) - min(map(len, mine)) <= 1


def test_a_batch_that_cannot_be_shared_equally_is_an_error():
    with pytest.raises(ConfigError, match=r"batch_size is 4, which 3 processes .* set training\.batch_size=6"):
        World(size=3).share(4)


def test_the_world_is_what_torchrun_says():
    assert find_world(SECOND) == World(rank=3, size=4, local_rank=1, local_size=2)
    assert find_world({}) == find_world(SECOND | {"WORLD_SIZE": "1", "RANK": "0"}) == ALONE
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 4 and LOCAL_RANK, LOCAL_WORLD_SIZE is not set; start .*run"):
        find_world({"WORLD_SIZE": "4", "RANK": "3"})


def test_one_process_needs_no_other():
    tensor = torch.randn(3, generator=torch.Generator().manual_seed(0))
    with join_world() as world:
        assert world == ALONE
        assert world.mean_(tensor) is tensor
        assert world.gather(tensor) is tensor
        assert torch.equal(world.collect(tensor, 3), tensor)
        assert (world.any(True), world.any(False), world.from_first(lambda: 5)) == (True, False, 5)
        assert not torch.distributed.is_initialized()


def test_a_run_that_cannot_be_shared_is_refused_by_one_voice(monkeypatch):
    for name, value in SECOND.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoppedError):
        prepare_torch(TrainingSettings())
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="torchrun started 4 processes and this command trains in one"):
        prepare_torch(TrainingSettings())


def test_each_process_has_its_own_gpu_and_its_part_of_the_cores(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr("featcache.training.runs.num_cores", lambda: 5)
    world = find_world(SECOND)
    assert (cores_of(world), cores_of(ALONE), cores_of(World(local_size=9))) == (2, 5, 1)
    one_thread = TrainingSettings(device="cuda", threads=1)
    assert prepare_torch(one_thread, world=world) == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)]
    with pytest.raises(ConfigError, match="'cuda:1' is one for 4 processes; give 'cuda'"):
        prepare_torch(one_thread.model_copy(update={"device": "cuda:1"}), world=world)
    with pytest.raises(ConfigError, match="started 3 processes where torch sees 2 GPUs"):
        prepare_torch(one_thread, world=World(size=3, local_size=3))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes saw and left; one of them found a checkpoint that the other does not have."""
    folder = tmp_path_factory.mktemp("two")
    run(folder / "one")
    shutil.copytree(folder / "one", folder / "unequal-1")
    together(main, folder)
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def test_processes_exchange_numbers_and_objects(two):
    for seen in two[1]:
        assert seen["gathered"] == [[1.0, 10.0], [2.0, 10.0]]
        assert seen["mean"] == [[1.5, 10.0]]
        assert seen["any"] == [True, False]
        assert seen["from_first"] == {"made by": 0}


def test_rows_of_unequal_shares_are_collected_in_order_and_none_twice(two):
    for seen in two[1]:
        assert seen["collected"] == [[[float(item), 0.5] for item in range(count)] for count in range(6)]
        assert seen["rows"] == [[[6.0, 6.0]] * 3, 0], "of which the first process has none"


def test_a_step_gives_up_when_another_hangs_and_only_the_first_is_waited_for(two):
    for seen in two[1]:
        assert seen["timeouts"] == [1800.0, 86_400.0]


def test_two_processes_train_as_one(two):
    folder, _ = two
    one, both = (read_checkpoint(folder / name) for name in ("one", "two"))
    assert one is not None
    assert both is not None
    assert one.step == both.step == 12
    assert one.tensors.keys() == both.tensors.keys()
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(both.tensors[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    lines = [read_log(folder / name) for name in ("one", "two")]
    for mine, theirs in zip(*lines, strict=True):
        for name in ("step", "epoch", "lr", "loss", "size"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-5)
    states = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()), "processes drift apart"
    changed = SharedToy().module.state_dict()
    assert not any(torch.equal(tensor, states[0][name]) for name, tensor in changed.items())


def test_only_the_first_process_draws_as_one_alone(two):
    draws = [seen["draw"] for seen in two[1]]
    assert draws[0] != draws[1]


def test_a_loss_that_is_not_finite_in_one_process_stops_both(two):
    folder, seen = two
    kinds, sentences = zip(*(each["diverged"] for each in seen), strict=True)
    assert sorted(kinds) == ["DivergedError", "StoppedError"]
    assert sentences[0] == sentences[1]
    assert "not finite by step 5" in sentences[0]
    checkpoint = read_checkpoint(folder / "diverged")
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert len(read_log(folder / "diverged")) == 2


def test_what_only_the_first_can_say_stops_both(two):
    first, second = (seen["first"] for seen in two[1])
    assert first == ["ManifestError", "no videos"]
    assert second == ["StoppedError", "the first process of the run stopped, whose own message says why"]


def test_processes_that_find_different_checkpoints_do_not_train(two):
    for kind, sentence in (seen["unequal"] for seen in two[1]):
        assert kind == "ConfigError"
        assert "at different steps, [0, 12]; put the run on a disk" in sentence
