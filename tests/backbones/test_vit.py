"""Vision transformers by short name: cards against timm's records, sizes, and files in the authors' layouts."""

from functools import cache

import pytest
import timm
import torch
from safetensors.torch import save_file

from featcache.backbones import BACKBONES, build_backbone
from featcache.backbones.outputs import record_spec, resolve_recipe
from featcache.backbones.vit import CARDS, SHORT_NAMES
from featcache.errors import ConfigError, WeightsError
from featcache.testing.backbones import make_subject


def noise(side, *, seed=0):
    return torch.randn((1, 3, side, side), generator=torch.Generator().manual_seed(seed))


@cache
def filled(name):
    """A state dict with the names and shapes of timm's model and values of its own."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        wanted = timm.create_model(name).state_dict()
    return {key: torch.randn(value.shape, generator=generator) * 0.05 for key, value in wanted.items()}


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_the_card_is_what_timm_records(name):
    published, card = SHORT_NAMES[name], CARDS[name]
    record = timm.get_pretrained_cfg(published.model)
    assert record.hf_hub_id == f"timm/{published.model}"
    assert record.hf_hub_id in card.source
    assert (card.license, card.mean, card.std) == (record.license, record.mean, record.std)
    assert card.interpolation == record.interpolation
    assert card.file_name == f"{name}.safetensors"
    if published.authors_file:
        assert record.url.endswith(f"/{published.authors_file}.pth")
        assert f"{published.authors_file}.pth" in card.source


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_the_summary_gives_the_shape(name):
    """Without weights: the model on the meta device."""
    published = SHORT_NAMES[name]
    with torch.device("meta"):
        model = timm.create_model(published.model, dynamic_img_size=True)
    assert model.num_features == published.channels
    assert model.patch_embed.patch_size == (published.patch, published.patch)
    side = published.input_size // published.patch
    assert BACKBONES.find(name).summary.endswith(f", {side} x {side} x {published.channels}")


@pytest.mark.parametrize("name", ["dinov2-s14", "dinov3-s16"])
def test_layers_and_shapes(name):
    backbone = make_subject(name).backbone
    assert backbone.layers == (*(f"blocks.{index}" for index in range(12)), "norm")
    for size, patches in ((224, 224 // SHORT_NAMES[name].patch), (112, 112 // SHORT_NAMES[name].patch)):
        for layer in ("blocks.5", "norm"):
            recipe = resolve_recipe(backbone, name, layer=layer, output="map", input_size=size)
            record = record_spec(backbone, recipe, num_frames=1, layout="frames")
            assert record.shape == (patches, patches, 384)
    with pytest.raises(
        ConfigError, match=rf"{name} takes a multiple of \d\d pixels a side, not 230; set input_size to 22"
    ):
        backbone.encode(noise(230), ["norm"])


@pytest.mark.parametrize("size", [112, pytest.param(518, marks=pytest.mark.slow)])
def test_positions_are_interpolated_from_the_published_grid(size):
    """As timm does when it loads the same weights into a model of that size; at 518 pixels there is nothing to do."""
    backbone = make_subject("dinov2-s14").backbone
    assert backbone.network.pos_embed.shape == (1, 1 + 37 * 37, 384)
    sized = timm.create_model("vit_small_patch14_dinov2", img_size=size).eval()
    convert = timm.models.vision_transformer.checkpoint_filter_fn
    sized.load_state_dict(convert(backbone.network.state_dict(), sized))
    with torch.inference_mode():
        want = sized.forward_features(noise(size))
    got = backbone.encode(noise(size), ["norm"])["norm"]
    assert torch.equal(got.cls, want[:, 0])
    assert torch.equal(got.map.flatten(1, 2), want[:, 1:])


def test_registers_are_dropped():
    backbone = build_backbone("dinov2reg-s14", weights="random")
    pixels = noise(112)
    with torch.inference_mode():
        sequence = backbone.network.forward_features(pixels)
    norm = backbone.encode(pixels, ["norm"])["norm"]
    assert sequence.shape == (1, 1 + 4 + 64, 384)
    assert torch.equal(norm.cls, sequence[:, 0])
    assert torch.equal(norm.map.flatten(1, 2), sequence[:, 5:])


def dinov2_layout(state):
    """Facebook's ``dinov2_vit?14_pretrain.pth``: timm's names and the mask token of the training."""
    return {"mask_token": torch.ones(1, 384), **state}


def registers_layout(state):
    """Facebook's ``…_reg4_pretrain.pth``: positions include the class token's, which timm adds to the token."""
    positions = state["pos_embed"]
    first = torch.full((1, 1, 384), 0.25)
    rest = {name: value for name, value in state.items() if name not in ("reg_token", "pos_embed", "cls_token")}
    return {
        "mask_token": torch.ones(1, 384),
        "register_tokens": state["reg_token"],
        "cls_token": state["cls_token"] - first,
        "pos_embed": torch.cat([first, positions], dim=1),
        **rest,
    }


def dinov3_layout(state):
    """Facebook's ``dinov3_vits16_pretrain_lvd1689m``: storage tokens, LayerScale, masked and zero biases, RoPE."""
    renamed = {
        name.replace("reg_token", "storage_tokens")
        .replace("gamma_1", "ls1.gamma")
        .replace("gamma_2", "ls2.gamma"): value
        for name, value in state.items()
    }
    biases = {f"blocks.{index}.attn.qkv.bias": torch.zeros(3 * 384) for index in range(12)}
    masks = {f"blocks.{index}.attn.qkv.bias_mask": torch.ones(3 * 384) for index in range(12)}
    return {"mask_token": torch.ones(1, 384), "rope_embed.periods": torch.ones(16), **biases, **masks, **renamed}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("dinov2-s14", dinov2_layout),
        pytest.param("dinov2reg-s14", registers_layout, marks=pytest.mark.slow),
        ("dinov3-s16", dinov3_layout),
    ],
)
def test_a_file_in_the_authors_layout(name, layout, tmp_path, capsys):
    """The same features and the same hash as from a file with timm's names."""
    state = filled(SHORT_NAMES[name].model)
    ours, theirs = tmp_path / "timm.safetensors", tmp_path / "authors.pth"
    save_file(state, ours)
    torch.save(layout(state), theirs)
    with_timms, with_theirs = (build_backbone(name, weights=str(file)) for file in (ours, theirs))
    pixels = noise(112)
    left, right = (backbone.encode(pixels, ["norm"])["norm"] for backbone in (with_timms, with_theirs))
    if name == "dinov2reg-s14":  # the class token went through a subtraction and an addition
        torch.testing.assert_close(right.cls, left.cls, rtol=1e-4, atol=1e-4)
    else:
        assert with_theirs.weights_hash == with_timms.weights_hash
        assert torch.equal(left.cls, right.cls)
        assert torch.equal(left.map, right.map)
    assert capsys.readouterr().out == ""


def test_biases_that_timm_would_drop_are_refused(tmp_path):
    state = dinov3_layout(filled(SHORT_NAMES["dinov3-s16"].model))
    bias = state["blocks.3.attn.qkv.bias"]
    bias[384:768] = 1  # of the keys, which the authors mask
    file = tmp_path / "w.pth"
    torch.save(state, file)
    build_backbone("dinov3-s16", weights=str(file))
    bias[:2] = 1
    torch.save(state, file)
    with pytest.raises(
        WeightsError, match=r"has attention biases \(blocks.3.attn.qkv.bias\) .* use timm/ with the model"
    ):
        build_backbone("dinov3-s16", weights=str(file))


@pytest.mark.slow
def test_swiglu_of_the_giant(tmp_path):
    """Facebook's names of the gated MLP, w12 and w3; one of the forty blocks stands for all."""
    from featcache.backbones.timm import _in_timm_names

    with torch.device("meta"):
        model = timm.create_model("vit_giant_patch14_dinov2", dynamic_img_size=True)
    state = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value
        for name, value in model.state_dict().items()
    }
    state["mask_token"] = torch.empty(1, 1536, device="meta")
    assert _in_timm_names(model, state, source="").keys() == model.state_dict().keys()


@pytest.mark.slow
def test_mae_of_its_authors(tmp_path):
    """Facebook's ``mae_pretrain_vit_base.pth``: the encoder under ``model``."""
    state = filled("vit_base_patch16_224.mae")
    ours, theirs = tmp_path / "timm.safetensors", tmp_path / "mae_pretrain_vit_base.pth"
    save_file(state, ours)
    torch.save({"model": state}, theirs)
    hashes = {build_backbone("mae-b16", weights=str(file)).weights_hash for file in (ours, theirs)}
    assert len(hashes) == 1


def test_a_file_in_the_folder_may_have_any_of_three_names(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        build_backbone("dinov2-s14")
    assert (
        f"put dinov2-s14.safetensors (timm/vit_small_patch14_dinov2.lvd142m on the Hugging Face hub, or the authors' "
        f"dinov2_vits14_pretrain.pth) into {tmp_path}"
    ) in str(caught.value)
    last = tmp_path / "nothing"
    torch.save(filled(SHORT_NAMES["dinov2-s14"].model), last)
    hashes = set()
    for name in ("dinov2_vits14_pretrain.pth", "vit_small_patch14_dinov2.lvd142m.pth", "dinov2-s14.pth"):
        last = last.rename(tmp_path / name)
        hashes.add(build_backbone("dinov2-s14").weights_hash)
    assert len(hashes) == 1


def test_positions_of_another_grid_are_refused(tmp_path):
    """Nothing is resized on loading: the hash is that of the published tensors."""
    file = tmp_path / "w.safetensors"
    state = filled(SHORT_NAMES["dinov2-s14"].model)
    save_file({**state, "pos_embed": state["pos_embed"][:, :257].contiguous()}, file)
    with pytest.raises(
        WeightsError, match=r"1 of another shape \(pos_embed \(1, 257, 384\) against \(1, 1370, 384\)\)"
    ):
        build_backbone("dinov2-s14", weights=str(file))
