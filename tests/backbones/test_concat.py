"""Backbones side by side: channels in order, grids, class tokens, statistics, weights and errors."""

import pytest
import torch
from torch.nn import functional

from featcache.backbones import LayerOutput, WeightsCard, build_backbone
from featcache.backbones.concat import ConcatBackbone
from featcache.errors import ConfigError, FeatcacheError, UnknownNameError, WeightsError
from featcache.testing.backbones import make_subject

PAIR = "timm/test_vit+timm/test_resnet"
PIXELS = torch.randn((2, 3, 160, 160), generator=torch.Generator().manual_seed(0))


class Patches:
    """Average pooling to a grid: a map of ``grid`` x ``grid`` x 3, and the mean of it as class token if asked."""

    kind, classes = "image", None

    def __init__(self, grid, *, layers=("early", "late"), has_cls=True, mean=(0.5,) * 3, std=(0.5,) * 3, digit="0"):
        self.grid, self.layers, self.has_cls, self.weights_hash = grid, layers, has_cls, f"sha256:{digit * 64}"
        self.card = WeightsCard(source="none", license="none", input_size=32, mean=mean, std=std)
        self.calls = []

    def encode(self, pixels, layers):
        self.calls.append(list(layers))
        pooled = functional.adaptive_avg_pool2d(pixels, self.grid).permute(0, 2, 3, 1)
        return {
            layer: LayerOutput(
                map=pooled + 10 * self.layers.index(layer), cls=pooled.mean(dim=(1, 2)) if self.has_cls else None
            )
            for layer in layers
        }

    def to(self, device):
        self.device = device
        return self


def small(seed=3):
    return torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


def test_members_in_order():
    """Channels of each member, as it gives them alone."""
    backbone = make_subject(PAIR).backbone
    vit, resnet = (make_subject(name).backbone for name in PAIR.split("+"))
    joint = backbone.encode(PIXELS, ["norm+final"])["norm+final"]
    assert torch.equal(joint.map[..., :64], vit.encode(PIXELS, ["norm"])["norm"].map)
    theirs = resnet.encode(PIXELS, ["final"])["final"].map.permute(0, 3, 1, 2)
    assert theirs.shape[2:] == (5, 5)
    larger = functional.interpolate(theirs, (10, 10), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    assert torch.equal(joint.map[..., 64:], larger)
    assert joint.cls is None  # the residual network has none
    assert backbone.layers == ("blocks.1+act1", *(f"blocks.{i + 1}+layer{i}" for i in range(1, 5)), "norm+final")


def test_bilinear_by_hand():
    """Centres of cells, edges repeated: 2 values to 4 are weighted 1, 3/4 and 1/4, 1/4 and 3/4, 1."""
    row = torch.tensor([0.0, 4.0])
    pixels = row.view(1, 1, 1, 2).expand(1, 3, 2, 2)
    joint = ConcatBackbone([Patches(4), Patches(2)], names=["a", "b"])
    resized = joint.encode(pixels, ["late+late"])["late+late"].map[0, 0, :, 3]
    torch.testing.assert_close(resized, torch.tensor([0.0, 1.0, 3.0, 4.0]) + 10)


def test_three_members_meet_at_the_largest_grid():
    members = [Patches(2), Patches(4), Patches(4, has_cls=False)]
    joint = ConcatBackbone(members, names=["a", "b", "c"]).encode(small(), ["early+early+early"])["early+early+early"]
    assert joint.map.shape == (2, 4, 4, 9)
    assert torch.equal(joint.map[..., 3:6], joint.map[..., 6:])
    assert joint.cls is None
    pair = ConcatBackbone(members[:2], names=["a", "b"]).encode(small(), ["early+early"])["early+early"]
    assert pair.cls.shape == (2, 6)


def test_layers_are_paired_from_the_last():
    joint = ConcatBackbone(
        [Patches(2, layers=("proj", "b0", "b1", "post")), Patches(2, layers=("c0", "c1", "norm"))], names=["a", "b"]
    )
    assert joint.layers == ("b0+c0", "b1+c1", "post+norm")


def test_each_member_runs_once():
    members = [Patches(2), Patches(4)]
    ConcatBackbone(members, names=["a", "b"]).encode(small(), ["late+late", "early+early"])
    assert [member.calls for member in members] == [[["late", "early"]]] * 2


def test_each_member_sees_its_own_statistics():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    raw = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(4))
    joint = ConcatBackbone([Patches(32), Patches(32, mean=mean, std=std)], names=["a", "b"])
    assert (joint.card.mean, joint.card.std) == ((0.5,) * 3, (0.5,) * 3)
    seen = joint.encode((raw - 0.5) / 0.5, ["early+early"])["early+early"].map
    own = (raw - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(seen[..., 3:], own.permute(0, 2, 3, 1))


def test_the_card_speaks_for_all():
    backbone = make_subject(PAIR).backbone
    vit = make_subject("timm/test_vit").backbone
    assert backbone.card.source.startswith("timm/test_vit: timm, timm/test_vit.r160_in1k; timm/test_resnet: ")
    assert backbone.card.license == "apache-2.0"
    assert (backbone.card.input_size, backbone.card.mean, backbone.card.std) == (160, vit.card.mean, vit.card.std)


def test_the_hash_is_of_names_order_and_weights():
    a, b, c = Patches(2, digit="a"), Patches(2, digit="b"), Patches(2, digit="c")
    variants = [([a, b], "xy"), ([b, a], "xy"), ([a, b], "yx"), ([a, c], "xy"), ([a, b, c], "xyz")]
    hashes = {ConcatBackbone(members, names=list(names)).weights_hash for members, names in variants}
    assert len(hashes) == len(variants)
    assert ConcatBackbone([a, b], names=["x", "y"]).weights_hash in hashes


def test_all_members_move():
    members = [Patches(2), Patches(4)]
    joint = ConcatBackbone(members, names=["a", "b"])
    assert joint.to("cpu") is joint
    assert [member.device for member in members] == ["cpu", "cpu"]


def test_weights_for_each(tmp_path):
    vit, resnet = (make_subject(name).backbone for name in PAIR.split("+"))
    file = tmp_path / "resnet.pth"
    torch.save({name: value + 1 for name, value in resnet.network.state_dict().items()}, file)
    mixed = build_backbone(PAIR, weights=f"random+{file}")
    assert mixed.members[0].weights_hash == vit.weights_hash
    assert mixed.members[1].weights_hash != resnet.weights_hash
    with pytest.raises(
        WeightsError, match=r"'random\+random\+random' of timm/test_vit\+timm/test_resnet are 3 for 2 b"
    ):
        build_backbone(PAIR, weights="random+random+random")
    with pytest.raises(WeightsError, match=r"weights 'no/such\.pth' of timm/test_resnet are no file"):
        build_backbone(PAIR, weights="random+no/such.pth")


@pytest.mark.parametrize("name", ["clip-l14+dinov2-l41", "dinov2-l41+clip-l14"])
def test_an_unknown_member_is_named_before_anything_is_built(name, monkeypatch):
    monkeypatch.setattr("featcache.backbones.concat.build_backbone", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(UnknownNameError, match=r"unknown backbone 'dinov2-l41'; did you mean 'dinov2-l14'\?"):
        build_backbone(name, weights="random")


def test_members_that_cannot_stand_side_by_side():
    with pytest.raises(ConfigError, match=r"i3d in timm/test_vit\+i3d is a video backbone; \+ joins image backbones"):
        build_backbone("timm/test_vit+i3d", weights="random")
    sentence = "timm/test_vit takes 160 pixels a side and not the 224 of timm/tf_efficientnet_lite0; join backbones of"
    with pytest.raises(ConfigError, match=sentence):
        build_backbone("timm/tf_efficientnet_lite0+timm/test_vit", weights="random")
    joint = build_backbone("timm/test_vit+timm/tf_efficientnet_lite0", weights="random")  # takes any size
    assert joint.encode(PIXELS, ["norm+final"])["norm+final"].map.shape == (2, 10, 10, 64 + 1280)


def test_it_has_no_classifier():
    with pytest.raises(FeatcacheError, match="has no classifier; classify with one of its members"):
        make_subject(PAIR).backbone.classify(PIXELS)


@pytest.mark.slow
def test_clip_beside_mae_and_dinov2():
    """Grids of 14 and 16; class tokens all round."""
    joint = build_backbone("clip-b16+mae-b16+dinov2-b14", weights="random")
    pixels = torch.randn((1, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    last = joint.encode(pixels, [joint.layers[-1]])[joint.layers[-1]]
    assert joint.layers[-1] == "post+norm+norm"
    assert last.map.shape == (1, 16, 16, 3 * 768)
    assert last.cls.shape == (1, 3 * 768)
