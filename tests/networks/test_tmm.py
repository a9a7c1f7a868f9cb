"""Temporal modules against the paper's printed counts, and against what they claim of time."""

import pytest
import torch
from torch import nn

from featcache.config import Settings, parse
from featcache.errors import ConfigError
from featcache.networks.counting import count_macs, count_parameters
from featcache.networks.settings import PRESETS, TmmSettings
from featcache.networks.tmm import Tmm, TmmClassifier

CONVOLUTIONS = (nn.Conv3d,)
MILLION, GIGA = 1e6, 1e9


def on_meta(settings, *, width_in=768, grid=14):
    with torch.device("meta"):
        return Tmm(settings, width_in=width_in, grid=grid).eval()


def block(hidden, *, num_blocks=1):
    return TmmSettings(hidden=hidden, out=1024, num_blocks=num_blocks)


# AdViSe, Table 3: hidden width, parameters in millions, operations in giga.
WIDTHS = [(64, 0.94, 1.47), (256, 1.84, 2.88), (512, 4.07, 6.37), (1024, 12.06, 18.91), (2048, 42.21, 66.18)]
DEPTHS = [(1, 1.84, 2.88), (2, 2.95, 4.62), (4, 5.18, 8.12), (6, 7.41, 11.61), (8, 9.63, 15.11)]
# Table 2: side or channels, operations in giga, for hidden 2048.
SIDES = [(14, 66.18), (9, 27.35), (5, 8.44), (3, 3.04), (1, 0.34)]
CHANNELS = [(768, 66.18), (192, 63.40), (48, 62.71), (12, 62.53), (3, 62.49)]


@pytest.mark.parametrize(("hidden", "millions", "giga"), WIDTHS)
def test_widths_of_table_3(hidden, millions, giga):
    tmm = on_meta(block(hidden))
    parameters = count_parameters(tmm, of=CONVOLUTIONS)
    assert parameters == 786_432 + 1_792 * hidden + 9 * hidden**2
    assert abs(parameters / MILLION - millions) <= 0.01
    assert count_macs(tmm, torch.empty(1, 768, 8, 14, 14, device="meta")) / GIGA == pytest.approx(giga, rel=0.002)
    assert count_parameters(tmm) - parameters == 4 * hidden + 4 * 1024  # BatchNorm: 2 x 2h inside, out, shortcut


@pytest.mark.parametrize(("num_blocks", "millions", "giga"), DEPTHS)
def test_depths_of_table_3(num_blocks, millions, giga):
    tmm = on_meta(block(256, num_blocks=num_blocks))
    parameters = count_parameters(tmm, of=CONVOLUTIONS)
    assert parameters == 786_432 + 1_792 * 256 + 9 * 256**2 + (num_blocks - 1) * 1_114_112
    assert abs(parameters / MILLION - millions) <= 0.01
    assert count_macs(tmm, torch.empty(1, 768, 8, 14, 14, device="meta")) / GIGA == pytest.approx(giga, rel=0.002)


@pytest.mark.parametrize(("side", "giga"), SIDES)
def test_sides_of_table_2(side, giga):
    tmm = on_meta(block(2048), grid=side)
    # The print has two decimals.
    assert abs(count_macs(tmm, torch.empty(1, 768, 8, side, side, device="meta")) / GIGA - giga) <= 0.005 + 0.002 * giga


@pytest.mark.parametrize(("channels", "giga"), CHANNELS)
def test_channels_of_table_2(channels, giga):
    tmm = on_meta(block(2048), width_in=channels)
    maps = torch.empty(1, channels, 8, 14, 14, device="meta")
    assert count_macs(tmm, maps) / GIGA == pytest.approx(giga, rel=0.002)


def test_parameters_of_tables_6_and_8():
    def whole(preset, num_classes):
        with torch.device("meta"):
            module = TmmClassifier(PRESETS[preset], width_in=768, grid=14, num_classes=num_classes)
        return count_parameters(module) / MILLION

    assert 3.94 <= whole("ablation-256", 4) <= 3.96  # prints 4.0
    assert whole("ablation-2048", 4) == pytest.approx(44.3, abs=0.05)
    assert whole("release", 101) == pytest.approx(4.5, abs=0.05)
    assert whole("release", 4) == pytest.approx(4.40, abs=0.02)


def test_a_temporal_kernel_of_three_is_not_what_was_printed():
    tmm = on_meta(TmmSettings(hidden=256, out=1024, num_blocks=1, temporal_kernel=3))
    assert count_parameters(tmm, of=CONVOLUTIONS) / MILLION == pytest.approx(2.23, abs=0.01)


def small(**settings):
    torch.manual_seed(0)
    settings = TmmSettings(**{"hidden": 8, "out": 12, "num_blocks": 2, "head_hidden": 16, **settings})
    module = TmmClassifier(settings, width_in=24, grid=4, num_classes=5)
    for name, buffer in module.named_buffers():  # as after training: statistics that are not 0 and 1
        if name.endswith("running_mean"):
            buffer.normal_(generator=torch.Generator().manual_seed(1))
    return module.eval()


@pytest.mark.parametrize("kind", ["r3d", "conv3d", "swin", "transformer", "skip"])
def test_every_kind_gives_logits_and_gradients(kind):
    module = small(kind=kind).train()
    logits = module(torch.randn(3, 6, 4, 4, 24))
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("settings", "is_blind"),
    [
        ({"temporal_kernel": 1}, True),
        ({"temporal_kernel": 3}, False),
        ({"kind": "skip"}, True),
        ({"kind": "conv3d"}, False),
        ({"kind": "transformer"}, True),  # it has no positions
        ({"kind": "swin"}, False),
    ],
)
def test_who_sees_the_order_of_frames(settings, is_blind):
    module = small(**settings)
    maps = torch.randn(2, 8, 4, 4, 24, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (module(maps) - module(maps.flip(1))).abs().max()
    assert (difference < 2e-6) == is_blind


def test_modules_as_released_differ_from_the_defaults_where_the_released_code_does():
    def released(name):
        with torch.device("meta"):
            return Tmm(PRESETS[f"release-{name}"], width_in=768, grid=14)

    (layer,) = released("transformer").blocks[0].layers
    assert (layer.self_attn.num_heads, layer.linear1.out_features) == (6, 256)
    (own,) = Tmm(TmmSettings(kind="transformer", num_blocks=1), width_in=24, grid=2).blocks[0].layers
    assert (own.self_attn.num_heads, own.linear1.out_features) == (8, 96)
    swin = released("swin").blocks[0].blocks
    assert len(swin) == 4
    assert all((block.attn.num_heads, block.attn.qkv.bias) == (6, None) for block in swin)
    maps = torch.randn(2, 24, 4, 3, 3, generator=torch.Generator().manual_seed(5))
    for last, least in ((True, -0.279), (False, -10.0)):  # SiLU is nowhere below -0.2785
        conv3d = small(kind="conv3d", hidden=32, last_activation=last).tmm
        with torch.no_grad():
            lowest = conv3d(10 * maps).min()
        assert lowest > least
        assert (lowest > -0.279) == last
    assert PRESETS["release-conv3d"].last_activation is False


def test_heads_that_do_not_divide_the_channels_are_a_sentence():
    with pytest.raises(ConfigError, match="heads is 6, which does not divide 1024 channels; use 4"):
        Tmm(PRESETS["release-swin"], width_in=1024, grid=16)


def test_a_head_without_a_hidden_width_is_one_linear_layer():
    module = small(head_hidden=None, kind="skip")
    assert set(module.state_dict()) == {"head.fc2.weight", "head.fc2.bias"}
    maps = torch.randn(3, 6, 4, 4, 24)
    assert torch.allclose(module(maps), module.head.fc2(maps.mean(dim=(1, 2, 3))), atol=1e-6)


def test_a_frozen_module_stays_as_it_is_while_its_head_learns():
    settings = TmmSettings(hidden=8, out=12, num_blocks=1, head_hidden=None)
    module = TmmClassifier(settings, width_in=24, grid=4, num_classes=5, is_frozen=True).train()
    before = {name: tensor.clone() for name, tensor in module.tmm.state_dict().items()}
    module(torch.randn(3, 6, 4, 4, 24)).square().sum().backward()
    assert all(parameter.grad is None for parameter in module.tmm.parameters())
    assert all(parameter.grad is not None for parameter in module.head.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.tmm.state_dict().items())


def test_the_block_against_its_own_text():
    module = small(num_blocks=1, temporal_kernel=3).tmm
    block = module.blocks[0]
    maps = torch.randn(2, 24, 5, 4, 4, generator=torch.Generator().manual_seed(3))

    def normalised(x, bn):
        shape = (1, -1, 1, 1, 1)
        scale = bn.weight / (bn.running_var + 1e-5).sqrt()
        return (x - bn.running_mean.view(shape)) * scale.view(shape) + bn.bias.view(shape)

    with torch.no_grad():
        x = torch.nn.functional.conv3d(maps, block.a.weight, padding=(1, 0, 0))
        x = normalised(x, block.a_bn).clamp(min=0)
        x = torch.nn.functional.conv3d(x, block.b.weight, padding=(0, 1, 1))
        x = normalised(x, block.b_bn).clamp(min=0)
        x = normalised(torch.nn.functional.conv3d(x, block.c.weight), block.c_bn)
        shortcut = normalised(torch.nn.functional.conv3d(maps, block.shortcut[0].weight), block.shortcut[1])
        assert torch.allclose(module(maps), (x + shortcut).clamp(min=0), atol=1e-5)


def test_another_width_is_a_sentence():
    with pytest.raises(ConfigError, match="24"):
        small()(torch.randn(1, 2, 4, 4, 25))


@pytest.mark.parametrize("settings", [{"kind": "lstm"}, {"hidden": 0}, {"temporal_kernel": 2}, {"dropout": 1.0}])
def test_unusable_settings_are_sentences(settings):
    class Holder(Settings):
        tmm: TmmSettings

    with pytest.raises(ConfigError):
        parse(Holder, {"tmm": settings})


def test_attention_is_counted_whatever_path_inference_takes():
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True).eval()
    assert count_macs(layer, torch.zeros(1, 10, 64)) == 10 * 64 * 64 * 4 + 2 * 10 * 10 * 64 + 2 * 10 * 64 * 256
