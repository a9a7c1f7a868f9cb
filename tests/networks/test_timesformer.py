"""TimeSformer against explicit loops, its counts, its positions, and what training does to it."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from featcache.errors import ConfigError
from featcache.networks.counting import count_macs, count_parameters
from featcache.networks.timesformer import (
    SIZES,
    Attention,
    DividedBlock,
    TimeSformer,
    TimeSformerConfig,
    config_of,
    resize_space,
    resize_time,
    with_differences,
)

SMALL = TimeSformerConfig(width=24, depth=3, num_heads=3, patch_size=4, image_size=12, num_frames=4)


def make(*, shake=True, seed=0, **changes):
    """A small network; shaken, no parameter is zero or one, so every one of them matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TimeSformer(dataclasses.replace(SMALL, **changes))
        if shake:
            for parameter in network.parameters():
                parameter.data += 0.2 * torch.randn_like(parameter)
    return network


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_attention(attention, tokens):
    """[N, C]: one head after another, one query after another."""
    count, width = tokens.shape
    size = width // attention.num_heads
    q, k, v = (tokens @ attention.qkv.weight.T + attention.qkv.bias).split(width, dim=1)
    rows = []
    for query in range(count):
        heads = []
        for head in range(attention.num_heads):
            own = slice(head * size, (head + 1) * size)
            scores = torch.stack([(q[query, own] * k[key, own]).sum() for key in range(count)]) / size**0.5
            heads.append(scores.softmax(0) @ v[:, own])
        rows.append(torch.cat(heads))
    return torch.stack(rows) @ attention.proj.weight.T + attention.proj.bias


def plain_block(block, cls, patches):
    """Divided attention of one clip, [C] and [T, N, C], place by place and frame by frame."""
    num_frames, num_places, _ = patches.shape
    after_time = patches.clone()
    for place in range(num_places):
        change = plain_attention(block.temporal_attn, block.temporal_norm1(patches[:, place]))
        after_time[:, place] += block.temporal_fc(change)
    after_space, for_cls = after_time.clone(), []
    for frame in range(num_frames):
        change = plain_attention(block.attn, block.norm1(torch.cat([cls[None], after_time[frame]])))
        for_cls.append(change[0])
        after_space[frame] += change[1:]
    cls = cls + sum(for_cls) / num_frames

    def mlp(x):
        return x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))

    return mlp(cls), mlp(after_space)


@torch.no_grad()
def test_divided_attention_equals_the_loops():
    block = make().blocks[1]
    assert isinstance(block, DividedBlock)
    cls, patches = noise(2, 1, 24), noise(2, 3, 5, 24, seed=2)
    got_cls, got_patches = block(cls, patches, None)
    for row in range(2):
        want_cls, want_patches = plain_block(block, cls[row, 0], patches[row])
        torch.testing.assert_close(got_cls[row, 0], want_cls, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got_patches[row], want_patches, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_whole_network_equals_the_loops():
    network, clip = make().eval(), noise(1, 4, 3, 12, 8)
    outputs = network.forward_layers(clip, network.layers)
    grid = network.pos_embed[0, 1:].reshape(3, 3, 24)
    patches = torch.empty(4, 6, 24)
    for frame in range(4):
        for row in range(3):
            for column in range(2):
                pixels = clip[0, frame, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                weight, bias = network.patch_embed.proj.weight, network.patch_embed.proj.bias
                # Nearest: columns 0 and 1 of two stand on columns floor(0) and floor(1.5) of three.
                position = grid[row, column] + network.time_embed[0, frame]
                patches[frame, 2 * row + column] = (weight * pixels).sum(dim=(1, 2, 3)) + bias + position
    cls = network.cls_token[0, 0] + network.pos_embed[0, 0]
    for index, block in enumerate(network.blocks):
        cls, patches = plain_block(block, cls, patches)
        output = outputs[f"blocks.{index}"]
        torch.testing.assert_close(output.cls[0], cls, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(output.patches[0], patches.reshape(4, 3, 2, 24), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs["norm"].cls[0], network.norm(cls), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs["norm"].patches[0].flatten(1, 2), network.norm(patches), rtol=1e-3, atol=1e-4)
    assert torch.equal(network(clip), outputs["norm"].cls)


@torch.no_grad()
def test_it_starts_as_an_image_vit():
    """temporal_fc at zero: the patches of a frame without its time position are those of the frame alone."""
    network, clip = make(shake=False).eval(), noise(2, 4, 3, 12, 12)
    assert not network.time_embed.any()
    with_time = network.forward_layers(clip, ["blocks.0"])["blocks.0"].patches
    for frame in range(4):
        alone = network.forward_layers(clip[:, frame : frame + 1], ["blocks.0"])["blocks.0"].patches
        torch.testing.assert_close(with_time[:, frame], alone[:, 0], rtol=1e-5, atol=1e-6)
    # A clip of one frame four times is that frame, in every layer.
    still = clip[:, :1].expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(network(still), network(clip[:, :1]), rtol=1e-4, atol=1e-5)
    # With temporal_fc at random it is not.
    other = make(shake=False, is_temporal_zero=False).eval()
    with_time = other.forward_layers(clip, ["blocks.0"])["blocks.0"].patches[:, 0]
    alone = other.forward_layers(clip[:, :1], ["blocks.0"])["blocks.0"].patches[:, 0]
    assert not torch.allclose(with_time, alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_order_of_frames_matters_through_time_positions_alone():
    network, clip = make().eval(), noise(1, 4, 3, 12, 12)
    assert not torch.allclose(network(clip), network(clip.flip(1)), atol=1e-3)
    network.time_embed.zero_()
    torch.testing.assert_close(network(clip), network(clip.flip(1)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_differences_of_neighbouring_frames_are_further_channels():
    clip = noise(2, 4, 3, 12, 12)
    channels = with_differences(clip)
    assert channels.shape == (2, 4, 6, 12, 12)
    assert torch.equal(channels[:, :, :3], clip)
    for frame, after in ((0, 1), (1, 2), (2, 3)):
        torch.testing.assert_close(channels[:, frame, 3:], 3 * (clip[:, after] - clip[:, frame]))
    assert torch.equal(channels[:, 3, 3:], channels[:, 2, 3:])
    assert not with_differences(clip[:, :1])[:, :, 3:].any()


@torch.no_grad()
def test_with_differences_the_order_of_frames_matters_without_time_positions():
    clip = noise(1, 4, 3, 12, 12)
    network = make(shake=False, stem="difference").eval()
    assert not network.time_embed.any()
    assert (network(clip) - network(clip.flip(1))).abs().max() > 1e-2
    still = clip[:, :1].expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(network(still), network(clip[:, :1]), rtol=1e-4, atol=1e-5)


def test_a_larger_start_changes_nothing_else():
    plain, large = make(shake=False).state_dict(), make(shake=False, init_std=0.1, time_std=0.5).state_dict()
    assert large["blocks.0.mlp.fc1.weight"].std() > 4 * plain["blocks.0.mlp.fc1.weight"].std()
    assert 0.3 < large["time_embed"].std() < 0.7
    assert not large["blocks.0.temporal_fc.weight"].any()
    for name in ("pos_embed", "cls_token", "patch_embed.proj.weight"):
        assert torch.equal(plain[name], large[name])


def formula(*, width, depth, num_patches, num_frames, patch_size):
    """Parameters by hand: two attentions, temporal_fc, an MLP and three norms a block; embeddings; the last norm."""
    linear = width * width + width
    attention = 3 * linear + linear
    mlp = 2 * 4 * width * width + 4 * width + width
    block = 2 * attention + linear + mlp + 3 * 2 * width
    embeddings = 3 * patch_size**2 * width + width + width * (1 + 1 + num_patches + num_frames)
    return depth * block + embeddings + 2 * width


@pytest.mark.parametrize(("size", "count"), [("tiny", 2_681_472), ("small", 30_548_352), ("base", 121_258_752)])
def test_parameters(size, count):
    config = SIZES[size]
    with torch.device("meta"):
        network = TimeSformer(config)
    by_hand = formula(
        width=config.width,
        depth=config.depth,
        num_patches=(config.image_size // config.patch_size) ** 2,
        num_frames=8,
        patch_size=16,
    )
    assert count_parameters(network) == by_hand == count
    assert not list(network.buffers())


def test_tokens_of_sixteen_frames_at_224():
    with torch.device("meta"):
        network = TimeSformer(SIZES["base"]).eval()
        outputs = network.forward_layers(torch.empty(2, 16, 3, 224, 224), ["blocks.11", "norm"])
    for output in outputs.values():
        assert output.patches.shape == (2, 16, 14, 14, 768)
        assert output.cls.shape == (2, 768)
    assert 1 + outputs["norm"].patches[0, ..., 0].numel() == 3_137


def cubic_weights(length, size):
    """[size, length]: how much each of ``length`` samples has of each of ``size``."""
    weights = torch.zeros(size, length)
    for index in range(size):
        centre = (index + 0.5) * length / size - 0.5
        first = math.floor(centre) - 1
        for sample in range(first, first + 4):
            x = abs(centre - sample)
            near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[index, min(max(sample, 0), length - 1)] += near if x <= 1 else far
    return weights


def operations(*, width, depth, num_patches, num_frames, patch_size):
    """Multiply-accumulates of one clip by hand: projections, scores and sums of both attentions, MLP, embedding."""
    patches, in_frames = num_frames * num_patches, num_frames * (num_patches + 1)
    time = 5 * patches * width**2 + 2 * patches * num_frames * width
    space = 4 * in_frames * width**2 + 2 * in_frames * (num_patches + 1) * width
    mlp = 8 * (patches + 1) * width**2
    return depth * (time + space + mlp) + patches * 3 * patch_size**2 * width


@pytest.mark.parametrize(("num_frames", "side"), [(8, 224), (16, 224), (64, 96)])
def test_operations(num_frames, side):
    with torch.device("meta"):
        network, clip = TimeSformer(SIZES["base"]).eval(), torch.empty(1, num_frames, 3, side, side)
    num_patches = (side // 16) ** 2
    by_hand = operations(width=768, depth=12, num_patches=num_patches, num_frames=num_frames, patch_size=16)
    assert count_macs(network, clip) == by_hand
    if (num_frames, side) == (8, 224):  # TimeSformer prints 0.59 T for its three crops
        assert round(3 * by_hand / 1e12, 2) == 0.59


class TestPositions:
    @pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
    def test_the_native_grid_is_itself(self, mode):
        positions = noise(1, 1 + 9, 5)
        cls, grid = resize_space(positions, 3, 3, mode=mode)
        assert torch.equal(cls, positions[:, :1])
        assert torch.equal(grid.flatten(1, 2), positions[:, 1:])

    @pytest.mark.parametrize("mode", ["nearest", "linear"])
    def test_the_native_length_is_itself(self, mode):
        positions = noise(1, 8, 5)
        assert resize_time(positions, 8, mode=mode) is positions

    @given(side=st.integers(1, 7), height=st.integers(1, 15), width=st.integers(1, 15))
    def test_nearest_in_space(self, side, height, width):
        positions = noise(1, 1 + side * side, 2)
        _, grid = resize_space(positions, height, width, mode="nearest")
        for row in range(height):
            for column in range(width):
                place = (row * side // height) * side + column * side // width
                assert torch.equal(grid[0, row, column], positions[0, 1 + place])

    def test_eight_time_positions_stand_for_sixteen_frames_two_by_two(self):
        positions = noise(1, 8, 3)
        assert torch.equal(resize_time(positions, 16, mode="nearest"), positions.repeat_interleave(2, dim=1))
        assert torch.equal(resize_time(positions, 4, mode="nearest"), positions[:, ::2])

    def test_linear_in_time_keeps_a_line(self):
        line = torch.arange(8.0).reshape(1, 8, 1)
        inner = resize_time(line, 16, mode="linear")[0, 1:-1, 0]
        torch.testing.assert_close(inner, torch.arange(14) / 2 + 0.25)

    def test_bicubic_in_space_is_cubic_convolution(self):
        """Keys' kernel with a = -0.75, half-pixel centres, edges repeated; rows and columns apart."""
        positions = noise(1, 1 + 25, 3)
        _, grid = resize_space(positions, 7, 4, mode="bicubic")
        by_hand = positions[0, 1:].reshape(5, 5, 3)
        for axis, size in ((0, 7), (1, 4)):
            by_hand = torch.tensordot(cubic_weights(5, size), by_hand.transpose(0, axis), dims=1).transpose(0, axis)
        torch.testing.assert_close(grid[0], by_hand, rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_interpolations_differ_off_the_native_size_only(self):
        nearest, smooth = make().eval(), make(space_interpolation="bicubic", time_interpolation="linear").eval()
        native, larger = noise(1, 4, 3, 12, 12), noise(1, 6, 3, 16, 20)
        assert torch.equal(nearest(native), smooth(native))
        assert not torch.allclose(nearest(larger), smooth(larger), atol=1e-4)


def loss_of(network, clip, generator=None):
    outputs = network.forward_layers(clip, network.layers, generator=generator)
    return sum((output.cls.square().mean() + output.patches.square().mean()) for output in outputs.values())


class TestTraining:
    def test_every_parameter_learns(self):
        network = make(drop_path=0.0).train()
        network(noise(2, 4, 3, 12, 12)).square().sum().backward()
        silent = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
        assert not silent

    def test_behind_a_zero_temporal_fc_only_that_layer_learns(self):
        network = make(shake=False).eval()
        network(noise(2, 4, 3, 12, 12)).square().sum().backward()
        assert network.blocks[0].temporal_fc.weight.grad.any()
        assert not network.blocks[0].temporal_attn.qkv.weight.grad.any()

    @pytest.mark.parametrize("drop_path", [0.0, 0.6])
    def test_recomputed_blocks_have_the_same_gradients(self, drop_path):
        clip, results = noise(3, 4, 3, 12, 12), []
        for recomputes in (False, True):
            network = make(drop_path=drop_path, recomputes_blocks=recomputes).train()
            loss = loss_of(network, clip, torch.Generator().manual_seed(5))
            loss.backward()
            results.append((loss, [parameter.grad for parameter in network.parameters()]))
        (loss, gradients), (again, recomputed) = results
        assert torch.equal(loss, again)
        assert all(torch.equal(a, b) for a, b in zip(gradients, recomputed, strict=True))

    def test_stochastic_depth_is_the_generators(self):
        network, clip = make(drop_path=0.5).train(), noise(2, 4, 3, 12, 12)
        before = torch.get_rng_state()
        first, same, other = (network(clip, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            assert torch.equal(network(clip), first)

    def test_stochastic_depth_is_drawn_on_the_device_of_the_clip(self):
        patches = torch.zeros(2, 4, 9, 24)
        before = torch.get_rng_state()
        elsewhere = make(drop_path=0.5).train()._draw_kept_rows(patches.to("meta"), None)
        assert torch.equal(torch.get_rng_state(), before), "drawn on the CPU and copied"
        assert {factors.device.type for kept in elsewhere if kept for factors in kept} == {"meta"}

    def test_evaluation_keeps_every_row(self):
        clip = noise(2, 4, 3, 12, 12)
        assert torch.equal(make(drop_path=0.5).eval()(clip), make(drop_path=0.0).train()(clip))

    def test_rows_are_dropped_at_the_rate_of_their_block_and_rescaled(self):
        network = make(drop_path=0.4).train()
        drawn = network._draw_kept_rows(torch.zeros(200, 6, 10, 24), torch.Generator().manual_seed(0))
        assert drawn[0] is None
        for rate, kept in zip((0.2, 0.4), drawn[1:], strict=True):
            assert [factors.shape for factors in kept] == [(2000, 1, 1), (1200, 1, 1), (200, 1, 1)]
            for factors in kept:
                assert factors.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
                deviation = (rate / (1 - rate) / len(factors)) ** 0.5
                assert abs(factors.mean().item() - 1) < 4 * deviation

    @torch.no_grad()
    def test_a_dropped_row_is_left_as_it_was(self):
        block = make().blocks[1]
        cls, patches = noise(2, 1, 24), noise(2, 3, 5, 24, seed=2)
        none = tuple(torch.zeros(rows, 1, 1) for rows in (10, 6, 2))
        same_cls, same_patches = block(cls, patches, none)
        assert torch.equal(same_cls, cls)
        # temporal_fc comes after the drop, as in SVT: its bias stays.
        torch.testing.assert_close(same_patches, patches + block.temporal_fc.bias)
        second = tuple(factors.clone() for factors in none)
        for factors in second:
            factors[len(factors) // 2 :] = 1
        got_cls, got_patches = block(cls, patches, second)
        want_cls, want_patches = block(cls, patches, None)
        assert torch.equal(got_cls[0], cls[0])
        torch.testing.assert_close(got_cls[1], want_cls[1])
        torch.testing.assert_close(got_patches[1], want_patches[1])


def test_it_stops_at_the_last_layer_asked_for():
    network = make().eval()
    ran = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, *_: ran.append(module))
    assert list(network.forward_layers(noise(1, 2, 3, 12, 12), ["blocks.1"])) == ["blocks.1"]
    assert ran == list(network.blocks[:2])


def test_initialisation_draws_nothing_but_from_the_given_seed():
    first, second, other = (make(shake=False, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["pos_embed"], other["pos_embed"])
    assert not first["blocks.2.temporal_fc.weight"].any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide width 24"),
        ({"image_size": 14}, "patch_size 4 does not divide image_size 14"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_wrong_sizes(changes, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(SMALL, **changes)


def test_a_side_that_is_no_multiple_of_the_patch():
    with pytest.raises(ConfigError, match=r"multiples of 4, not \(12, 13\); crop or resize"):
        make()(torch.zeros(1, 2, 3, 12, 13))


def test_the_grids_of_a_file_are_its_own():
    state = {"time_embed": torch.zeros(1, 16, 192), "pos_embed": torch.zeros(1, 1 + 36, 192)}
    config = config_of("tiny", state)
    assert (config.num_frames, config.image_size, config.width) == (16, 96, 192)
    assert config_of("tiny", {}) == SIZES["tiny"]
    assert config_of("tiny", {"patch_embed.proj.weight": torch.zeros(192, 3, 16, 16)}) == SIZES["tiny"]
    assert config_of("tiny", {"patch_embed.proj.weight": torch.zeros(192, 6, 16, 16)}).stem == "difference"
    assert config_of("tiny", {"time_embed": torch.zeros(3), "pos_embed": torch.zeros(1, 8, 2)}) == SIZES["tiny"]


def test_attention_reads_rows_apart():
    attention = Attention(24, num_heads=3).eval()
    rows = noise(4, 5, 24)
    with torch.no_grad():
        torch.testing.assert_close(attention(rows)[2:3], attention(rows[2:3]))
