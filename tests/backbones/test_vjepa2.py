"""V-JEPA 2's encoder against the library's, from files of the whole model."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import VJEPA2Config, VJEPA2Model

from featcache.backbones import build_backbone
from featcache.errors import ClipLengthError, ConfigError, WeightsError


def config_of(crop_size):
    return VJEPA2Config(
        crop_size=crop_size, frames_per_clip=8, hidden_size=48, num_attention_heads=2, num_hidden_layers=2,
        pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1, num_pooler_layers=1,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """The published network, but narrow and for frames of 64 pixels."""
    monkeypatch.setattr("transformers.VJEPA2Config", lambda: config_of(64))


@pytest.fixture
def whole(tmp_path):
    """The whole model with random biases and norms too, and its file."""
    torch.manual_seed(0)
    network = VJEPA2Model(config_of(64)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    return network, tmp_path / "model.safetensors"


def clip_of(num_frames, size):
    return torch.randn((2, num_frames, 3, size, size), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_tokens_are_the_librarys(whole):
    network, path = whole
    backbone = build_backbone("vjepa2-l", weights=str(path))
    clip = clip_of(8, 64)
    output = backbone.encode(clip, backbone.layers)
    want = network(clip, skip_predictor=True, output_hidden_states=True)
    assert backbone.layers == ("blocks.0", "blocks.1", "norm")
    assert output["norm"].map.shape == (2, 4, 4, 4, 48)
    assert torch.equal(output["norm"].map.flatten(1, 3), want.last_hidden_state)
    assert backbone.keys.dropped
    assert all(name.startswith("predictor.") for name in backbone.keys.dropped)


@torch.no_grad()
def test_another_size_is_what_a_network_of_that_size_gives(whole):
    """Positions are places in the grid at hand: nothing is wrapped at the trained side."""
    network, path = whole
    larger = VJEPA2Model(config_of(96)).eval()
    larger.load_state_dict(network.state_dict())
    backbone = build_backbone("vjepa2-l", weights=str(path))
    for num_frames, size, reference in ((12, 96, larger), (8, 64, network)):
        clip = clip_of(num_frames, size)
        got = backbone.encode(clip, ["norm"])["norm"].map
        assert torch.equal(got.flatten(1, 3), reference(clip, skip_predictor=True).last_hidden_state)


def test_what_it_cannot_take_is_a_sentence():
    backbone = build_backbone("vjepa2-l", weights="random")
    with pytest.raises(ClipLengthError, match="clips of 7"):
        backbone.encode(clip_of(7, 64), ["norm"])
    with pytest.raises(ConfigError, match=r"takes square frames, not \(64, 80\)"):
        backbone.encode(torch.zeros(1, 8, 3, 64, 80), ["norm"])


def test_a_file_without_the_encoder_is_refused(whole, tmp_path):
    state = {name: tensor for name, tensor in whole[0].state_dict().items() if name.startswith("predictor.")}
    torch.save(state, tmp_path / "predictor.pth")
    with pytest.raises(WeightsError, match="does not fit the network"):
        build_backbone("vjepa2-l", weights=str(tmp_path / "predictor.pth"))
