"""Measures of collapse on cases whose value is known."""

import math

import pytest
import torch

from featcache.training.collapse import assignment_entropy, feature_deviation, mean_assignment_entropy, rank_me


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_entropies_tell_the_two_ways_to_collapse_apart():
    one_for_all = torch.eye(8)[torch.zeros(5, dtype=torch.long)]
    assert mean_assignment_entropy(one_for_all) == 0
    assert assignment_entropy(one_for_all) == 0
    nothing_said = torch.full((5, 8), 1 / 8)
    assert mean_assignment_entropy(nothing_said) == pytest.approx(math.log(8))
    assert assignment_entropy(nothing_said) == pytest.approx(math.log(8))
    healthy = torch.eye(8)
    assert mean_assignment_entropy(healthy) == pytest.approx(math.log(8))
    assert assignment_entropy(healthy) == 0
    mixed = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert mean_assignment_entropy(mixed) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert assignment_entropy(mixed) == pytest.approx(math.log(2) / 2)


def test_deviation_of_features():
    assert feature_deviation(noise(2000, 64)) == pytest.approx(1.0, abs=0.02)
    assert feature_deviation(torch.ones(10, 64) * torch.arange(1.0, 11.0)[:, None]) == pytest.approx(0.0, abs=1e-5)
    assert feature_deviation(torch.tensor([[2.0, 0.0], [0.0, 5.0]])) == pytest.approx(0.5 * 2**0.5)


def test_rank():
    assert rank_me(torch.eye(16).repeat(4, 1)) == pytest.approx(16, rel=1e-4)
    assert rank_me(noise(50, 1) @ noise(1, 20)) == pytest.approx(1, abs=1e-3)
    three = torch.linalg.qr(noise(50, 3)).Q @ torch.linalg.qr(noise(20, 3)).Q.T
    assert rank_me(three) == pytest.approx(3, abs=0.01)
    share = torch.tensor([0.75, 0.25])
    assert rank_me(torch.diag(share)) == pytest.approx(math.exp(-(share * share.log()).sum()), rel=1e-4)
    assert torch.isfinite(rank_me(torch.zeros(4, 3)))


def test_lower_precision_is_measured_in_float32():
    assert rank_me(noise(32, 8).bfloat16()).dtype == torch.float32
    assert mean_assignment_entropy(torch.eye(3).half()).dtype == torch.float32


def test_features_that_are_not_finite_have_no_rank():
    broken = noise(6, 4)
    broken[2, 1] = math.inf
    assert rank_me(broken).isnan()
