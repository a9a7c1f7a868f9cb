"""Attention of the class token: against softmax of q k by hand, of video and image networks, and as a picture."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from typer.testing import CliRunner

from featcache.backbones import build_backbone
from featcache.cli.main import app
from featcache.commands.shorthand import attention
from featcache.config import parse, to_yaml
from featcache.errors import ConfigError, VideoError
from featcache.report.activation_maps import LABEL_WIDTH, heat
from featcache.report.attention_maps import class_attention, draw_attention, heats_of, last_attention
from featcache.report.figure_settings import AttentionFigureSettings
from featcache.testing.videos import write_video

VIT = "timm/test_vit"  # three blocks, a class token, 16-pixel patches of 160 pixels


def clip(num_frames, side):
    return torch.randn(num_frames, 3, side, side, generator=torch.Generator().manual_seed(side))


def attention_by_hand(attention, tokens, num_patches):
    """Row 0 of softmax(q k^T / sqrt(d)) over the patches, a head at a time: [M, heads, num_patches]."""
    weight, bias = attention.qkv.weight, attention.qkv.bias
    width, heads = tokens.shape[-1], attention.num_heads
    each = width // heads
    rows = []
    for frame in tokens:
        queries, keys = frame @ weight[:width].T + bias[:width], frame @ weight[width:-width].T + bias[width:-width]
        per_head = []
        for head in range(heads):
            part = slice(head * each, (head + 1) * each)
            scores = queries[0, part] @ keys[:, part].T / each**0.5
            per_head.append(torch.softmax(scores, dim=0)[-num_patches:])
        rows.append(torch.stack(per_head))
    return torch.stack(rows)


@torch.no_grad()
def test_a_timesformer_s_is_that_of_its_last_block_over_space():
    backbone = build_backbone("svt-tiny", weights="random")
    network = backbone.network
    with torch.no_grad():  # at the beginning attention over time adds nothing
        for block in network.blocks:
            torch.nn.init.normal_(block.temporal_fc.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    frames = clip(5, 48)
    ours = class_attention(backbone, frames)
    assert ours.shape == (5, 3, 3, 3)
    before = network.forward_layers(frames[None], [f"blocks.{len(network.blocks) - 2}"])
    tokens = next(iter(before.values()))
    block, patches = network.blocks[-1], tokens.patches.flatten(2, 3)
    change = block.temporal_fc(block.temporal_attn(block.temporal_norm1(patches[0].transpose(0, 1)))).transpose(0, 1)
    patches = patches[0] + change
    seen = block.norm1(torch.cat([tokens.cls.expand(5, -1)[:, None], patches], dim=1))
    expected = attention_by_hand(block.attn, seen, 9).reshape(5, 3, 3, 3).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert float(ours.sum(dim=(1, 2)).max()) < 1  # the rest falls on the class token
    assert not torch.allclose(ours[0], ours[1])


@torch.no_grad()
def test_an_image_network_sees_each_frame_by_itself():
    backbone = build_backbone(VIT, weights="random")
    frames = clip(3, 160)
    ours = class_attention(backbone, frames)
    network = backbone.network
    tokens = network._pos_embed(network.patch_embed(frames))
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    block = network.blocks[-1]
    expected = attention_by_hand(block.attn, block.norm1(tokens), 100)
    torch.testing.assert_close(ours, expected.reshape(3, -1, 10, 10).permute(0, 2, 3, 1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(class_attention(backbone, frames[1:2])[0], ours[1], rtol=1e-4, atol=1e-6)
    assert not last_attention(backbone)._forward_pre_hooks


@pytest.mark.parametrize("name", ["timm/test_resnet", "svt-tiny-slowfast"])
def test_networks_without_such_attention_are_refused(name):
    with pytest.raises(ConfigError, match="attention of a class token is drawn for svt-b"):
        class_attention(build_backbone(name, weights="random"), clip(2, 32))


def test_rows_are_the_mean_over_heads_or_a_head_each():
    maps = torch.rand(2, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(heats_of("a", maps, heads=False)["a"], heat(maps))
    each = heats_of("a", maps, heads=True)
    assert list(each) == ["a 0", "a 1", "a 2", "a 3"]
    low, high = maps[1, ..., 2].min(), maps[1, ..., 2].max()
    torch.testing.assert_close(each["a 2"][1], (maps[1, ..., 2] - low) / (high - low))


def test_what_stands_below_by_its_flag():
    below = ["b/teacher.safetensors", "random", "dinov2-s14", "x=y.pth"]
    words = {"backbone": "svt-b", "weights": "a/teacher.safetensors", "against": below}
    assert attention({}, words, dict)["networks"] == {
        "svt-b teacher": {"backbone": "svt-b", "weights": "a/teacher.safetensors"},
        "svt-b teacher #2": {"backbone": "svt-b", "weights": "b/teacher.safetensors"},
        "svt-b random": {"backbone": "svt-b", "weights": "random"},
        "dinov2-s14": {"backbone": "dinov2-s14", "weights": "default"},
        "x y": {"backbone": "x", "weights": "y.pth"},
    }


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", num_frames=12)
    write_video(folder / "b.mp4", num_frames=3, width=64, height=80)
    return folder


def settings(videos, out, **changes):
    networks = {
        "video": {"backbone": "svt-tiny", "weights": "random"},
        "image": {"backbone": VIT, "weights": "random"},
    }
    given = {"sources": [str(videos / "a.mp4")], "networks": networks, "num_frames": 4, "size": 40, "out": str(out)}
    return parse(AttentionFigureSettings, {**given, **changes})


def test_a_picture_has_frames_and_a_row_a_network(videos, tmp_path):
    own = settings(videos, tmp_path / "a.png", sources=[str(videos / "a.mp4"), str(videos / "b.mp4")])
    facts = draw_attention(own).facts
    assert facts["rows"] == ["frames", "video", "image"]
    assert facts["frames"] == {str(videos / "a.mp4"): [0, 3, 7, 11], str(videos / "b.mp4"): [0, 0, 1, 2]}
    with Image.open(own.out) as picture:
        assert picture.size == (LABEL_WIDTH + 4 * 42, 2 * 3 * 42)
        tiles = np.asarray(picture)
    rows = [tiles[42 * row : 42 * row + 40, LABEL_WIDTH:] for row in range(6)]
    assert not any(np.array_equal(rows[0], rows[row]) for row in range(1, 6))
    assert not np.array_equal(rows[1], rows[2])


def test_the_shown_frame_is_what_lies_under_the_heat(videos, tmp_path):
    own = settings(videos, tmp_path / "a.png")
    draw_attention(own)
    with Image.open(own.out) as picture:
        tiles = np.asarray(picture).astype(np.float64)
    frame, over = tiles[:40, LABEL_WIDTH : LABEL_WIDTH + 40], tiles[42:82, LABEL_WIDTH : LABEL_WIDTH + 40]
    colour = (over - 0.6 * frame) / 0.4
    assert colour.min() > -3
    assert colour.max() < 258
    flat = functional.avg_pool2d(torch.from_numpy(colour).permute(2, 0, 1), 40)
    assert float(flat.std()) > 1  # and it is heat, not grey


def test_the_command_and_its_yaml_draw_the_same(videos, tmp_path):
    drawn = ["figure", "attention", str(videos / "a.mp4"), "--backbone", "svt-tiny", "--weights", "random"]
    drawn += ["--against", f"{VIT}=random", "--frames", "2", "--size", "32", "--heads", "--json"]
    first = CliRunner().invoke(app, [*drawn, "--out", str(tmp_path / "a.png")], catch_exceptions=False)
    rows = json.loads(first.output)["rows"]
    assert rows[:4] == ["frames", "svt-tiny random 0", "svt-tiny random 1", "svt-tiny random 2"]
    networks = {
        "svt-tiny random": {"backbone": "svt-tiny", "weights": "random"},
        f"{VIT} random": {"backbone": VIT, "weights": "random"},
    }
    own = settings(videos, tmp_path / "b.png", networks=networks, num_frames=2, size=32, heads=True)
    (tmp_path / "figure.yaml").write_text(to_yaml(own))
    CliRunner().invoke(app, ["run", str(tmp_path / "figure.yaml")], catch_exceptions=False)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_video_that_is_gone_and_a_picture_of_no_kind(videos, tmp_path):
    with pytest.raises(VideoError, match="nowhere"):
        draw_attention(settings(videos, tmp_path / "a.png", sources=[str(tmp_path / "nowhere.mp4")]))
    with pytest.raises(ConfigError, match=r"\.png"):
        settings(videos, "maps.gif")
