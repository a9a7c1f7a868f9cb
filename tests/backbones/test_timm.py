"""timm models: real weights that a package carries, every layout of features, names and cards."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage import data
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transform

from featcache.backbones import build_backbone
from featcache.backbones.outputs import record_spec, resolve_recipe
from featcache.backbones.timm import LITE0
from featcache.errors import ConfigError, FeatcacheError, UnknownNameError, WeightsError

LITE0_HASH = "sha256:94ce4eba14908ed7d6fa9623803dcf0abde61307dea8822783937fe85c26770b"


@pytest.fixture(scope="module")
def lite0():
    return build_backbone(LITE0)


def photograph(name, card):
    """A photograph through the card's preprocessing, float [1, 3, S, S]."""
    image = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)
    side = round(card.input_size / card.crop_fraction)
    image = transform.resize(image, [side], interpolation=InterpolationMode(card.interpolation), antialias=True)
    pixels = transform.center_crop(image, [card.input_size]).float().unsqueeze(0) / 255
    return (pixels - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(3, 1, 1)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestLite0:
    def test_card(self, lite0):
        card = lite0.card
        assert (card.mean, card.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        assert (card.input_size, card.crop_fraction, card.interpolation) == (224, 0.875, "bicubic")
        assert card.license == "apache-2.0"
        assert card.file_name == "tf_efficientnet_lite0.safetensors"

    def test_it_recognises_photographs(self, lite0):
        probabilities = lite0.classify(photograph("coffee", lite0.card)).softmax(dim=1)[0]
        assert lite0.classes[probabilities.argmax()] == "espresso"
        assert probabilities.max() == pytest.approx(0.95, abs=0.01)
        best = lite0.classify(photograph("chelsea", lite0.card))[0].topk(3).indices
        assert {lite0.classes[index] for index in best} == {"tiger cat", "Egyptian cat", "tabby, tabby cat"}

    def test_hash(self, lite0):
        assert lite0.weights_hash == LITE0_HASH

    @pytest.mark.shared
    def test_another_container_has_the_same_hash(self, shared):
        weights = shared / "data" / "weights" / "tf_efficientnet_lite0.safetensors"
        assert build_backbone(LITE0, weights=str(weights)).weights_hash == LITE0_HASH

    def test_layers(self, lite0):
        assert lite0.layers == ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6", "final")
        shapes = {
            layer: record_spec(
                lite0,
                resolve_recipe(lite0, LITE0, layer=layer, output="map", input_size=160),
                num_frames=1,
                layout="frames",
            ).shape
            for layer in lite0.layers
        }
        assert shapes["blocks.4"] == (10, 10, 112)  # stride 16
        assert shapes["final"] == (5, 5, 1280)

    def test_the_mean_of_the_last_map_is_what_the_head_reads(self, lite0):
        pixels = photograph("coffee", lite0.card)
        mean = lite0.encode(pixels, ["final"])["final"].map.mean(dim=(1, 2))
        with torch.inference_mode():
            features = lite0.network.forward_features(pixels)
            assert torch.equal(mean, lite0.network.forward_head(features, pre_logits=True))
            assert torch.equal(lite0.network.classifier(mean), lite0.classify(pixels))


@pytest.mark.parametrize(
    ("name", "layer", "shape", "has_cls"),
    [
        ("test_vit", "norm", (10, 10, 64), True),  # class token
        ("test_vit2", "final", (10, 10, 64), False),  # register tokens alone, normalised after pooling
        ("test_vit3", "norm", (10, 10, 96), False),  # register tokens, pooled by attention
        ("test_vit_relpos", "final", (10, 10, 96), False),  # no token but the patches
        ("test_mambaout", "final", (5, 5, 64), False),  # NHWC
        ("test_efficientnet", "final", (5, 5, 256), False),  # NCHW, a convolution after the last stage
        ("levit_128s", "final", (4, 4, 384), False),  # NLC
        ("deit_tiny_distilled_patch16_224", "norm", (14, 14, 192), True),  # class and distillation tokens
        ("pit_ti_224", "norm", None, True),  # the class token alone
        ("crossvit_9_240", "norm", (14, 14, 256), True),  # two branches
        ("efficientvim_m1", "stages.2", (4, 4, 320), False),  # several vectors and no last map
    ],
)
def test_every_layout_becomes_rows_and_columns(name, layer, shape, has_cls):
    backbone = build_backbone(f"timm/{name}", weights="random")
    size = backbone.card.input_size
    pixels = noise(1, 3, size, size)
    assert backbone.layers[-1] == layer
    outputs = backbone.encode(pixels, backbone.layers)
    last = outputs[layer]
    assert (None if last.map is None else last.map.shape[1:]) == shape
    assert (last.cls is not None) == has_cls
    for stage in backbone.layers[:-1]:
        assert outputs[stage].map.ndim == 4


def test_tokens_are_told_apart():
    """DeiT's sequence is class token, distillation token, patches."""
    backbone = build_backbone("timm/deit_tiny_distilled_patch16_224", weights="random")
    pixels = noise(2, 3, 224, 224)
    outputs = backbone.encode(pixels, ["blocks.3", "norm"])
    with torch.inference_mode():
        sequence = backbone.network.forward_features(pixels)
    assert torch.equal(outputs["norm"].cls, sequence[:, 0])
    assert torch.equal(outputs["norm"].map.flatten(1, 2), sequence[:, 2:])
    seen = []
    handle = backbone.network.blocks[3].register_forward_hook(lambda *args: seen.append(args[2]))
    backbone.encode(pixels, ["blocks.3"])
    handle.remove()
    assert torch.equal(outputs["blocks.3"].cls, seen[0][:, 0])
    assert torch.equal(outputs["blocks.3"].map.flatten(1, 2), seen[0][:, 2:])


def test_maps_are_not_transposed():
    """A patch in the top right corner of the input changes the top right corner of the map most."""
    for name in ("test_resnet", "test_mambaout", "levit_128s"):
        backbone = build_backbone(f"timm/{name}", weights="random")
        size = backbone.card.input_size
        pixels = noise(1, 3, size, size)
        changed = pixels.clone()
        changed[..., : size // 8, -size // 8 :] += 3
        layer = backbone.layers[0]
        before, after = (backbone.encode(x, [layer])[layer].map for x in (pixels, changed))
        change = (before - after).abs().sum(dim=(0, 3))
        row, column = divmod(int(change.argmax()), change.shape[1])
        assert row < change.shape[0] / 4, name
        assert column >= change.shape[1] * 3 / 4, name


def test_it_stops_early():
    backbone = build_backbone("timm/test_resnet", weights="random")
    ran = []
    for stage in ("layer2", "layer3"):
        getattr(backbone.network, stage).register_forward_hook(lambda module, *_: ran.append(module))
    backbone.encode(noise(1, 3, 64, 64), ["layer2"])
    assert ran == [backbone.network.layer2]


def test_weights_from_a_file_and_from_the_folder(tmp_path, monkeypatch):
    other = timm.create_model("test_resnet").eval()
    file = tmp_path / "test_resnet.r160_in1k.safetensors"
    save_file(other.state_dict(), file)
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path))
    pixels = noise(1, 3, 160, 160)
    with torch.inference_mode():
        want = other(pixels)
    by_path = build_backbone("timm/test_resnet", weights=str(file))
    by_name = build_backbone("timm/test_resnet.r160_in1k")
    assert torch.equal(by_path.classify(pixels), want)
    assert by_path.weights_hash == by_name.weights_hash
    assert by_path.weights_hash != build_backbone("timm/test_resnet", weights="random").weights_hash
    with pytest.raises(WeightsError, match=r"of timm/test_vit does not fit the network: \d+ missing"):
        build_backbone("timm/test_vit", weights=str(file))


def test_an_authors_layout_is_converted(tmp_path):
    """A tower of open_clip over timm has timm's names under a prefix."""
    other = timm.create_model("test_vit").eval()
    file = tmp_path / "w.safetensors"
    save_file({f"visual.trunk.{name}": value for name, value in other.state_dict().items()}, file)
    pixels = noise(1, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(build_backbone("timm/test_vit", weights=str(file)).classify(pixels), other(pixels))


def test_a_position_embedding_of_another_size_is_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit", img_size=96).state_dict(), file)
    with pytest.raises(WeightsError, match=r"1 of another shape \(pos_embed \(1, 37, 64\) against \(1, 101, 64\)\)"):
        build_backbone("timm/test_vit", weights=str(file))


def test_names_that_are_not_there():
    with pytest.raises(UnknownNameError, match=r"unknown timm model 'resnet_18'; did you mean"):
        build_backbone("timm/resnet_18")
    with pytest.raises(
        UnknownNameError, match=r"unknown weights tag of timm/vit_small_patch16_224 'din'; did you mean 'dino'"
    ):
        build_backbone("timm/vit_small_patch16_224.din")


def test_the_tag_decides_the_head():
    with_head = build_backbone("timm/deit_tiny_patch16_224.fb_in1k", weights="random")
    assert len(with_head.classes) == 1000
    assert with_head.card.crop_fraction == 0.9
    dino = build_backbone("timm/vit_small_patch16_224.dino", weights="random")
    assert dino.classes is None
    assert dino.card.mean == (0.485, 0.456, 0.406)
    with pytest.raises(FeatcacheError, match="has no classifier; choose a model with an ImageNet head"):
        dino.classify(noise(1, 3, 224, 224))


def test_a_fixed_size_is_kept():
    backbone = build_backbone("timm/test_vit", weights="random")
    with pytest.raises(ConfigError, match="timm/test_vit takes 160 pixels a side, not 224; set input_size to 160"):
        backbone.encode(noise(1, 3, 224, 224), ["norm"])
