"""rho-BYOL's Slow R50: the published layout with its heads, queues and two branches, and files that do not fit."""

import pytest
import torch
from safetensors.torch import save_file

from featcache.backbones import build_backbone
from featcache.backbones.rho_byol import CARD
from featcache.backbones.weights import state_hash
from featcache.errors import FeatcacheError, WeightsError
from featcache.networks.slow_r50 import SlowR50, SlowR50Config

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def make(width=4, seed=0):
    """A network whose batch norms are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SlowR50(SlowR50Config(width=width)).eval()
        for tensor in network.state_dict().values():
            if tensor.ndim == 1:
                tensor += 0.1 * torch.rand_like(tensor)
    return network


def published(online, momentum):
    """A contrastive model of PySlowFast: two networks with old and new heads, a queue, a memory and counters."""
    state = {}
    for prefix, network in (("backbone.", online), ("backbone_hist.", momentum)):
        state |= {prefix + name: tensor for name, tensor in network.state_dict().items()}
        for head in ("head.ssl_128_projection.0", "head.projection.2", "head.predictors.0.0", "ssl_128.0"):
            state |= {f"{prefix}{head}.weight": torch.ones(3, 2), f"{prefix}{head}.bias": torch.ones(3)}
    buffers = {"ptr": torch.tensor([0]), "iter": torch.tensor([7]), "queue_x": torch.ones(6, 2)}
    return state | buffers | {"knn_mem.memory": torch.ones(5, 1, 2)}


def save(state, file):
    torch.save({"epoch": 199, "model_state": state, "optimizer_state": {"state": {}}, "cfg": "MODEL: ..."}, file)


@pytest.fixture
def narrow(monkeypatch):
    """The backbone over a network of width 4, so that a file is small; names do not depend on it."""
    monkeypatch.setattr("featcache.networks.slow_r50.SlowR50", make)


def pixels(num_frames=3, side=40):
    return torch.randn((2, num_frames, 3, side, side), generator=torch.Generator().manual_seed(0))


def assert_is(backbone, network, clip):
    assert backbone.weights_hash == state_hash(network)
    got = backbone.encode(clip, backbone.layers)
    with torch.inference_mode():
        want = network.forward_stages(clip, network.stages)
        pooled = network(clip)
    assert tuple(got) == ("s2", "s3", "s4", "s5")
    assert pooled.isfinite().all()
    for layer, output in got.items():
        assert torch.equal(output.map, want[layer])
        assert output.cls is None
    assert torch.equal(got["s5"].map.mean(dim=(1, 2, 3)), pooled)


def test_the_network_has_the_published_names():
    names = {"s1.pathway0_stem.conv.weight"} | {f"s1.pathway0_stem.bn.{kind}" for kind in BN}
    for stage, depth in zip(("s2", "s3", "s4", "s5"), (3, 4, 6, 3), strict=True):
        for block in range(depth):
            name = f"{stage}.pathway0_res{block}"
            parts = ["branch2.a", "branch2.b", "branch2.c", *(["branch1"] if block == 0 else [])]
            for part in parts:
                names |= {f"{name}.{part}.weight"} | {f"{name}.{part}_bn.{kind}" for kind in BN}
    with torch.device("meta"):
        state = SlowR50().state_dict()
    assert set(state) == names
    assert state["s1.pathway0_stem.conv.weight"].shape == (64, 3, 1, 7, 7)
    assert state["s3.pathway0_res0.branch2.a.weight"].shape == (128, 256, 1, 1, 1)
    assert state["s5.pathway0_res2.branch2.a.weight"].shape == (512, 2048, 3, 1, 1)
    assert state["s4.pathway0_res0.branch1.weight"].shape == (1024, 512, 1, 1, 1)


def test_the_published_layout(tmp_path, narrow):
    online, momentum, file = make(seed=1), make(seed=2), tmp_path / CARD.file_name
    state = published(online, momentum)
    save(state, file)
    backbone = build_backbone("rho-byol-r50", weights=str(file))
    assert_is(backbone, momentum, pixels())
    assert set(backbone.keys.taken) == set(momentum.state_dict())
    heads = {name for name in state if name.startswith("backbone_hist.") and ("head." in name or "ssl_128" in name)}
    others = {name for name in state if not name.startswith("backbone_hist.")}
    assert set(backbone.keys.dropped) == heads | others
    assert len(backbone.keys.taken) + len(backbone.keys.dropped) == len(state)
    assert str(backbone.keys).startswith(f"{len(momentum.state_dict())} tensors taken from weights file {file} of rho")


def test_a_network_of_our_own(tmp_path, narrow):
    network, file = make(seed=3), tmp_path / "r3d50.safetensors"
    save_file(network.state_dict(), file)
    backbone = build_backbone("rho-byol-r50", weights=str(file))
    assert_is(backbone, network, pixels())
    assert backbone.keys.dropped == ()


def test_default_finds_the_published_name_in_the_folder(tmp_path, monkeypatch, narrow):
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"put BYOL_SlowR50_16x4_T4_epoch_00200\.pyth \(PySlowFast"):
        build_backbone("rho-byol-r50")
    network = make(seed=3)
    save(published(make(), network), tmp_path / CARD.file_name)
    assert build_backbone("rho-byol-r50").weights_hash == state_hash(network)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "backbone_hist.s4.pathway0_res5.branch2.c.weight"},
            r"1 missing \(s4.pathway0_res5.branch2.c.weight\)",
        ),
        (lambda s: s | {"backbone_hist.s6.weight": torch.ones(1)}, r"1 unexpected \(s6.weight\)"),
        (lambda s: s | {"swav_prototypes.weight": torch.ones(1)}, r"1 unexpected \(swav_prototypes.weight\)"),
        (
            lambda s: s | {"backbone_hist.s1.pathway0_stem.conv.weight": torch.ones(4, 3, 5, 7, 7)},
            r"1 of another shape \(s1.pathway0_stem.conv.weight",
        ),
        # A method without a momentum branch: its online network is not what this backbone promises.
        (lambda s: {k: v for k, v in s.items() if "_hist" not in k}, r"265 missing .*unexpected \(backbone\.s1"),
    ],
)
def test_another_network_is_refused(tmp_path, narrow, change, words):
    file = tmp_path / "w.pyth"
    save(change(published(make(), make())), file)
    with pytest.raises(WeightsError, match=rf"w\.pyth of rho-byol-r50 does not fit the network: .*{words}"):
        build_backbone("rho-byol-r50", weights=str(file))


def test_a_file_of_something_else(tmp_path, narrow):
    file = tmp_path / "w.pyth"
    torch.save({"epoch": 3, "weights": {}}, file)
    with pytest.raises(WeightsError, match="holds no state dict, neither itself nor under model_state"):
        build_backbone("rho-byol-r50", weights=str(file))


def test_there_is_no_classifier(narrow):
    with pytest.raises(FeatcacheError, match="rho-byol-r50 has no classifier"):
        build_backbone("rho-byol-r50", weights="random").classify(pixels())


@pytest.mark.slow
def test_the_published_file_at_its_size(tmp_path):
    momentum, file = make(width=64, seed=2), tmp_path / CARD.file_name
    save(published(make(width=64), momentum), file)
    backbone = build_backbone("rho-byol-r50", weights=str(file))
    assert_is(backbone, momentum, pixels(num_frames=4, side=64))
