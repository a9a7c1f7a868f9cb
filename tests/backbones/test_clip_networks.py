"""The benchmark's 3-D networks as backbones: layers and vectors, published layouts of files, and other files."""

import itertools
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featcache.backbones import BACKBONES, build_backbone
from featcache.backbones.clip_networks import CARDS
from featcache.backbones.outputs import resolve_recipe, to_records
from featcache.backbones.trainable import ClipEncoder, clip_feature
from featcache.backbones.weights import state_hash
from featcache.errors import ClipLengthError, FeatcacheError, WeightsError
from featcache.networks.catalogue import NETWORKS, build_network

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
THIN = 1 / 8


def make(name, *, width=THIN, seed=0):
    """A network whose batch norms are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(name, width=width).eval()
        for tensor in network.state_dict().values():
            if tensor.ndim == 1:
                tensor += 0.1 * torch.rand_like(tensor)
    return network


def prefixed(prefix, network):
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


def layers(*names):
    return {f"{name}.{kind}": torch.ones(2) for name in names for kind in ("weight", "bias")}


def vcop(network):
    return prefixed("base_network.", network) | layers("fc7", "fc8")


def prp(network, *, is_c3d=False):
    """PRP's network on several GPUs, whose C3D has names of its own."""
    state = prefixed("", network)
    if is_c3d:
        state = {prp_name(name): tensor for name, tensor in state.items()}
    state = {f"base_network.{name}": tensor for name, tensor in state.items()}
    state |= layers("fc8", "up4_1", "conv6_cls.conv3d.0", "conv6_rec.conv3d.1", "outc.conv3d.0")
    state |= layers(*(f"up{number}.{part}" for number in (1, 2, 3) for part in ("up3d", "conv3d.conv3d.0")))
    return {f"module.{name}": tensor for name, tensor in state.items()}


def prp_name(name):
    """``bn4a.weight`` is PRP's ``conv4_1.conv3d.1.weight``, and ``conv2.bias`` its ``conv2.conv3d.0.bias``."""
    kind, stage, letter, rest = re.fullmatch(r"(conv|bn)(\d)([ab]?)\.(\w+)", name).groups()
    place = {"": "", "a": "_1", "b": "_2"}[letter]
    return f"conv{stage}{place}.conv3d.{0 if kind == 'conv' else 1}.{rest}"


def rspnet(network):
    """RSPNet's two encoders with their heads, and its queue."""
    state = {}
    for encoder, its in (("encoder_q", network), ("encoder_k", make("r3d", seed=9))):
        state |= prefixed(f"{encoder}.encoder.", its) | layers(f"{encoder}.encoder.linear")
        state |= layers(f"{encoder}.fc1.2", f"{encoder}.fc2.2")
    return state | {"queue": torch.ones(4, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}


def fine_tuned(network):
    return prefixed("", network) | layers("linear")


def fine_tuned_by_rspnet(network):
    return prefixed("encoder.", network) | layers("encoder.linear", "fc")


LAYOUTS = {
    "vcop": vcop,
    "prp": prp,
    "rspnet": rspnet,
    "fine-tuned": fine_tuned,
    "fine-tuned by rspnet": fine_tuned_by_rspnet,
    "ours": lambda network: prefixed("", network),
    "ours on several GPUs": lambda network: prefixed("module.", network),
}


def save(state, file):
    """A file as RSPNet's training writes it."""
    best = torch.tensor(0.5)
    torch.save({"epoch": 200, "arch": "x", "model": state, "best_loss": best, "optimizer": {"state": {}}}, file)


def pixels(num_frames=8, side=48):
    return torch.randn((2, num_frames, 3, side, side), generator=torch.Generator().manual_seed(0))


def test_each_network_has_a_backbone_and_a_thin_one():
    assert set(CARDS) == {f"{name}{ending}" for name in NETWORKS for ending in ("", "-tiny")}
    assert set(CARDS) <= set(BACKBONES.names())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_layer_has_the_vector_that_heads_read(name):
    backbone = build_backbone(f"{name}-tiny", weights="random")
    clip = pixels()
    got = backbone.encode(clip, backbone.layers)
    features = backbone.network(clip.transpose(1, 2).contiguous())
    *others, last = got.values()
    assert all(output.cls is None for output in others)
    assert torch.equal(last.cls, features.vector)
    assert torch.equal(last.map, features.map.permute(0, 2, 3, 4, 1))
    recipe = resolve_recipe(backbone, f"{name}-tiny", output="tokens")
    is_projected = isinstance(backbone.network.projection, nn.Linear)
    num_tokens = last.map[0, ..., 0].numel() + (0 if is_projected else 1)
    assert to_records(last, recipe, num_frames=8).shape[1] == num_tokens
    with pytest.raises(FeatcacheError, match="has no classifier"):
        backbone.classify(clip)


@pytest.mark.parametrize("name", NETWORKS)
def test_fine_tuning_trains_every_parameter(name):
    backbone = build_backbone(f"{name}-tiny", weights="random")
    recipe = clip_feature(backbone, f"{name}-tiny", num_frames=8, input_size=48)
    assert recipe.output == "cls"
    module = ClipEncoder(backbone, recipe, num_frames=8).train()
    assert module.width == backbone.network.width
    clips = torch.randint(256, (2, 8, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    module.features(clips).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_c3d_needs_eight_frames():
    backbone = build_backbone("c3d-tiny", weights="random")
    with pytest.raises(ClipLengthError, match=r"c3d-tiny takes clips of at least 8 frames, not 7; set sampling\.num_f"):
        backbone.encode(pixels(7), backbone.layers)


def names_of(units, *, convolution):
    names = set()
    for unit, norm in units:
        names |= {f"{unit}.{member}.weight" for member in convolution if member != "bn"}
        names |= {f"{norm}.{kind}" for kind in BN}
        if "bn" in convolution:
            names |= {f"{unit}.bn.{kind}" for kind in BN}
    return names


@pytest.mark.parametrize(
    ("name", "convolution"),
    [("r21d", ("spatial_conv", "bn", "temporal_conv")), ("r3d", ("temporal_spatial_conv",))],
)
def test_the_residual_networks_have_the_published_names(name, convolution):
    units = [("conv1", "bn1")]
    for stage, number in itertools.product((2, 3, 4, 5), (1, 2)):
        units.append((f"conv{stage}.block1.conv{number}", f"conv{stage}.block1.bn{number}"))
    units += [(f"conv{stage}.block1.downsampleconv", f"conv{stage}.block1.downsamplebn") for stage in (3, 4, 5)]
    with torch.device("meta"):
        state = build_network(name).state_dict()
    assert set(state) == names_of(units, convolution=convolution)
    shapes = {
        "r21d": {
            "conv1.spatial_conv": (83, 3, 1, 7, 7),
            "conv1.temporal_conv": (64, 83, 3, 1, 1),
            "conv3.block1.downsampleconv.spatial_conv": (42, 64, 1, 1, 1),
            "conv5.block1.conv1.temporal_conv": (512, 921, 3, 1, 1),
        },
        "r3d": {"conv1.temporal_spatial_conv": (64, 3, 3, 7, 7)},
    }[name]
    assert {key: tuple(state[f"{key}.weight"].shape) for key in shapes} == shapes


def test_c3d_has_the_published_names():
    with torch.device("meta"):
        state = build_network("c3d").state_dict()
    parts = ["1", "2", "3a", "3b", "4a", "4b", "5a", "5b"]
    assert set(state) == {f"conv{part}.{kind}" for part in parts for kind in ("weight", "bias")} | {
        f"bn{part}.{kind}" for part in parts for kind in BN
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["r21d", "r3d", "c3d"])
def test_published_layouts(tmp_path, name, layout):
    network, file = make(name, seed=1), tmp_path / "model_best_x.pth.tar"
    state = prp(network, is_c3d=name == "c3d") if layout == "prp" else LAYOUTS[layout](network)
    save(state, file)
    backbone = build_backbone(f"{name}-tiny", weights=str(file))
    assert backbone.weights_hash == state_hash(network)
    assert set(backbone.keys.taken) == set(network.state_dict())
    assert len(backbone.keys.taken) + len(backbone.keys.dropped) == len(state)
    clip = pixels()
    with torch.inference_mode():
        vector = network(clip.transpose(1, 2).contiguous()).vector
    last = backbone.layers[-1]
    assert torch.equal(backbone.encode(clip, [last])[last].cls, vector)


@pytest.mark.parametrize("name", ["mobilenet3d", "shufflenet3d", "squeezenet3d", "swin3d"])
def test_a_file_of_our_own(tmp_path, name):
    network, file = make(name, seed=1), tmp_path / "network.safetensors"
    save_file(network.state_dict(), file)
    backbone = build_backbone(f"{name}-tiny", weights=str(file))
    assert backbone.weights_hash == state_hash(network)
    assert backbone.keys.dropped == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "encoder_q.encoder.conv4.block1.conv2.bn.running_var"},
            r"1 missing \(conv4\.block1\.conv2\.bn\.running_var\)",
        ),
        (lambda s: s | {"encoder_q.encoder.conv6.weight": torch.ones(1)}, r"1 unexpected \(conv6\.weight\)"),
        (lambda s: s | {"memory": torch.ones(1)}, r"1 unexpected \(memory\)"),
        (
            lambda s: s | {"encoder_q.encoder.conv1.spatial_conv.weight": torch.ones(83, 3, 1, 7, 7)},
            r"1 of another shape \(conv1\.spatial_conv\.weight \(83, 3, 1, 7, 7\) against",
        ),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, change, words):
    file = tmp_path / "w.pth.tar"
    save(change(rspnet(make("r21d"))), file)
    with pytest.raises(WeightsError, match=rf"w\.pth\.tar of r21d-tiny does not fit the network: .*{words}"):
        build_backbone("r21d-tiny", weights=str(file))


@pytest.mark.parametrize(
    ("given", "width", "asked", "is_one_of"),
    [
        ("r3d", THIN, "r21d-tiny", "r3d-tiny"),
        ("c3d", THIN, "r21d-tiny", "c3d-tiny"),
        ("squeezenet3d", 1.0, "squeezenet3d-tiny", "squeezenet3d"),
    ],
)
def test_a_file_of_another_network_or_width_says_whose_it_is(tmp_path, given, width, asked, is_one_of):
    file = tmp_path / "w.pth"
    save(vcop(make(given, width=width)), file)
    with pytest.raises(
        WeightsError, match=rf"w\.pth of {asked} is one of {is_one_of}; give --backbone {is_one_of}, or"
    ):
        build_backbone(asked, weights=str(file))


def test_a_width_that_has_no_name(tmp_path):
    file = tmp_path / "w.pth"
    save(vcop(make("r21d", width=1 / 16)), file)
    with pytest.raises(WeightsError, match=r"does not fit the network: \d+ of another shape \(conv1\.spatial_conv"):
        build_backbone("r21d-tiny", weights=str(file))


def test_default_finds_the_published_name_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"put model_best_r21d_200epoch\.pth\.tar \(RSPNet, Kinetics-400"):
        build_backbone("r21d")
    thin = {"r21d": ("r21d", THIN), "swin3d": ("swin3d", THIN)}
    monkeypatch.setattr("featcache.backbones.clip_networks._NAMES", thin)
    network = make("r21d", seed=3)
    save(rspnet(network), tmp_path / "model_best_r21d_200epoch.pth.tar")
    assert build_backbone("r21d").weights_hash == state_hash(network)
    with pytest.raises(WeightsError, match=r"put swin3d\.safetensors \(nothing is published: train one, then pass"):
        build_backbone("swin3d")


@pytest.mark.slow
def test_the_weights_of_torchvision(tmp_path):
    import torchvision

    whole, file = torchvision.models.video.swin3d_t(), tmp_path / "swin3d_t-7615ae03.pth"
    torch.save(whole.state_dict(), file)
    backbone = build_backbone("swin3d", weights=str(file))
    assert set(backbone.keys.dropped) == {"head.weight", "head.bias"}
    assert torch.equal(backbone.network.norm.weight, whole.norm.weight)
