"""BatchNorm over processes: two real processes against one."""

import copy

import pytest
import torch
from torch import nn

from featcache.errors import ConfigError
from featcache.training.shared_norm import SharedBatchNorm, share_batch_norms
from featcache.training.world import ALONE, World
from tests.training.processes import together
from tests.training.shared_norm_toy import KINDS, ROWS, main, normed, partly_counted, trained


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes saw."""
    folder = tmp_path_factory.mktemp("two")
    together(main, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def one():
    return trained()


def assert_as_one(both, one):
    assert both.keys() == one.keys()
    assert torch.allclose(both["losses"], one["losses"], rtol=0, atol=1e-4), f"{both['losses']} is not {one['losses']}"
    for name, tensor in one.items():
        if "running_" in name:
            assert torch.allclose(both[name], tensor, rtol=1e-5, atol=1e-5), name


def test_two_processes_train_as_one(two, one):
    assert_as_one(two[0]["shared"], one)
    for name, tensor in two[0]["shared"].items():
        assert torch.equal(tensor, two[1]["shared"][name]), f"processes drift apart in {name}"
        torch.testing.assert_close(tensor, one[name], rtol=1e-3, atol=1e-4, msg=name)


def test_statistics_per_process_are_another_run(two, one):
    with pytest.raises(AssertionError, match="is not"):
        assert_as_one(two[0]["separate"], one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_that_of_the_whole_batch_whatever_the_shares(two, kind):
    values, gradients, buffers = normed(slice(None), **KINDS[kind])
    mine = [seen["norms"][kind] for seen in two]
    for name, whole in values.items():
        together = torch.cat([each[0][name] for each in mine])
        torch.testing.assert_close(together, whole, rtol=1e-5, atol=1e-5, msg=name)
    for name, whole in gradients.items():
        torch.testing.assert_close(mine[0][1][name] + mine[1][1][name], whole, rtol=1e-5, atol=1e-5, msg=name)
    for each in mine:
        for name, whole in buffers.items():
            torch.testing.assert_close(each[2][name], whole, rtol=1e-5, atol=1e-5, msg=name)


def test_rows_that_do_not_count_change_nothing_for_the_others(two):
    whole = partly_counted(slice(ROWS[0]), slice(None))
    for name, tensor in whole.items():
        torch.testing.assert_close(two[0]["partly"][name], tensor, rtol=1e-5, atol=1e-5, msg=name)
        if name != "y":
            assert torch.equal(two[1]["partly"][name], two[0]["partly"][name]), name


def test_gathered_rows_give_their_gradients_back(two):
    for rank, seen in enumerate(two):
        assert seen["gathered"]["every"].tolist() == [[1.0, 10.0], [2.0, 10.0]]
        weights = torch.arange(4.0).view(2, 2)[rank] * (1 + 2)  # of both processes' losses
        assert seen["gathered"]["of_x"].tolist() == [(2 * seen["gathered"]["every"][rank] * weights).tolist()]


def test_one_process_has_the_batch_norm_of_torch():
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
    assert share_batch_norms(network, ALONE) is network
    assert type(network[1]) is nn.BatchNorm3d
    rows = torch.randn(2, 3, requires_grad=True)
    assert ALONE.gather_trained(rows) is rows


def test_modules_parameters_and_names_stay():
    inner = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.SyncBatchNorm(4))
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), inner)
    norms, state = [network[1], *inner], dict(network.named_parameters())
    before = copy.deepcopy(network)
    share_batch_norms(network, World(size=2))
    assert [network[1], *network[2]] == norms
    assert all(type(norm) is SharedBatchNorm for norm in norms)
    assert all(parameter is state[name] for name, parameter in network.named_parameters())
    assert network.state_dict().keys() == before.state_dict().keys()
    clips = torch.randn(1, 3, 2, 2, 2)  # in evaluation mode nothing is exchanged: there is no other process here
    assert torch.equal(network[:2].eval()(clips), before[:2].eval()(clips))
    assert type(copy.deepcopy(network)[1]) is SharedBatchNorm


def test_a_batch_norm_that_computes_more_is_refused():
    class WithActivation(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    network = nn.Sequential(nn.Sequential(WithActivation(4)))
    with pytest.raises(ConfigError, match=r"0\.0 is a WithActivation, whose statistics 2 processes cannot share"):
        share_batch_norms(network, World(size=2))
