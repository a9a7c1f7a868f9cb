"""DINO's head against the same built of torch's weight_norm, and its counts."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from featcache.networks.counting import count_parameters
from featcache.networks.dino_head import DinoHead
from featcache.training.generators import seeded_torch


def small_head(**sizes):
    with seeded_torch(0, "head"):
        return DinoHead(12, **{"hidden": 32, "bottleneck": 8, "num_prototypes": 50, **sizes})


def test_equals_weight_norm_of_gain_one_forward_and_backward():
    head = small_head()
    features = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    plain = nn.utils.parametrizations.weight_norm(nn.Linear(8, 50, bias=False))
    plain.parametrizations.weight.original0.data.fill_(1.0)
    plain.parametrizations.weight.original1.data.copy_(head.last_layer.weight_v)
    expected = plain(functional.normalize(head.mlp(features), dim=-1))
    logits = head(features)
    torch.testing.assert_close(logits, expected)
    assert logits.shape == (2, 5, 50)
    assert logits.abs().max() <= 1 + 1e-6
    target = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    mine = torch.autograd.grad((logits * target).sum(), [*head.mlp.parameters(), head.last_layer.weight_v])
    theirs = torch.autograd.grad(
        (expected * target).sum(), [*head.mlp.parameters(), plain.parametrizations.weight.original1]
    )
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_length_of_a_prototype_does_not_matter():
    head, features = small_head(), torch.ones(3, 12)
    before = head(features)
    with torch.no_grad():
        head.last_layer.weight_v.mul_(torch.arange(1.0, 51.0)[:, None])
    torch.testing.assert_close(head(features), before)


def test_parameters_are_named_as_in_the_published_file_and_counted():
    with torch.device("meta"):
        head = DinoHead(768)
    shapes = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    assert shapes == {
        "mlp.0.weight": (2048, 768),
        "mlp.0.bias": (2048,),
        "mlp.2.weight": (2048, 2048),
        "mlp.2.bias": (2048,),
        "mlp.4.weight": (256, 2048),
        "mlp.4.bias": (256,),
        "last_layer.weight_v": (65_536, 256),
    }
    assert count_parameters(head) == 768 * 2048 + 2048 + 2048 * 2049 + 2048 * 256 + 256 + 65_536 * 256


def test_initial_weights_are_those_of_the_paper():
    head = small_head(hidden=256, bottleneck=64, num_prototypes=500)
    weight = head.mlp[2].weight.detach()
    assert weight.std() == pytest.approx(0.02, rel=0.05)
    assert all(not layer.bias.any() for layer in head.mlp if isinstance(layer, nn.Linear))
    prototypes = head.last_layer.weight_v.detach()
    assert prototypes.abs().max() <= 1 / 8
    assert prototypes.std() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)


def test_logits_stay_float32_under_autocast():
    head, features = small_head(), torch.ones(3, 12)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features)
    assert logits.dtype == torch.float32
    vectors = functional.normalize(head.last_layer.weight_v, dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        inner = head.mlp(features)
    torch.testing.assert_close(logits, functional.normalize(inner.float(), dim=-1) @ vectors.T)
