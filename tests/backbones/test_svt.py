"""SVT backbones: files of every layout that holds a TimeSformer, and files that do not fit."""

import argparse
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featcache.backbones import build_backbone
from featcache.backbones.svt import CARD, load_image_weights, read_svt
from featcache.backbones.weights import state_hash
from featcache.errors import FeatcacheError, WeightsError
from featcache.networks.timesformer import SIZES, TimeSformer, TimeSformerConfig

BLOCK = "norm1 attn.qkv attn.proj temporal_norm1 temporal_attn.qkv temporal_attn.proj temporal_fc norm2 mlp.fc1 mlp.fc2"
HEAD = ["head.mlp.0", "head.mlp.2", "head.mlp.4"]


def published_names(depth):
    """Names of SVT's published file without ``backbone.``, as listed by its readers."""
    modules = ["patch_embed.proj", "norm", *(f"blocks.{n}.{part}" for n in range(depth) for part in BLOCK.split())]
    return {"cls_token", "pos_embed", "time_embed"} | {f"{m}.{kind}" for m in modules for kind in ("weight", "bias")}


def make(config=SIZES["tiny"], seed=0):
    """A network in which every tensor is at random, time positions and temporal_fc too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TimeSformer(config).eval()
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def whole(network, *, prefix=""):
    """The network and a projection head, as SVT saves them."""
    width = network.config.width
    state = {f"{prefix}backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, shape in zip(HEAD, ((8, width), (8, 8), (4, 8)), strict=True):
        state |= {f"{prefix}{name}.weight": torch.ones(shape), f"{prefix}{name}.bias": torch.ones(shape[0])}
    last = {"head.last_layer.weight_g": torch.ones(16, 1), "head.last_layer.weight_v": torch.ones(16, 4)}
    return OrderedDict(state | {f"{prefix}{name}": tensor for name, tensor in last.items()})


def training_checkpoint(teacher, student, *, wrapped_teacher=False):
    """What SVT's training script saves, its arguments and its optimiser included."""
    optimiser = {"state": {0: {"step": torch.tensor(9.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 5e-4}]}
    return {
        "student": whole(student, prefix="module."),
        "teacher": whole(teacher, prefix="module." if wrapped_teacher else ""),
        "optimizer": optimiser,
        "epoch": 20,
        "args": argparse.Namespace(arch="timesformer", lr=5e-4, local_crops_number=8),
        "dino_loss": {"center": torch.zeros(1, 16)},
        "fp16_scaler": {"scale": 65536.0, "growth_factor": 2.0},
    }


def pixels(num_frames=4, side=112):
    return torch.randn((2, num_frames, 3, side, side), generator=torch.Generator().manual_seed(0))


def assert_is(backbone, network, *, num_frames=4, side=112):
    """The backbone computes what the network does."""
    assert backbone.weights_hash == state_hash(network)
    clip = pixels(num_frames, side)
    got = backbone.encode(clip, backbone.layers)
    with torch.inference_mode():
        want = network.forward_layers(clip, network.layers)
    assert got["norm"].cls.isfinite().all()
    for layer in network.layers:
        assert torch.equal(got[layer].map, want[layer].patches)
        assert torch.equal(got[layer].cls, want[layer].cls)


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_the_network_has_the_published_names(size):
    with torch.device("meta"):
        network = TimeSformer(SIZES[size])
    state = network.state_dict()
    assert set(state) == published_names(SIZES[size].depth)
    if size == "base":
        assert state["pos_embed"].shape == (1, 197, 768)
        assert state["time_embed"].shape == (1, 8, 768)


def test_the_published_layout(tmp_path):
    network, file = make(), tmp_path / CARD.file_name
    torch.save(whole(network), file)
    backbone = build_backbone("svt-tiny", weights=str(file))
    assert_is(backbone, network)
    assert set(backbone.keys.taken) == published_names(4)
    assert backbone.keys.dropped == tuple(name for name in whole(network) if name.startswith("head."))
    assert backbone.keys.kept == ()
    assert str(backbone.keys) == (
        f"87 tensors taken from weights file {file} of svt-tiny, 8 dropped (head.mlp.0.weight, head.mlp.0.bias, "
        "head.mlp.2.weight, …)"
    )


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_training_checkpoint_gives_its_teacher(tmp_path, wrapped):
    teacher, student, file = make(seed=1), make(seed=2), tmp_path / "checkpoint.pth"
    torch.save(training_checkpoint(teacher, student, wrapped_teacher=wrapped), file)
    backbone = build_backbone("svt-tiny", weights=str(file))
    assert_is(backbone, teacher)
    assert len(backbone.keys.dropped) == 8
    state, dropped = read_svt(file, branch="student")
    assert all(torch.equal(state[name], tensor) for name, tensor in student.state_dict().items())
    assert len(state) == 87
    assert len(dropped) == 8


def test_a_trained_network_of_our_own(tmp_path):
    """16 time positions and a grid of 6 x 6, of its own training; read at the card's size and at another."""
    config = TimeSformerConfig(width=192, depth=4, num_heads=3, image_size=96, num_frames=16)
    network, file = make(config), tmp_path / "teacher.safetensors"
    save_file(network.state_dict(), file)
    backbone = build_backbone("svt-tiny", weights=str(file))
    assert backbone.network.config == config
    assert_is(backbone, network, num_frames=16, side=96)
    assert_is(backbone, network, num_frames=2, side=112)
    assert backbone.keys.dropped == ()


def test_default_finds_the_published_name_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"put kinetics400_vitb_ssl\.pth \(SVT.*\) into "):
        build_backbone("svt-b")
    with pytest.raises(WeightsError, match=r"put svt-tiny\.safetensors \(nothing is published: train one"):
        build_backbone("svt-tiny")
    network = make()
    save_file(network.state_dict(), tmp_path / "svt-tiny.safetensors")
    assert build_backbone("svt-tiny").weights_hash == state_hash(network)


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: without(s, "backbone.time_embed"), r"1 missing \(time_embed\)"),
        (lambda s: without(s, "backbone.blocks.2.temporal_fc.bias"), r"1 missing \(blocks.2.temporal_fc.bias\)"),
        (lambda s: s | {"backbone.head.weight": torch.ones(2)}, r"1 unexpected \(head.weight\)"),
        (lambda s: s | {"head.predictor.weight": torch.ones(2)}, r"1 unexpected \(head.predictor.weight\)"),
        (lambda s: s | {"backbone.pos_embed": torch.ones(1, 7, 192)}, r"1 of another shape \(pos_embed \(1, 7, 192\)"),
        (lambda s: s | {"backbone.time_embed": torch.ones(3)}, r"1 of another shape \(time_embed \(3,\) against"),
        (lambda s: {k.replace("backbone.", "encoder."): v for k, v in s.items()}, "87 missing"),
    ],
)
def test_another_network_is_refused(tmp_path, change, words):
    file = tmp_path / "w.pth"
    torch.save(dict(change(dict(whole(make())))), file)
    with pytest.raises(WeightsError, match=rf"weights file .*w\.pth of svt-tiny does not fit the network: .*{words}"):
        build_backbone("svt-tiny", weights=str(file))


def test_another_size_is_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(make(TimeSformerConfig(width=96, depth=5, num_heads=3)).state_dict(), file)
    with pytest.raises(WeightsError, match=r"svt-tiny does not fit the network: 20 unexpected .* 87 of another shape"):
        build_backbone("svt-tiny", weights=str(file))


def test_a_checkpoint_without_a_teacher(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"student": whole(make()), "epoch": 3}, file)
    with pytest.raises(WeightsError, match="holds no state dict, neither itself nor under teacher"):
        build_backbone("svt-tiny", weights=str(file))


def test_it_says_what_it_took(tmp_path, caplog):
    file = tmp_path / "w.safetensors"
    save_file(make().state_dict(), file)
    with caplog.at_level("INFO", logger="featcache"):
        build_backbone("svt-tiny", weights=str(file))
    assert caplog.messages == [f"87 tensors taken from weights file {file} of svt-tiny"]


def test_there_is_no_classifier():
    with pytest.raises(FeatcacheError, match="svt-tiny has no classifier; train a probe"):
        build_backbone("svt-tiny", weights="random").classify(pixels())


class TestImageWeights:
    """DINO's file: the image half of the network, flat."""

    def image_state(self, seed=3):
        state = make(seed=seed).state_dict()
        return {name: tensor for name, tensor in state.items() if "tempor" not in name and name != "time_embed"}

    def test_the_names_are_dinos(self):
        parts = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
        modules = ["patch_embed.proj", "norm", *(f"blocks.{n}.{part}" for n in range(4) for part in parts)]
        names = {"cls_token", "pos_embed"} | {f"{m}.{kind}" for m in modules for kind in ("weight", "bias")}
        assert set(self.image_state()) == names

    @pytest.mark.parametrize("copies", [True, False])
    def test_what_is_taken_and_what_stays(self, copies):
        network, fresh, image = make(seed=4), make(seed=4).state_dict(), self.image_state()
        report = load_image_weights(network, image, source="dino", copies_to_time=copies)
        state = network.state_dict()
        stayed = {"time_embed"} | {name for name in fresh if "temporal_fc" in name}
        if not copies:
            stayed |= {name for name in fresh if "temporal_" in name}
        assert set(report.kept) == stayed
        assert set(report.taken) | stayed == set(state)
        for name, tensor in state.items():
            origin = name.replace("temporal_attn", "attn").replace("temporal_norm1", "norm1")
            assert torch.equal(tensor, fresh[name] if name in stayed else image[origin]), name

    def test_it_starts_as_that_image_network(self):
        """With temporal_fc at zero a still clip has the image's feature."""
        image = make(seed=3)
        for block in image.blocks:
            nn.init.zeros_(block.temporal_fc.weight)
            nn.init.zeros_(block.temporal_fc.bias)
        nn.init.zeros_(image.time_embed)
        network = TimeSformer(SIZES["tiny"]).eval()
        load_image_weights(network, self.image_state(seed=3), source="dino")
        frame = pixels(num_frames=1)
        with torch.inference_mode():
            torch.testing.assert_close(network(frame.expand(-1, 3, -1, -1, -1)), image(frame), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda s: without(s, "norm.weight"), r"1 missing \(norm.weight\)"),
            (lambda s: s | {"head.weight": torch.ones(2)}, r"1 unexpected \(head.weight\)"),
            (lambda s: s | {"pos_embed": torch.ones(1, 197, 192)}, r"1 of another shape \(pos_embed"),
        ],
    )
    def test_anything_else_is_refused(self, change, words):
        with pytest.raises(WeightsError, match=f"dino does not fit the network: {words}"):
            load_image_weights(make(), change(self.image_state()), source="dino")


@pytest.mark.slow
def test_the_published_file_at_its_size(tmp_path):
    network, file = make(SIZES["base"]), tmp_path / CARD.file_name
    torch.save(whole(network), file)
    backbone = build_backbone("svt-b", weights=str(file))
    assert backbone.layers == (*(f"blocks.{index}" for index in range(12)), "norm")
    assert_is(backbone, network, num_frames=16, side=48)
