"""The benchmark's networks: published counts, shapes, layers, and thin ones that learn."""

import pytest
import torch
import torchvision
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
    "shufflenet3d": (3_606_288, 4_641_653, 1.054, (1920, 1, 4, 4)),
    "mobilenet3d": (2_354_048, 3_061_733, 1.093, (1280, 1, 4, 4)),
    "squeezenet3d": (1_837_760, 1_889_573, 1.818, (512, 1, 4, 4)),
    "swin3d": (27_850_470, 27_928_139, None, (768, 8, 4, 4)),
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
    if operations is not None:
        assert 2 * (macs + 2 * sum(norms)) == pytest.approx(operations * 1e9, rel=0.005)
    features = network(clip)
    assert tuple(features.map.shape) == (1, *shape)
    assert tuple(features.vector.shape) == (1, network.width) == (1, 768 if name == "swin3d" else 512)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_of_a_thin_one_learns(name):
    network = thin(name).train()
    features = network(noise(2, 3, 8, 64, 64))
    assert features.vector.shape == (2, network.width) == (2, 96 if name == "swin3d" else 64)
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
    """Batch norms that are not the identity, in float64."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
    return network.eval().double()


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
    network, clip = randomised(thin(name)), noise(2, 3, 8, 32, 32).double()
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
    network, clip = randomised(thin("c3d")), noise(2, 3, 16, 32, 32).double()
    state, x = network.state_dict(), clip
    for name, pool in [
        ("1", (1, 2, 2)), ("2", 2), ("3a", 1), ("3b", 2), ("4a", 1), ("4b", 2), ("5a", 1), ("5b", 1),
    ]:  # fmt: skip
        x = functional.conv3d(x, state[f"conv{name}.weight"], state[f"conv{name}.bias"], padding=1)
        x = functional.max_pool3d(plain_norm(state, f"bn{name}", x).clamp(min=0), pool)
    torch.testing.assert_close(network(clip).map, x)


def plain_unit(state, name, x, *, stride=1, groups=1, padding=0):
    """A convolution with or without bias, and its batch norm."""
    y = functional.conv3d(
        x, state[f"{name}.0.weight"], state.get(f"{name}.0.bias"), stride=stride, padding=padding, groups=groups
    )
    return plain_norm(state, f"{name}.1", y)


@torch.no_grad()
def test_shufflenet_against_a_plain_rewriting():
    network, clip = randomised(thin("shufflenet3d")), noise(2, 3, 16, 48, 40).double()
    state = network.state_dict()
    x = plain_unit(state, "conv1", clip, stride=(1, 2, 2), padding=1).clamp(min=0)
    x = functional.max_pool3d(x, 3, stride=2, padding=1)
    for stage, num_units in ((1, 4), (2, 8), (3, 4)):
        for unit in range(num_units):
            name, stride = f"layer{stage}.{unit}", 2 if unit == 0 else 1
            y = plain_unit(state, f"{name}.squeeze", x, groups=3).clamp(min=0)
            each = y.shape[1] // 3
            y = y[:, [group * each + place for place in range(each) for group in range(3)]]
            y = plain_unit(state, f"{name}.depthwise", y, stride=stride, groups=y.shape[1], padding=1)
            y = plain_unit(state, f"{name}.expand", y, groups=3)
            if unit == 0:
                x = torch.cat([y, functional.avg_pool3d(x, (2, 3, 3), stride=2, padding=(0, 1, 1))], dim=1).clamp(min=0)
            else:
                x = (x + y).clamp(min=0)
    torch.testing.assert_close(network(clip).map, x)
    vector = functional.linear(x.mean(dim=(2, 3, 4)), state["projection.weight"], state["projection.bias"])
    torch.testing.assert_close(network(clip).vector, vector)


@torch.no_grad()
def test_mobilenet_against_a_plain_rewriting():
    network, clip = randomised(thin("mobilenet3d")), noise(2, 3, 16, 48, 40).double()
    state = network.state_dict()
    x, number = plain_unit(state, "features.0", clip, stride=(1, 2, 2), padding=1).clamp(0, 6), 0
    for expansion, num_units, stride in ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1)):
        for unit in range(num_units):
            number += 1
            y, place = x, 0
            if expansion > 1:
                y, place = plain_unit(state, f"features.{number}.conv.0", x).clamp(0, 6), 1
            step = 1 if unit else stride
            name = f"features.{number}.conv.{place}"
            y = plain_unit(state, name, y, stride=step, groups=y.shape[1], padding=1).clamp(0, 6)
            y = plain_unit(state, f"features.{number}.conv.{place + 1}", y)
            x = x + y if unit else y
    x = plain_unit(state, "features.18", x).clamp(0, 6)
    torch.testing.assert_close(network(clip).map, x)


@torch.no_grad()
def test_squeezenet_against_a_plain_rewriting():
    network, clip = randomised(thin("squeezenet3d")), noise(2, 3, 16, 48, 40).double()
    state = network.state_dict()
    x = plain_unit(state, "features.0", clip, stride=(1, 2, 2), padding=1).clamp(min=0)
    for pool in (1, 4, 7, 10):
        x = functional.max_pool3d(x, 3, stride=2, padding=1)
        for fire in (pool + 1, pool + 2):
            y = plain_unit(state, f"features.{fire}.squeeze", x).clamp(min=0)
            wide = plain_unit(state, f"features.{fire}.expand3x3", y, padding=1)
            y = torch.cat([plain_unit(state, f"features.{fire}.expand1x1", y), wide], dim=1)
            x = (y if fire == pool + 1 else x + y).clamp(min=0)
    torch.testing.assert_close(network(clip).map, x)


@torch.no_grad()
def test_swin_is_that_of_torchvision():
    whole = torchvision.models.video.swin3d_t()
    network = build_network("swin3d").eval()
    state = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith("head.")}
    network.load_state_dict(state)
    whole.head = nn.Identity()
    clip = noise(1, 3, 4, 32, 32)
    torch.testing.assert_close(network(clip).vector, whole.eval()(clip))


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"c3d"}))
@torch.no_grad()
def test_clips_of_any_length(name):
    network = thin(name).eval()
    assert network.min_frames == 1
    for num_frames in (1, 3, 8):
        assert network(noise(1, 3, num_frames, 48, 48)).vector.isfinite().all()


def test_a_misspelt_network_is_a_sentence():
    with pytest.raises(UnknownNameError, match="unknown network 'r21b'; did you mean 'r21d'"):
        build_network("r21b")
