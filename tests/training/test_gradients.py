"""Clipping by parameter against torch's own, one parameter at a time."""

import pytest
import torch
from torch import nn

from featcache.training.gradients import clip_each_, drop_gradients, named


def parameters_with_gradients(*, scale):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (7,), (), (2, 3, 5)]
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for number, parameter in enumerate(parameters):
        parameter.grad = scale * 10.0 ** (number - 2) * torch.randn(parameter.shape, generator=generator)
    return [*parameters, nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_clipping_each_equals_torch_on_each(scale):
    mine, theirs = (parameters_with_gradients(scale=scale) for _ in range(2))
    clip_each_(mine, 3.0)
    for parameter, other in zip(mine[:-1], theirs[:-1], strict=True):
        nn.utils.clip_grad_norm_([other], 3.0)
        torch.testing.assert_close(parameter.grad, other.grad)
        assert parameter.grad.norm() <= 3.0 + 1e-5
    assert mine[-1].grad is None


def test_small_gradients_stay_bit_for_bit():
    mine, before = (parameters_with_gradients(scale=1e-3) for _ in range(2))
    clip_each_(mine, 3.0)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine[:-1], before[:-1], strict=True))
    clip_each_(mine[-1:], 3.0)


def test_gradients_that_are_not_finite_are_not_hidden():
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, float("nan")])
    clip_each_([parameter], 1.0)
    assert parameter.grad.isnan().any()


def test_parameters_by_prefix_are_those_that_are_trained():
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "ab": nn.Linear(2, 2)})
    module["a"].bias.requires_grad_(False)
    assert [id(parameter) for parameter in named(module, "a.")] == [id(module["a"].weight)]
    assert len(named(module, "a")) == 3
    module["ab"].weight.grad = torch.ones(2, 2)
    drop_gradients(module["ab"].parameters())
    assert module["ab"].weight.grad is None
