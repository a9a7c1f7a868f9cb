"""CLIP towers against open_clip's own models."""

import pytest
import torch
from safetensors.torch import save_file

from featcache.backbones import build_backbone, clip
from featcache.backbones.clip import CARDS, OPENAI
from featcache.backbones.outputs import record_spec, resolve_recipe
from featcache.errors import ConfigError, FeatcacheError, UnknownNameError, WeightsError
from tests.tiny_clip import both_towers, known_to_open_clip

TINY = "tiny-clip-for-tests"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    """Teach open_clip a small architecture with a tag."""
    vision, text = {"layers": 3, "width": 64}, {"context_length": 8, "vocab_size": 16, "width": 32}
    folder, tag = tmp_path_factory.mktemp("architectures"), {"mean": CLIP_MEAN}
    with known_to_open_clip(TINY, folder, embed_dim=24, vision=vision, text=text, tag=tag):
        yield


@pytest.fixture(scope="module")
def whole(tiny):
    """open_clip's own model, both towers."""
    return both_towers(TINY)


@pytest.fixture(scope="module")
def backbone(whole, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(whole.state_dict(), file)
    return build_backbone(f"open_clip/{TINY}:openai", weights=str(file))


PIXELS = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))


def test_proj_is_the_image_embedding(whole, backbone):
    with torch.inference_mode():
        want = whole.encode_image(PIXELS)
    proj = backbone.encode(PIXELS, ["proj"])["proj"]
    assert torch.equal(proj.cls, want)
    assert proj.map is None


def test_post_is_the_tokens_before_the_projection(whole, backbone):
    whole.visual.output_tokens = True
    with torch.inference_mode():
        pooled, tokens = whole.visual(PIXELS)
    whole.visual.output_tokens = False
    post = backbone.encode(PIXELS, ["post"])["post"]
    assert torch.equal(post.map.flatten(1, 2), tokens)
    assert torch.equal(post.cls @ backbone.network.proj, pooled)


def test_blocks_are_the_residual_blocks(whole, backbone):
    seen = []
    handle = whole.visual.transformer.resblocks[1].register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.inference_mode():
        whole.encode_image(PIXELS)
    handle.remove()
    block = backbone.encode(PIXELS, ["blocks.1"])["blocks.1"]
    assert torch.equal(block.cls, seen[0][:, 0])
    assert torch.equal(block.map.flatten(1, 2), seen[0][:, 1:])


def test_the_default_is_post(backbone):
    assert backbone.layers == ("proj", "blocks.0", "blocks.1", "blocks.2", "post")


def test_only_the_image_tower_counts(whole, backbone, tmp_path):
    file = tmp_path / "visual.safetensors"
    save_file(whole.visual.state_dict(), file)
    assert build_backbone(f"open_clip/{TINY}:openai", weights=str(file)).weights_hash == backbone.weights_hash
    file = tmp_path / "text.safetensors"
    save_file({name: value for name, value in whole.state_dict().items() if not name.startswith("visual")}, file)
    with pytest.raises(WeightsError, match="does not fit the network"):
        build_backbone(f"open_clip/{TINY}:openai", weights=str(file))


@pytest.mark.parametrize("name", ["clip-b32", "clip-b16", "clip-l14"])
def test_openai_weights_want_quick_gelu(name):
    assert clip.parse_name(name).quick_gelu
    assert clip.parse_name(name).tag == "openai"


def test_quick_gelu_follows_the_weights(backbone):
    assert not clip.parse_name("open_clip/ViT-B-32:laion2b_s34b_b79k").quick_gelu
    assert clip.parse_name("open_clip/ViT-B-32-quickgelu:openai").quick_gelu
    activations = {type(module).__name__ for module in backbone.network.modules()}
    assert "QuickGELU" in activations
    assert "GELU" not in activations


def test_card():
    card = clip.card_of("clip-l14", clip.parse_name("clip-l14"))
    assert card.mean == CLIP_MEAN
    assert card.std == (0.26862954, 0.26130258, 0.27577711)
    assert (card.input_size, card.crop_fraction, card.interpolation) == (224, 1.0, "bicubic")
    assert (card.license, card.file_name) == ("MIT", "clip-l14.safetensors")


def test_where_the_weights_are_published():
    assert clip._hub_files(clip.parse_name("clip-l14"))[0] == (
        "timm/vit_large_patch14_clip_224.openai",
        "open_clip_model.safetensors",
    )


def test_names_that_are_not_there():
    with pytest.raises(UnknownNameError, match="unknown open_clip architecture 'ViT-Z-32'; did you mean"):
        build_backbone("open_clip/ViT-Z-32:openai")
    with pytest.raises(
        UnknownNameError, match=r"unknown weights tag of open_clip/ViT-B-32 'open'; did you mean 'openai'"
    ):
        build_backbone("open_clip/ViT-B-32:open")
    with pytest.raises(ConfigError, match=r"write open_clip/ViT-B-32:<tag> with a tag such as openai, "):
        build_backbone("open_clip/ViT-B-32")


def test_a_fixed_size_and_no_classifier(backbone):
    with pytest.raises(ConfigError, match="takes 32 pixels a side, not 64; set input_size to 32"):
        backbone.encode(torch.zeros(1, 3, 64, 64), ["post"])
    with pytest.raises(FeatcacheError, match="has no classifier"):
        backbone.classify(PIXELS)


@pytest.mark.slow
def test_towers_of_timm_give_their_stages():
    backbone = build_backbone("open_clip/MobileCLIP-S1:datacompdr", weights="random")
    size = backbone.card.input_size
    outputs = backbone.encode(torch.zeros(1, 3, size, size), backbone.layers)
    assert backbone.layers[0] == "proj"
    assert outputs["proj"].cls.shape == (1, 512)
    assert all(outputs[layer].map.ndim == 4 for layer in backbone.layers[1:])


@pytest.mark.slow
def test_l14_gives_the_published_grid():
    backbone = build_backbone("clip-l14", weights="random")
    for output, shape in (("map", (16, 16, 1024)), ("tokens", (257, 1024)), ("cls", (1024,))):
        recipe = resolve_recipe(backbone, "clip-l14", output=output)
        assert record_spec(backbone, recipe, num_frames=1, layout="frames").shape == shape
    recipe = resolve_recipe(backbone, "clip-l14", layer="proj", output="cls")
    assert record_spec(backbone, recipe, num_frames=1, layout="frames").shape == (768,)


@pytest.mark.parametrize("name", sorted(OPENAI))
def test_registered_cards_are_what_open_clip_says(name: str) -> None:
    assert CARDS[name] == clip.card_of(name, clip.parse_name(name))
