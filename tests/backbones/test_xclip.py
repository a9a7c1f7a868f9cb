"""X-CLIP's vision side against the library's own video embedding, from files of the whole model."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import XCLIPConfig, XCLIPModel, XCLIPVisionConfig

from featcache.backbones import build_backbone
from featcache.errors import ConfigError, WeightsError

VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 16,
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """The published network, but narrow and for frames of 64 pixels."""
    monkeypatch.setattr("transformers.XCLIPVisionConfig", lambda patch_size: XCLIPVisionConfig(**VISION, image_size=64))


@pytest.fixture
def whole(tmp_path):
    """The whole model with random biases and norms too, and its file."""
    torch.manual_seed(0)
    text = {"num_hidden_layers": 1, "vocab_size": 100}
    network = XCLIPModel(XCLIPConfig(vision_config={**VISION, "image_size": 64}, text_config=text)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "model.safetensors"
    # Earlier versions of the library saved these numbers as well.
    save_file({**network.state_dict(), "vision_model.embeddings.position_ids": torch.arange(17).unsqueeze(0)}, path)
    return network, path


def clip_of(num_frames, size):
    return torch.randn((2, num_frames, 3, size, size), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_vector_is_the_librarys_video_embedding(whole):
    network, path = whole
    clip = clip_of(8, 64)
    backbone = build_backbone("xclip-b16", weights=str(path))
    assert backbone.layers == ("blocks.0", "blocks.1", "post", "video")
    output = backbone.encode(clip, ["video"])["video"]
    want = network.get_video_features(clip)
    torch.testing.assert_close(output.cls, want.pooler_output, atol=1e-5, rtol=1e-4)
    assert (output.map.shape, output.cls.shape) == ((2, 8, 4, 4, 512), (2, 512))
    last = backbone.encode(clip, ["blocks.1"])["blocks.1"].map
    torch.testing.assert_close(last.flatten(0, 1).flatten(1, 2), want.last_hidden_state[:, 1:], atol=1e-5, rtol=1e-4)
    assert not any("text" in name for name in backbone.keys.taken)
    assert len(backbone.keys.taken) + len(backbone.keys.dropped) == len(network.state_dict()) + 1


@torch.no_grad()
def test_frames_see_each_other(whole):
    """Cross-frame attention: by way of its class token, a change of the last frame reaches the first."""
    backbone = build_backbone("xclip-b16", weights=str(whole[1]))
    clip = clip_of(8, 64)
    changed = clip.clone()
    changed[:, -1] = 0
    before, after = (backbone.encode(x, ["blocks.1"])["blocks.1"].map[:, 0] for x in (clip, changed))
    assert not torch.equal(before, after)


@torch.no_grad()
def test_other_lengths_and_sizes(whole):
    backbone = build_backbone("xclip-b16", weights=str(whole[1]))
    for num_frames, size in ((3, 64), (16, 96), (8, 64)):
        output = backbone.encode(clip_of(num_frames, size), ["video"])["video"]
        assert output.map.shape == (2, num_frames, size // 16, size // 16, 512)
    # Having taken other clips leaves nothing behind.
    fresh = build_backbone("xclip-b16", weights=str(whole[1])).encode(clip_of(8, 64), ["video"])["video"]
    assert torch.equal(output.cls, fresh.cls)
    with pytest.raises(ConfigError, match="set input_size to a multiple of 16"):
        backbone.encode(clip_of(8, 70), ["video"])


def test_a_tensor_that_is_missing_is_named(whole, tmp_path):
    state = {name: tensor for name, tensor in whole[0].state_dict().items() if name != "mit.position_embedding"}
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"1 missing \(mit\.position_embedding\)"):
        build_backbone("xclip-b16", weights=str(tmp_path / "pytorch_model.bin"))
