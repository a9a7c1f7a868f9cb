"""Pooling and records: against plain loops, to the bit where it is promised, and every refusal."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.backbones import LayerOutput, build_backbone
from featcache.backbones.outputs import (
    pool_channels,
    pool_mean,
    pool_space,
    record_spec,
    resolve_recipe,
    to_records,
)
from featcache.errors import ConfigError, UnknownNameError
from featcache.recipes import FeatureRecipe, RecordSpec

RECIPE = FeatureRecipe(backbone="b", weights_hash="sha256:0", layer="l", precision="float32")


def recipe(**changes):
    return dataclasses.replace(RECIPE, **changes)


def noise(*shape, seed=0, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def exact_half(values):
    """The fp16 nearest to the exact mean of fp16 values, by way of fp32."""
    return np.float16(np.float32(math.fsum(map(float, values)) / len(values)))


def plain_space(x, size):
    height, width, channels = x.shape
    out = np.empty((size, size, channels), dtype=np.float16)
    for i in range(size):
        for j in range(size):
            rows = range(i * height // size, math.ceil((i + 1) * height / size))
            columns = range(j * width // size, math.ceil((j + 1) * width / size))
            for c in range(channels):
                out[i, j, c] = exact_half([x[row, column, c] for row in rows for column in columns])
    return out


@settings(max_examples=30)
@given(height=st.integers(1, 9), width=st.integers(1, 9), data=st.data())
def test_space_equals_a_plain_loop_to_the_bit(height, width, data):
    size = data.draw(st.integers(1, min(height, width)))
    x = noise(2, height, width, 3, seed=height * 10 + width, scale=100).half().numpy()
    pooled = pool_space(x, size)
    assert pooled.dtype == np.float16
    np.testing.assert_array_equal(pooled, np.stack([plain_space(row, size) for row in x]))


@settings(max_examples=30)
@given(num=st.integers(1, 6), group=st.integers(1, 9))
def test_channels_equal_a_plain_loop_to_the_bit(num, group):
    x = noise(5, num * group, seed=num, scale=100).half().numpy()
    want = np.array([[exact_half(row[k * group : (k + 1) * group]) for k in range(num)] for row in x], dtype=np.float16)
    np.testing.assert_array_equal(pool_channels(x, num), want)


@pytest.mark.parametrize(("height", "width", "size"), [(14, 14, 7), (14, 14, 9), (16, 16, 5), (7, 10, 3)])
def test_space_is_torchs_adaptive_pool(height, width, size):
    x = noise(2, height, width, 4)
    want = torch.nn.functional.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    torch.testing.assert_close(pool_space(x, size), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num", [192, 48, 12, 3])
def test_channels_are_torchs_adaptive_pool(num):
    x = noise(2, 5, 768)
    torch.testing.assert_close(
        pool_channels(x, num), torch.nn.functional.adaptive_avg_pool1d(x, num), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_arrays_and_tensors_pool_alike(dtype):
    x = noise(2, 8, 8, 12).to(dtype)
    for pool in (lambda x: pool_space(x, 3), lambda x: pool_channels(x, 4), pool_mean):
        assert pool(x).dtype == dtype
        np.testing.assert_array_equal(pool(x.numpy()), pool(x).numpy())


@pytest.mark.parametrize("is_video", [False, True])
def test_pooling_at_write_is_pooling_at_read_to_the_bit(is_video):
    shape = (6, 4, 14, 14, 24) if is_video else (6, 14, 14, 24)
    output = LayerOutput(map=noise(*shape, scale=30), cls=None)
    frames = 4 if is_video else 1
    half = recipe(precision="float16", output="map")
    stored = to_records(output, half, num_frames=frames).half()
    for grid in (7, 5, 1):
        written = to_records(output, dataclasses.replace(half, channels=6, grid=grid), num_frames=frames).half()
        assert torch.equal(written, pool_space(pool_channels(stored, 6), grid))
    written = to_records(output, recipe(precision="float16", output="mean"), num_frames=frames).half()
    assert torch.equal(written, pool_mean(stored))
    # A row alone, or another memory order, sums in another order.
    alone = to_records(
        LayerOutput(map=output.map[2:3].clone(), cls=None), dataclasses.replace(half, grid=7), num_frames=frames
    )
    assert torch.equal(alone[0].half(), pool_space(stored, 7)[2])
    odd = stored.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(pool_mean(odd), pool_mean(stored))


def test_overflow_stays_visible():
    records = to_records(
        LayerOutput(map=torch.full((1, 2, 2, 1), 7e4), cls=None), recipe(precision="float16"), num_frames=1
    )
    assert records.isinf().all()
    records = to_records(
        LayerOutput(map=torch.full((1, 2, 2, 1), 7e4), cls=None), recipe(precision="int8"), num_frames=1
    )
    assert torch.equal(records, torch.full((1, 1), 7e4))


class TestRecords:
    dense, cls = noise(6, 4, 5, 8), noise(6, 8, seed=1)
    output = LayerOutput(map=dense, cls=cls)

    def test_cls_mean_tokens_map_of_frames(self):
        assert torch.equal(to_records(self.output, recipe(output="cls"), num_frames=1), self.cls)
        assert torch.equal(to_records(self.output, recipe(output="mean"), num_frames=1), self.dense.mean(dim=(1, 2)))
        assert torch.equal(to_records(self.output, recipe(output="map"), num_frames=1), self.dense)
        tokens = to_records(self.output, recipe(output="tokens"), num_frames=1)
        assert torch.equal(tokens[:, 0], self.cls)
        assert torch.equal(tokens[:, 1:].reshape(6, 4, 5, 8), self.dense)
        bare = LayerOutput(map=self.dense, cls=None)
        assert torch.equal(to_records(bare, recipe(output="tokens"), num_frames=1), self.dense.flatten(1, 2))

    @pytest.mark.parametrize("output", ["cls", "mean", "tokens", "map"])
    def test_clips_are_frames_in_order(self, output):
        frames = to_records(self.output, recipe(output=output), num_frames=1)
        clips = to_records(self.output, recipe(output=output), num_frames=3)
        assert torch.equal(clips, frames.reshape(2, 3, *frames.shape[1:]))
        averaged = to_records(self.output, recipe(output=output, average_frames=True), num_frames=3)
        torch.testing.assert_close(averaged, clips.mean(dim=1))

    def test_video_maps(self):
        video = LayerOutput(map=noise(2, 3, 4, 4, 8), cls=None)
        assert torch.equal(to_records(video, recipe(output="map"), num_frames=32), video.map)
        assert torch.equal(to_records(video, recipe(output="mean"), num_frames=32), video.map.mean(dim=(1, 2, 3)))
        assert to_records(video, recipe(output="tokens"), num_frames=32).shape == (2, 48, 8)
        pooled = to_records(video, recipe(output="map", grid=2), num_frames=32)
        assert pooled.shape == (2, 3, 2, 2, 8)
        torch.testing.assert_close(pooled[0, 1, 0, 1], video.map[0, 1, :2, 2:].mean(dim=(0, 1)))

    def test_bfloat16_is_widened(self):
        half = LayerOutput(map=self.dense.bfloat16(), cls=None)
        assert to_records(half, recipe(output="map"), num_frames=1).dtype == torch.float32

    def test_refusals(self):
        bare, vector = LayerOutput(map=self.dense, cls=None), LayerOutput(map=None, cls=self.cls)
        with pytest.raises(ConfigError, match=r"layer 'l' of b has no class token; use output 'mean'"):
            to_records(bare, recipe(output="cls"), num_frames=1)
        for output in ("mean", "tokens", "map"):
            with pytest.raises(ConfigError, match="single vector and no map; use output 'cls'"):
                to_records(vector, recipe(output=output), num_frames=1)
        with pytest.raises(ConfigError, match=r"grid 5 is larger than the map of 4 x 5; use at most 4"):
            to_records(bare, recipe(output="map", grid=5), num_frames=1)
        with pytest.raises(ConfigError, match=r"channels 3 does not divide the 8 there are; use 2"):
            to_records(bare, recipe(output="mean", channels=3), num_frames=1)
        with pytest.raises(ConfigError, match=r"channels 16 does not divide the 8 there are; use 8"):
            to_records(bare, recipe(output="mean", channels=16), num_frames=1)


@pytest.fixture(scope="module")
def vit():
    return build_backbone("timm/test_vit", weights="random")


@pytest.fixture(scope="module")
def video():
    return build_backbone("i3d", weights="random")


class TestSpec:
    def spec(self, backbone, *, num_frames=8, layout="clips", **choices):
        chosen = resolve_recipe(backbone, "name", **choices)
        return record_spec(backbone, chosen, num_frames=num_frames, layout=layout)

    def test_image_backbones(self, vit):
        assert self.spec(vit) == RecordSpec(shape=(8, 64), axes=("t", "c"), dtype="float16")
        assert self.spec(vit, average_frames=True) == RecordSpec(shape=(64,), axes=("c",), dtype="float16")
        assert self.spec(vit, layout="frames", num_frames=1, output="tokens", precision="int8") == RecordSpec(
            shape=(101, 64), axes=("n", "c"), dtype="int8"
        )
        assert self.spec(vit, grid=5, channels=16, precision="float32") == RecordSpec(
            shape=(8, 5, 5, 16), axes=("t", "h", "w", "c"), dtype="float32"
        )

    def test_video_backbones(self, video):
        assert self.spec(video, num_frames=16, input_size=64, output="map") == RecordSpec(
            shape=(2, 2, 2, 1024), axes=("t", "h", "w", "c"), dtype="float16"
        )
        assert self.spec(video, num_frames=16, input_size=64).shape == (1024,)
        with pytest.raises(ConfigError, match="cannot fill a frame bank"):
            self.spec(video, layout="frames", num_frames=1)
        with pytest.raises(ConfigError, match="average_frames is for image backbones"):
            self.spec(video, num_frames=16, input_size=64, average_frames=True)

    def test_it_encodes_once(self, monkeypatch):
        backbone = build_backbone("timm/test_vit", weights="random")
        calls = []
        encode = backbone.encode
        monkeypatch.setattr(backbone, "encode", lambda *args: calls.append(1) or encode(*args))
        for layer in backbone.layers:
            self.spec(backbone, layer=layer)
        assert len(calls) == 1

    def test_a_size_it_cannot_take(self, vit):
        with pytest.raises(ConfigError, match=r"takes 160 pixels a side, not 224"):
            self.spec(vit, input_size=224)
        flexible = build_backbone("timm/test_resnet", weights="random")
        with pytest.raises(ConfigError, match="input_size is 0"):
            self.spec(flexible, input_size=0)
        assert self.spec(flexible, input_size=64, output="map").shape == (8, 2, 2, 96)
        tiny = build_backbone("timm/test_convnext", weights="random")
        with pytest.raises(ConfigError, match=r"name cannot encode 8 pixels a side \(.*\); set input_size to 160"):
            self.spec(tiny, input_size=8)

    def test_unknown_layer(self, vit):
        chosen = dataclasses.replace(resolve_recipe(vit, "name"), layer="blocks.99")
        with pytest.raises(UnknownNameError, match=r"unknown layer of name 'blocks.99'"):
            record_spec(vit, chosen, num_frames=1, layout="frames")


def test_recipes_take_what_is_left_open_from_the_card():
    backbone = build_backbone("timm/tf_efficientnet_lite0", weights="random")
    chosen = resolve_recipe(backbone, "timm/tf_efficientnet_lite0")
    assert chosen == FeatureRecipe(
        backbone="timm/tf_efficientnet_lite0",
        weights_hash=backbone.weights_hash,
        layer="final",
        output="mean",
        input_size=224,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    own = resolve_recipe(
        backbone,
        "x",
        layer="last",
        grid=7,
        input_size=160,
        interpolation="bilinear",
        mean=(0.1, 0.2, 0.3),
        std=(1, 1, 1),
    )
    assert (own.layer, own.output, own.grid, own.input_size) == ("final", "map", 7, 160)
    assert (own.interpolation, own.mean, own.std) == ("bilinear", (0.1, 0.2, 0.3), (1, 1, 1))
    with pytest.raises(UnknownNameError, match=r"did you mean 'blocks\.4'"):
        resolve_recipe(backbone, "x", layer="block.4")
