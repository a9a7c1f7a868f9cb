"""Slow R50 against a plain rewriting of it, its counts, and its shapes."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from featcache.errors import ConfigError
from featcache.networks.counting import count_macs, count_parameters
from featcache.networks.slow_r50 import SlowR50, SlowR50Config

NARROW = SlowR50Config(width=4)


def make(config=NARROW):
    """A narrow network whose batch norms are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SlowR50(config)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.data.add_(0.2 * torch.randn_like(tensor))
                module.running_var.uniform_(0.5, 2.0)
    return network.eval()


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def plain_unit(state, conv, bn, x, *, stride=1):
    """Convolution frame by frame: a sum of 2-D convolutions, one for each frame that the kernel spans; batch norm."""
    weight = state[f"{conv}.weight"]
    span, size = weight.shape[2], weight.shape[3]
    frames = []
    for time in range(x.shape[2]):
        seen = [(tap, time + tap - span // 2) for tap in range(span) if 0 <= time + tap - span // 2 < x.shape[2]]
        frames.append(
            sum(functional.conv2d(x[:, :, at], weight[:, :, tap], stride=stride, padding=size // 2) for tap, at in seen)
        )
    y = torch.stack(frames, dim=2)
    mean, var, scale, shift = (
        state[f"{bn}.{name}"].reshape(1, -1, 1, 1, 1) for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (y - mean) / (var + 1e-5).sqrt() * scale + shift


def plain_stages(state, clip, depths=(3, 4, 6, 3)):
    """The network by the names of its tensors alone: [B, T, 3, H, W] to each stage's [B, t, h, w, C]."""
    x = plain_unit(state, "s1.pathway0_stem.conv", "s1.pathway0_stem.bn", clip.transpose(1, 2), stride=2).relu()
    frames = [functional.max_pool2d(frame, 3, stride=2, padding=1) for frame in x.unbind(2)]
    x, outputs = torch.stack(frames, dim=2), {}
    for stage, depth in zip(("s2", "s3", "s4", "s5"), depths, strict=True):
        for block in range(depth):
            name, stride = f"{stage}.pathway0_res{block}", 2 if stage != "s2" and block == 0 else 1
            short = plain_unit(state, f"{name}.branch1", f"{name}.branch1_bn", x, stride=stride) if block == 0 else x
            y = plain_unit(state, f"{name}.branch2.a", f"{name}.branch2.a_bn", x).relu()
            y = plain_unit(state, f"{name}.branch2.b", f"{name}.branch2.b_bn", y, stride=stride).relu()
            x = (short + plain_unit(state, f"{name}.branch2.c", f"{name}.branch2.c_bn", y)).relu()
        outputs[stage] = x.permute(0, 2, 3, 4, 1)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [NARROW, SlowR50Config(width=4, depths=(1, 2, 1, 1), stem_kernel=5, temporal_kernels=(3, 1, 1, 5))],
    ids=["slow", "other kernels"],
)
def test_every_stage_equals_the_plain_network(config):
    network, clip = make(config), noise(2, 5, 3, 40, 33)
    outputs = network.forward_stages(clip, network.stages)
    expected = plain_stages(network.state_dict(), clip, config.depths)
    assert list(outputs) == list(expected) == ["s2", "s3", "s4", "s5"]
    for stage, want in expected.items():
        torch.testing.assert_close(outputs[stage], want, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(network(clip), expected["s5"].mean(dim=(1, 2, 3)), rtol=1e-3, atol=1e-4)


def formula(*, width=64, depths=(3, 4, 6, 3), kernels=(1, 1, 3, 3)):
    """Parameters by hand."""
    total, channels = 3 * 49 * width + 2 * width, width
    for stage, (depth, kernel) in enumerate(zip(depths, kernels, strict=True)):
        inner, out = width * 2**stage, 4 * width * 2**stage
        for block in range(depth):
            total += channels * inner * kernel + 9 * inner * inner + inner * out + 2 * (2 * inner + out)
            if block == 0:
                total += channels * out + 2 * out
            channels = out
    return total


def test_parameters():
    """AdViSe's Table 6 prints 31.8 M for its R3D-50: this and a linear layer of 101 classes."""
    with torch.device("meta"):
        network = SlowR50()
        image = SlowR50(SlowR50Config(temporal_kernels=(1, 1, 1, 1)))
    body = count_parameters(network)
    assert body == formula() == 31_634_496
    assert round((body + 2048 * 101 + 101) / 1e6, 1) == 31.8
    # Without temporal kernels it is the ResNet-50 of images: 25,557,032 with 1000 classes.
    assert count_parameters(image) == 25_557_032 - 2_049_000
    assert network.width == 2048


def test_operations_and_shapes_of_a_clip():
    """8 frames at 224 take 41.74 G multiply-accumulates; three such views are 0.06 % below AdViSe's 125.3 G."""
    with torch.device("meta"):
        network, clip = SlowR50().eval(), torch.empty(1, 8, 3, 224, 224)
    assert count_macs(network, clip) == 41_740_009_472
    assert pytest.approx(125.3e9, rel=1e-3) == 3 * 41_740_009_472
    outputs = network.forward_stages(clip, network.stages)
    shapes = [(8, 56, 56, 256), (8, 28, 28, 512), (8, 14, 14, 1024), (8, 7, 7, 2048)]
    assert [tuple(output.shape[1:]) for output in outputs.values()] == shapes


@torch.no_grad()
def test_time_matters_in_the_last_two_stages_alone():
    network, clip = make(), noise(1, 6, 3, 32, 32)
    shuffled = clip[:, [3, 0, 5, 1, 4, 2]]
    straight, mixed = (network.forward_stages(x, network.stages) for x in (clip, shuffled))
    for stage, is_frame_by_frame in zip(network.stages, (True, True, False, False), strict=True):
        same = torch.allclose(straight[stage][:, [3, 0, 5, 1, 4, 2]], mixed[stage], rtol=1e-4, atol=1e-5)
        assert same == is_frame_by_frame


def test_every_parameter_learns():
    network = make().train()
    network(noise(2, 4, 3, 32, 32)).square().sum().backward()
    silent = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert not silent
    assert network.s1.pathway0_stem.bn.num_batches_tracked == 1


def test_it_stops_at_the_last_stage_asked_for():
    network, ran = make(), []
    for stage in network.stages:
        network.get_submodule(stage).register_forward_hook(lambda module, *_: ran.append(module))
    assert list(network.forward_stages(torch.zeros(1, 1, 3, 32, 32), ["s3"])) == ["s3"]
    assert ran == [network.s2, network.s3]


@pytest.mark.parametrize("kernel", [0, 2, -1])
def test_a_kernel_is_odd(kernel):
    for changes in ({"stem_kernel": kernel}, {"temporal_kernels": (1, 1, kernel, 3)}):
        with pytest.raises(ConfigError, match=f"temporal kernel {kernel} is not odd"):
            SlowR50Config(**changes)
