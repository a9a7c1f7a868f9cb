"""VideoMAE against plain forwards of transformers, and files in every layout that its checkpoints come in."""

import argparse
import json
import shutil

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from featcache.backbones import build_backbone, videomae
from featcache.backbones.outputs import record_spec, resolve_recipe, to_records
from featcache.backbones.videomae import config_of
from featcache.errors import ClipLengthError, ConfigError, FeatcacheError, WeightsError

TINY = {"width": 24, "num_blocks": 3, "num_heads": 2}


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    """The published networks, but narrow."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("videomae-b", "videomae-b-k400"):
            published = videomae.VARIANTS[name]
            variant = videomae.Variant(
                repository=published.repository, num_classes=5 if published.num_classes else 0, **TINY
            )
            patch.setitem(videomae.VARIANTS, name, variant)
        yield


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch, tmp_path):
    """Nothing outside the test is read."""
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def clip():
    return torch.randn((2, 16, 3, 224, 224), generator=torch.Generator().manual_seed(0))


def seeded(network_class, name):
    """A network of the library whose biases and norms are random too."""
    torch.manual_seed(0)
    network = network_class(config_of(videomae.VARIANTS[name])).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def in_authors_names(state):
    """What the authors save of a network with the library's ``state``: an encoder's or a classifier's tensors."""
    inner = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    result = {}
    for name, tensor in state.items():
        name = name.removeprefix("videomae.")
        if ".attention.attention." in name:
            block, _, part = name.partition(".attention.attention.")
            block = block.replace("encoder.layer.", "blocks.")
            if part == "query.weight":
                rest = [
                    state[next(key for key in state if key.endswith(f"{name[:-12]}{other}.weight"))]
                    for other in ("key", "value")
                ]
                result[f"{block}.attn.qkv.weight"] = torch.cat([tensor, *rest])
            elif part.endswith(".bias"):
                result[f"{block}.attn.{part[0]}_bias"] = tensor
            continue
        name = name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        name = name.replace("encoder.layer.", "blocks.")
        for theirs, ours in inner.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        name = name.replace("layernorm.", "norm.").replace("classifier.", "head.")
        result[name] = tensor
    return result


def authors_forward(state, pixels, positions):
    """Tokens [B, 1568, C] of the authors' network, from the tensors of their file."""
    x = functional.conv3d(
        pixels.transpose(1, 2), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=(2, 16, 16)
    )
    x = x.flatten(2).transpose(1, 2) + positions
    width = x.shape[-1]
    for index in range(TINY["num_blocks"]):
        block = {
            key.removeprefix(f"blocks.{index}."): tensor for key, tensor in state.items() if f"blocks.{index}." in key
        }
        y = functional.layer_norm(x, (width,), block["norm1.weight"], block["norm1.bias"], 1e-12)
        bias = torch.cat([block["attn.q_bias"], torch.zeros(width), block["attn.v_bias"]])
        qkv = functional.linear(y, block["attn.qkv.weight"], bias)
        q, k, v = qkv.reshape(*qkv.shape[:2], 3, TINY["num_heads"], -1).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + functional.linear(y.transpose(1, 2).flatten(2), block["attn.proj.weight"], block["attn.proj.bias"])
        y = functional.layer_norm(x, (width,), block["norm2.weight"], block["norm2.bias"], 1e-12)
        y = functional.gelu(functional.linear(y, block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
        x = x + functional.linear(y, block["mlp.fc2.weight"], block["mlp.fc2.bias"])
    return x


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A pre-training model, and its file as transformers writes it."""
    network = seeded(VideoMAEForPreTraining, "videomae-b")
    path = tmp_path_factory.mktemp("pretrained") / "pretrained.safetensors"
    save_file(network.state_dict(), path)
    return network, path


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """A classifier, and its file as transformers writes it."""
    network = seeded(VideoMAEForVideoClassification, "videomae-b-k400")
    path = tmp_path_factory.mktemp("finetuned") / "finetuned.safetensors"
    save_file(network.state_dict(), path)
    return network, path


@torch.no_grad()
def test_the_pretrained_feature_is_the_mean_of_the_normalised_tokens(pretrained, clip):
    network, path = pretrained
    backbone = build_backbone("videomae-b", weights=str(path))
    tokens = network.videomae(clip).last_hidden_state
    output = backbone.encode(clip, ["norm"])["norm"]
    assert output.map.shape == (2, 8, 14, 14, TINY["width"])
    assert torch.equal(output.map.flatten(1, 3), tokens)
    recipe = resolve_recipe(backbone, "videomae-b", precision="float32")
    torch.testing.assert_close(to_records(output, recipe, num_frames=16), tokens.mean(1))


@torch.no_grad()
def test_the_fine_tuned_feature_is_what_the_classifier_reads(finetuned, clip):
    network, path = finetuned
    backbone = build_backbone("videomae-b-k400", weights=str(path))
    tokens = network.videomae(clip).last_hidden_state
    output = backbone.encode(clip, ["fc_norm"])["fc_norm"]
    assert torch.equal(output.map.flatten(1, 3), tokens)
    assert torch.equal(output.cls, network.fc_norm(tokens.mean(1)))
    recipe = resolve_recipe(backbone, "videomae-b-k400", output="cls", precision="float32")
    assert record_spec(backbone, recipe, num_frames=16, layout="clips").shape == (TINY["width"],)


@torch.no_grad()
def test_blocks_are_the_hidden_states(pretrained, clip):
    network, path = pretrained
    backbone = build_backbone("videomae-b", weights=str(path))
    hidden = network.videomae(clip, output_hidden_states=True).hidden_states
    outputs = backbone.encode(clip, ["blocks.0", "blocks.2"])
    assert backbone.layers == ("blocks.0", "blocks.1", "blocks.2", "norm")
    assert torch.equal(outputs["blocks.0"].map.flatten(1, 3), hidden[1])
    assert torch.equal(outputs["blocks.2"].map.flatten(1, 3), hidden[3])


def test_the_classifier_names_its_classes_where_the_checkpoint_does(finetuned, clip, tmp_path):
    network, path = finetuned[0], shutil.copy(finetuned[1], tmp_path)
    with pytest.raises(FeatcacheError, match=r"no classifier with class names; .* config\.json beside the weights"):
        build_backbone("videomae-b-k400", weights=str(path)).classify(clip)
    config = {"id2label": {str(index): f"action {index}" for index in range(5)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = build_backbone("videomae-b-k400", weights=str(path))
    assert backbone.classes == ("action 0", "action 1", "action 2", "action 3", "action 4")
    with torch.no_grad():
        assert torch.equal(backbone.classify(clip), network(clip).logits)


def test_class_names_of_another_checkpoint_are_refused(finetuned, tmp_path):
    path = shutil.copy(finetuned[1], tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "one", "1": "two"}}))
    with pytest.raises(WeightsError, match=r"names 2 classes and the classifier has 5"):
        build_backbone("videomae-b-k400", weights=str(path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="is not a model configuration"):
        build_backbone("videomae-b-k400", weights=str(path))


def test_every_layout_of_a_pretrained_file_is_the_same_backbone(pretrained, tmp_path):
    network, path = pretrained
    wanted = build_backbone("videomae-b", weights=str(path))
    assert len(wanted.keys.dropped) == len(network.state_dict()) - len(network.videomae.state_dict())
    encoder = network.videomae.state_dict()
    earlier = {
        name.replace("attention.query.bias", "attention.q_bias").replace(
            "attention.value.bias", "attention.v_bias"
        ): tensor
        for name, tensor in network.state_dict().items()
    }
    authors = {f"encoder.{name}": tensor for name, tensor in in_authors_names(encoder).items()}
    authors |= {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name.startswith(("decoder.", "encoder_to", "mask"))
    }
    files = {
        "encoder.pth": encoder,
        "pytorch_model.bin": earlier,
        "authors.pth": {
            "model": authors,
            "epoch": 1599,
            "args": argparse.Namespace(lr=1e-3, model="pretrain_videomae"),
        },
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        backbone = build_backbone("videomae-b", weights=str(tmp_path / name))
        assert backbone.weights_hash == wanted.weights_hash, name
        assert len(backbone.keys.taken) == len(encoder)


def test_every_layout_of_a_fine_tuned_file_is_the_same_backbone(finetuned, tmp_path):
    network, path = finetuned
    wanted = build_backbone("videomae-b-k400", weights=str(path))
    torch.save({"module": in_authors_names(network.state_dict())}, tmp_path / "authors.pth")
    backbone = build_backbone("videomae-b-k400", weights=str(tmp_path / "authors.pth"))
    assert backbone.weights_hash == wanted.weights_hash
    assert backbone.keys.dropped == ()


@torch.no_grad()
def test_a_file_of_the_authors_gives_what_their_network_gives(pretrained, tmp_path, clip):
    """Not by way of the library: their attention, with its one matrix and no bias of keys."""
    network, _ = pretrained
    state = in_authors_names(network.videomae.state_dict())
    torch.save({"model": {f"encoder.{name}": tensor for name, tensor in state.items()}}, tmp_path / "authors.pth")
    backbone = build_backbone("videomae-b", weights=str(tmp_path / "authors.pth"))
    want = authors_forward(state, clip, network.videomae.embeddings.position_embeddings)
    got = backbone.encode(clip, ["blocks.2"])["blocks.2"].map.flatten(1, 3)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_a_file_of_another_kind_names_what_is_missing(pretrained, finetuned):
    with pytest.raises(WeightsError, match=r"does not fit the network: .*fc_norm\.weight"):
        build_backbone("videomae-b-k400", weights=str(pretrained[1]))
    with pytest.raises(
        WeightsError, match=r"2 missing \(layernorm\.weight, layernorm\.bias\), 4 unexpected \(classifier"
    ):
        build_backbone("videomae-b", weights=str(finetuned[1]))


@torch.no_grad()
def test_other_sizes_interpolate_the_positions(pretrained):
    """SCALE's test crops: the same patches at other positions; a blank clip shows the positions alone."""
    network, path = pretrained
    backbone = build_backbone("videomae-b", weights=str(path))
    assert backbone.encode(torch.zeros(1, 16, 3, 256, 256), ["norm"])["norm"].map.shape == (1, 8, 16, 16, TINY["width"])
    smaller = backbone.encode(torch.zeros(1, 8, 3, 112, 112), ["blocks.0"])["blocks.0"].map
    assert smaller.shape == (1, 4, 7, 7, TINY["width"])
    embeddings = network.videomae.embeddings
    volume = embeddings.position_embeddings.reshape(1, 8, 14, 14, -1)
    halved = volume.unfold(1, 2, 2).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2, -3))  # trilinear, by a half
    tokens = halved.flatten(1, 3) + embeddings.patch_embeddings.projection.bias
    want = network.videomae.encoder.layer[0](tokens)
    torch.testing.assert_close(smaller.flatten(1, 3), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ((1, 9, 3, 224, 224), ClipLengthError, r"clips of 9; set sampling\.num_frames to a multiple of 2"),
        ((1, 16, 3, 250, 250), ConfigError, r"cannot take 250 x 250; set input_size to a multiple of 16"),
    ],
)
def test_what_it_cannot_take_is_a_sentence(shape, error, message):
    with pytest.raises(error, match=message):
        build_backbone("videomae-b", weights="random").encode(torch.zeros(shape), ["norm"])


def test_without_the_library_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("videomae-b", "xclip-b16", "vjepa2-l"):
        with pytest.raises(ConfigError, match=rf"'{name}' needs .*; run: pip install 'featcache\[video\]'"):
            build_backbone(name, weights="random")


def test_weights_out_of_reach_say_where_they_are():
    with pytest.raises(WeightsError, match=r"put videomae-b\.safetensors \(MCG-NJU/videomae-base on the hub\) into "):
        build_backbone("videomae-b")


def test_the_weights_folder_is_searched(pretrained, tmp_path):
    _, path = pretrained
    (tmp_path / "weights").mkdir()
    shutil.copy(path, tmp_path / "weights" / "videomae-base.safetensors")
    assert build_backbone("videomae-b").keys is not None


def test_the_published_networks():
    """Layers, widths and frames of the cards; the tiny ones above stand in for the first and third."""
    large = config_of(videomae.VARIANTS["videomae-l"])
    assert (large.hidden_size, large.num_hidden_layers, large.num_attention_heads, large.intermediate_size) == (
        1024,
        24,
        16,
        4096,
    )
    something = config_of(videomae.VARIANTS["videomae-b-ssv2"])
    assert (something.hidden_size, something.num_hidden_layers, something.num_labels) == (768, 12, 174)
    assert videomae.CARDS["videomae-b-ssv2"].frame_stride == 2
    assert isinstance(VideoMAEModel(config_of(videomae.VARIANTS["videomae-b"])).layernorm, torch.nn.LayerNorm)
