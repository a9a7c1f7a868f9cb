"""The benchmark's networks: published counts, shapes, layers, and thin ones that learn."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from featcache.errors import UnknownNameError
from featcache.networks import r21d
from featcache.networks.catalogue import NETWORKS, build_network
from featcache.networks.counting import count_macs, count_parameters

CLASSES = 101
# Parameters of the network alone, with its projection and a classifier of 101 classes, 2 x (MAC + 2 x BatchNorm) in G
# for 16 frames of 112 pixels, and the last map.
PUBLISHED = {
    "r21d": (14_365_303, 14_417_116, 42.88, (512, 2, 7, 7)),
    "r3d": (14_361_792, 14_413_605, 39.83, (512, 2, 7, 7)),
    "c3d": (27_661_440, 27_713_253, 77.09, (512, 2, 7, 7)),
}
THIN = 1 / 8


def thin(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(name, width=THIN)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_all_are_counted():
    assert set(PUBLISHED) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_operations_and_shapes(name):
    alone, with_classes, operations, shape = PUBLISHED[name]
    with torch.device("meta"):
        network = build_network(name).eval()
        clip = torch.empty(1, 3, 16, 112, 112)
    total = count_parameters(network)
    assert total - count_parameters(network.projection) == alone
    assert total + CLASSES * (network.width + 1) == with_classes
    norms = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.register_forward_hook(lambda _module, _inputs, output: norms.append(output.numel()))
    macs = count_macs(network, clip)
    assert 2 * (macs + 2 * sum(norms)) == pytest.approx(operations * 1e9, rel=0.005)
    features = network(clip)
    assert tuple(features.map.shape) == (1, *shape)
    assert tuple(features.vector.shape) == (1, network.width) == (1, 512)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_of_a_thin_one_learns(name):
    network = thin(name).train()
    features = network(noise(2, 3, 8, 64, 64))
    assert features.vector.shape == (2, network.width) == (2, 64)
    (features.vector * noise(*features.vector.shape)).sum().backward()
    silent = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not silent


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_layers_are_what_runs_and_no_further(name):
    network, clip = thin(name).eval(), noise(2, 3, 8, 48, 40)
    features = network(clip)
    maps = network.forward_layers(clip, network.layers)
    assert tuple(maps) == network.layers
    assert all(each.ndim == 5 and each.shape[0] == 2 for each in maps.values())
    assert torch.equal(maps[network.layers[-1]], features.map)
    assert torch.equal(network.vector_of(features.map), features.vector)
    sizes = [each[0, 0].numel() for each in maps.values()]
    assert sizes == sorted(sizes, reverse=True)
    ran, first = [], network.layers[0]
    for layer in network.layers:
        network.get_submodule(layer).register_forward_hook(lambda module, *_: ran.append(module))
    assert torch.equal(network.forward_layers(clip, [first])[first], maps[first])
    assert ran == [network.get_submodule(first)]


def test_channels_between_the_factors_of_a_convolution():
    """The stem's 83 of 3 x 7 x 7, and those of each convolution and shortcut."""
    with torch.device("meta"):
        network = build_network("r21d")
    between = [module.bn.num_features for module in network.modules() if isinstance(module, r21d.FactoredConv)]
    assert between == [83, 144, 144, 42, 230, 288, 85, 460, 576, 170, 921, 1152]


def randomised(network):
    """Batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
    return network.eval()


def plain_norm(state, name, x):
    shape = (1, -1, 1, 1, 1)
    mean, var, weight, bias = (
        state[f"{name}.{kind}"].view(shape) for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def plain_conv(state, name, x, stride, padding):
    if f"{name}.temporal_spatial_conv.weight" in state:
        weight = state[f"{name}.temporal_spatial_conv.weight"]
        return functional.conv3d(x, weight, stride=stride, padding=padding)
    space, time = state[f"{name}.spatial_conv.weight"], state[f"{name}.temporal_conv.weight"]
    x = functional.conv3d(x, space, stride=(1, *stride[1:]), padding=(0, *padding[1:]))
    x = plain_norm(state, f"{name}.bn", x).clamp(min=0)
    return functional.conv3d(x, time, stride=(stride[0], 1, 1), padding=(padding[0], 0, 0))


@pytest.mark.parametrize("name", ["r3d", "r21d"])
@torch.no_grad()
def test_residual_networks_against_a_plain_rewriting(name):
    network, clip = randomised(thin(name)), noise(2, 3, 8, 32, 32)
    state = network.state_dict()
    x = plain_norm(state, "bn1", plain_conv(state, "conv1", clip, (1, 2, 2), (1, 3, 3))).clamp(min=0)
    for stage in (2, 3, 4, 5):
        block, stride = f"conv{stage}.block1", (1, 1, 1) if stage == 2 else (2, 2, 2)
        y = plain_norm(state, f"{block}.bn1", plain_conv(state, f"{block}.conv1", x, stride, (1, 1, 1))).clamp(min=0)
        y = plain_norm(state, f"{block}.bn2", plain_conv(state, f"{block}.conv2", y, (1, 1, 1), (1, 1, 1)))
        if stage > 2:
            shortcut = plain_conv(state, f"{block}.downsampleconv", x, stride, (0, 0, 0))
            x = plain_norm(state, f"{block}.downsamplebn", shortcut)
        x = (x + y).clamp(min=0)
    torch.testing.assert_close(network(clip).map, x)
    torch.testing.assert_close(network(clip).vector, x.mean(dim=(2, 3, 4)))


@torch.no_grad()
def test_c3d_against_a_plain_rewriting():
    network, clip = randomised(thin("c3d")), noise(2, 3, 16, 32, 32)
    state, x = network.state_dict(), clip
    for name, pool in [
        ("1", (1, 2, 2)), ("2", 2), ("3a", 1), ("3b", 2), ("4a", 1), ("4b", 2), ("5a", 1), ("5b", 1),
    ]:  # fmt: skip
        x = functional.conv3d(x, state[f"conv{name}.weight"], state[f"conv{name}.bias"], padding=1)
        x = functional.max_pool3d(plain_norm(state, f"bn{name}", x).clamp(min=0), pool)
    torch.testing.assert_close(network(clip).map, x)


def test_a_misspelt_network_is_a_sentence():
    with pytest.raises(UnknownNameError, match="unknown network 'r21b'; did you mean 'r21d'"):
        build_network("r21b")
