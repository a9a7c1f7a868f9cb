"""torchvision's video networks: cards, layers and files against the library's own."""

import re

import pytest
import torch
from torchvision.models import get_model_weights

from featcache.backbones import build_backbone, torchvision
from featcache.backbones.weights import state_hash
from featcache.errors import ClipLengthError, ConfigError, WeightsError

NAMES = [name if name == "r3d_18" else pytest.param(name, marks=pytest.mark.slow) for name in torchvision.VARIANTS]
# Frames and pixels that each network's own forward can classify.
SHAPES = {"mvit_v2_s": (16, 224), "s3d": (14, 224)}


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def clip_of(num_frames, size):
    return torch.randn((1, num_frames, 3, size, size), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", torchvision.VARIANTS)
def test_the_card_says_what_torchvision_says(name):
    """Frames and rate stand in the sentence about the accuracy; strides are counted in videos of 30 frames a second."""
    card, published = torchvision.CARDS[name], get_model_weights(name).DEFAULT
    preset = published.transforms()
    rate, frames = re.search(r"frame_rate=([\d.]+)`.*`clip_len=(\d+)", published.meta["_docs"]).groups()
    assert published.url in card.source
    assert published.url.endswith(f"/{card.file_name}")
    assert (list(card.mean), list(card.std)) == (list(preset.mean), list(preset.std))
    assert [card.input_size] * 2 == list(preset.crop_size)
    assert card.crop_fraction == preset.crop_size[0] / preset.resize_size[0]
    assert card.interpolation == preset.interpolation.value
    assert (card.num_frames, card.frame_stride) == (int(frames), 30 / float(rate))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_logits_are_the_networks(name):
    backbone = build_backbone(name, weights="random")
    clip = clip_of(*SHAPES.get(name, (8, 64)))
    logits = backbone.classify(clip)
    torch.testing.assert_close(logits, backbone.network(clip.transpose(1, 2)), atol=1e-5, rtol=1e-5)
    assert logits.shape == (1, 400)
    assert (len(backbone.classes), backbone.classes[0]) == (400, "abseiling")


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_last_layer_is_what_the_head_reads(name):
    backbone = build_backbone(name, weights="random")
    network, clip = backbone.network, clip_of(*SHAPES.get(name, (8, 64)))
    output = backbone.encode(clip, [backbone.layers[-1]])[backbone.layers[-1]]
    logits = {
        "s3d": lambda: network.classifier(network.avgpool(output.map.permute(0, 4, 1, 2, 3))).mean((2, 3, 4)),
        "mvit_v2_s": lambda: network.head(output.cls),
        "swin3d_t": lambda: network.head(output.map.mean((1, 2, 3))),
    }.get(name, lambda: network.fc(output.map.mean((1, 2, 3))))()
    torch.testing.assert_close(logits, network(clip.transpose(1, 2)), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as torchvision publishes it, with other weights than the random ones, and the hash of its tensors."""
    network = build_backbone("r3d_18", weights="random").network
    network.fc.weight.mul_(2)
    path = tmp_path_factory.mktemp("published") / "r3d_18-b3b3357e.pth"
    torch.save(network.state_dict(), path)
    return path, state_hash(network)


@pytest.mark.parametrize("folder", ["weights", "torch/hub/checkpoints"])
def test_a_file_is_found_where_it_is_put(published, tmp_path, folder):
    """The weights folder, and where the library itself downloads to."""
    path, hash_of_file = published
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / path.name).symlink_to(path)
    backbone = build_backbone("r3d_18")
    assert backbone.weights_hash == hash_of_file
    assert len(backbone.keys.taken) == len(backbone.network.state_dict())


def test_a_missing_file_is_named_with_its_address():
    message = r"put r3d_18-b3b3357e\.pth \(https://download\.pytorch\.org/models/r3d_18-b3b3357e\.pth\) into "
    with pytest.raises(WeightsError, match=message):
        build_backbone("r3d_18")


def test_a_file_of_another_network_is_refused(published):
    with pytest.raises(WeightsError, match="does not fit the network: "):
        build_backbone("mc3_18", weights=str(published[0]))


def test_too_little_for_s3d_is_a_sentence():
    backbone = build_backbone("s3d", weights="random")
    with pytest.raises(ClipLengthError, match="at least 5 frames, not 4"):
        backbone.encode(clip_of(4, 64), ["features.15"])
    assert backbone.encode(clip_of(5, 64), ["features.15"])["features.15"].map.shape == (1, 1, 2, 2, 1024)
    for shape in ((12, 224), (13, 208)):
        with pytest.raises(ConfigError, match="at least 13 frames and 209 pixels"):
            backbone.classify(clip_of(*shape))
    assert backbone.classify(clip_of(13, 209)).shape == (1, 400)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("mvit_v2_s", (8, 256)), ("swin3d_t", (6, 256)), ("swin3d_t", (3, 100))])
def test_transformers_take_other_lengths_and_sizes(name, shape):
    backbone = build_backbone(name, weights="random")
    frames, size = shape
    norm = backbone.encode(clip_of(frames, size), ["norm"])["norm"]
    side = -(-size // 4) if name == "swin3d_t" else size // 4
    for _ in range(3):
        side = -(-side // 2)
    assert norm.map.shape == (1, -(-frames // 2), side, side, 768)
    assert backbone.classify(clip_of(frames, size)).shape == (1, 400)
