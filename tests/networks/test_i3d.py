"""I3D against a plain reference: every pad written out, padding by zeros, one axis at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from featcache.networks.i3d import ConvUnit, InceptionI3D, Mixed, SamePool, same_padding


def pad_same(x, kernel, stride):
    """TensorFlow's rule, written out: zeros for ceil(size / stride) windows an axis, the smaller half first."""
    amounts = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        windows = math.ceil(size / s)
        total = max((windows - 1) * s + k - size, 0)
        amounts.append((total // 2, total - total // 2))
    return functional.pad(x, [amount for pair in reversed(amounts) for amount in pair])


def plain_unit(unit, x):
    k, s = unit.kernel, unit.stride
    y = functional.conv3d(pad_same(x, (k,) * 3, (s,) * 3), unit.conv.weight, stride=s)
    scale = unit.bn.weight / torch.sqrt(unit.bn.running_var + 1e-3)
    shift = unit.bn.bias - unit.bn.running_mean * scale
    return torch.clamp(y * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1), min=0)


def plain_pool(pool, x):
    return functional.max_pool3d(pad_same(x, pool.kernel, pool.stride), pool.kernel, pool.stride)


def plain_block(block, x):
    if isinstance(block, ConvUnit):
        return plain_unit(block, x)
    if isinstance(block, SamePool):
        return plain_pool(block, x)
    assert isinstance(block, Mixed)
    return torch.cat(
        [
            plain_unit(block.b0, x),
            plain_unit(block.b1[1], plain_unit(block.b1[0], x)),
            plain_unit(block.b2[1], plain_unit(block.b2[0], x)),
            plain_unit(block.b3[1], plain_pool(block.b3[0], x)),
        ],
        dim=1,
    )


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = InceptionI3D().eval()
        for module in net.modules():  # statistics that matter
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.2, 0.5)
                torch.nn.init.uniform_(module.bias, -0.1, 0.2)
    return net.requires_grad_(False)


@given(size=st.integers(1, 400), kernel=st.integers(1, 7), stride=st.integers(1, 4))
def test_same_padding_gives_ceil_windows(size, kernel, stride):
    before, after = same_padding(size, kernel=kernel, stride=stride)
    assert 0 <= before <= after <= before + 1
    windows = math.ceil(size / stride)
    assert (size + before + after - kernel) // stride + 1 == windows
    if before + after:
        assert (windows - 1) * stride + kernel == size + before + after


@settings(max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    kernel_and_stride=st.sampled_from(
        [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))]
    ),
    seed=st.integers(0, 2**31),
)
def test_pool_equals_padding_by_zeros(shape, kernel_and_stride, seed):
    pool = SamePool(*kernel_and_stride)
    x = torch.randn((1, 2, *shape), generator=torch.Generator().manual_seed(seed)).clamp(min=0)
    assert torch.equal(pool(x), plain_pool(pool, x))


@settings(max_examples=60)
@given(shape=st.tuples(*[st.integers(1, 9)] * 3), kernel_and_stride=st.sampled_from([(7, 2), (3, 1), (1, 1), (3, 2)]))
def test_unit_equals_the_plain_one(shape, kernel_and_stride):
    kernel, stride = kernel_and_stride
    generator = torch.Generator().manual_seed(kernel)
    unit = ConvUnit(3, 4, kernel=kernel, stride=stride).eval()
    with torch.no_grad():
        unit.conv.weight.copy_(torch.randn(unit.conv.weight.shape, generator=generator))
        x = torch.randn((1, 3, *shape), generator=generator)
        torch.testing.assert_close(unit(x), plain_unit(unit, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 64, 64), (7, 45, 50)])
def test_every_endpoint_equals_the_plain_network(network, shape):
    x = torch.randn((1, 3, *shape), generator=torch.Generator().manual_seed(1))
    outputs = network.forward_endpoints(x, network.endpoints)
    assert tuple(outputs) == network.endpoints
    for name, block in network.features.named_children():
        x = plain_block(block, x)
        if name in outputs:
            torch.testing.assert_close(outputs[name], x, rtol=1e-3, atol=1e-4)
    assert outputs["Mixed_5c"].shape == (
        1,
        1024,
        *(math.ceil(size / s) for size, s in zip(shape, (8, 32, 32), strict=True)),
    )


def test_logits_average_the_head_over_time(network):
    x = torch.randn((1, 3, 17, 193, 193), generator=torch.Generator().manual_seed(2))
    features = network.forward_endpoints(x, ["Mixed_5c"])["Mixed_5c"]
    assert features.shape == (1, 1024, 3, 7, 7)
    weight, bias = network.head.conv.weight[:, :, 0, 0, 0], network.head.conv.bias
    steps = [features[:, :, t : t + 2].mean(dim=(2, 3, 4)) @ weight.T + bias for t in range(2)]
    torch.testing.assert_close(network(x), (steps[0] + steps[1]) / 2, rtol=1e-4, atol=1e-4)


def test_it_has_the_published_size(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == 12_697_264


def test_it_stops_at_the_last_endpoint_asked_for(network):
    ran = []
    handles = [block.register_forward_hook(lambda module, *_: ran.append(module)) for block in network.features]
    network.forward_endpoints(torch.zeros(1, 3, 2, 8, 8), ["Conv3d_2b_1x1"])
    for handle in handles:
        handle.remove()
    assert ran[-1] is network.features.Conv3d_2b_1x1
