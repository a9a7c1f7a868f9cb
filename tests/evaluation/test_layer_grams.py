import sys

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from featcache.backbones import build_backbone
from featcache.backbones.trainable import ClipEncoder, clip_feature
from featcache.errors import ConfigError
from featcache.evaluation.layer_grams import WatchedNetwork, groups_of_pairs
from featcache.evaluation.watched import LiveBytes, Watching
from featcache.seeding import rng_for
from featcache.training.generators import seeded_torch

CPU = torch.device("cpu")


class Small(nn.Module):
    """A network with what is hard to see: functions, changes in place, and what no clip has a part in."""

    def __init__(self) -> None:
        super().__init__()
        with seeded_torch(0, "cka"):
            self.conv = nn.Conv3d(3, 4, 3)
            self.norm = nn.BatchNorm3d(4, affine=False)
            self.place = nn.Linear(2, 4)
            self.head = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True))

    def forward(self, clips: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(clips.float().transpose(1, 2) / 64 - 2)), inplace=True)
        x = x + self.place(torch.ones(1, 2))[..., None, None, None]
        tokens = self.head(x.flatten(2).permute(2, 0, 1))  # clips come second
        y: Tensor = functional.relu(tokens - 0.1)
        return y


def watched(network: nn.Module, **given: object) -> WatchedNetwork:
    network.eval()
    return WatchedNetwork(network, network, clip=(4, 3, 6, 6), device=CPU, name="small", **{"kinds": "all", **given})  # type: ignore[arg-type]


def clips(num: int) -> Tensor:
    return torch.from_numpy(rng_for(1, "clips").integers(0, 256, (num, 4, 3, 6, 6), dtype=np.uint8))


def by_hand(network: Small, given: Tensor) -> list[Tensor]:
    """Every layer's activations, each computed from the one before it, [n, p]."""
    x = network.conv(given.float().transpose(1, 2) / 64 - 2)
    normed = network.norm(x)
    linear = network.head[0]((normed.relu() + network.place(torch.ones(1, 2))[..., None, None, None]).flatten(2).mT)
    outputs = [x, normed, normed.relu(), linear, linear.relu(), (linear.relu() - 0.1).relu()]
    return [each.flatten(1).double() for each in outputs]


@pytest.mark.parametrize("num_at_once", [2, 3, 7])
@torch.no_grad()
def test_grams_are_those_of_all_activations_however_few_clips_fit_at_once(num_at_once: int) -> None:
    network = Small()
    seen = watched(network)
    assert [layer.name for layer in seen.layers] == ["conv", "norm", "relu", "head.0", "head.1", "relu:2"]
    assert [layer.dim for layer in seen.layers] == [0, 0, 0, 1, 1, 1]
    given, done = clips(7), []
    grams = seen.grams(given, groups_of_pairs(7, num_at_once), on_pass=done.append)
    assert sum(done) > 7 or num_at_once == 7
    for gram, rows in zip(grams, by_hand(network, given), strict=True):
        np.testing.assert_allclose(gram, rows @ rows.T, atol=1e-6 * float(gram.max()))


def test_layers_of_one_kind() -> None:
    assert [layer.name for layer in watched(Small(), kinds="conv").layers] == ["conv", "head.0"]


def test_memory_says_how_many_clips_are_passed_at_once() -> None:
    seen = watched(Small())
    with pytest.raises(ConfigError, match=r"memory is 1\.0 kB and two clips of small take .* give memory=") as raised:
        seen.passes(8, memory=1000)
    least = int(str(raised.value).partition("memory=")[2].partition(" ")[0])
    for num_more, largest in ((0, 2), (1, 3), (3, 5), (99, 8)):
        assert max(map(len, seen.passes(8, memory=least + num_more * seen.clip_bytes))) == largest


@pytest.mark.skipif(sys.platform != "linux", reason="a call of glibc")
def test_layers_with_large_outputs_do_not_lie_beside_what_was_freed() -> None:
    shape = (4, 3, 256, 256)  # 8 MiB of each clip after the convolution
    seen = WatchedNetwork(
        lambda clips: conv(clips.float().transpose(1, 2)),
        conv := nn.Conv3d(3, 8, 1).eval(),
        clip=shape,
        device=CPU,
        kinds="all",
        name="large",
    )
    given = torch.zeros(2, *shape, dtype=torch.uint8)
    process = psutil.Process()
    blocks = [bytes(100_000) for _ in range(2000)]  # below what glibc maps on its own, so they lie in its heap
    kept = blocks[::100]  # and what is in use among them keeps the heap from shrinking
    del blocks
    before = process.memory_info().rss
    seen.grams(given, [(0, 1)], on_pass=lambda _: None)
    assert process.memory_info().rss < before - 100e6
    assert len(kept) == 20


def test_a_network_that_mixes_clips_is_refused() -> None:
    class Mixing(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            return functional.relu(clips.float().flatten(1) - clips.float().flatten(1).mean(0, keepdim=True) / 2)

    with pytest.raises(ConfigError, match="layer relu of small says something else of a clip beside another one"):
        watched(Mixing())


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer of small is seen"):
        watched(nn.Flatten())


@given(st.integers(2, 30), st.integers(2, 12))
def test_every_pair_is_in_a_group(num_items: int, size: int) -> None:
    groups = groups_of_pairs(num_items, size)
    met = {(one, other) for group in groups for one in group for other in group}
    assert met == {(one, other) for one in range(num_items) for other in range(num_items)}
    assert max(map(len, groups)) <= size


def test_few_passes_are_wasted() -> None:
    assert sum(map(len, groups_of_pairs(64, 8))) <= 1.25 * 64 * 9  # 9 for each: no arrangement has fewer


@pytest.mark.parametrize(
    ("name", "clip", "num_layers"),
    [("r21d-tiny", (16, 3, 112, 112), 69), ("svt-tiny", (2, 3, 112, 112), 47), ("timm/test_resnet", (2, 3, 96, 96), 0)],
)
def test_layers_of_backbones_are_seen(name: str, clip: tuple[int, ...], num_layers: int) -> None:
    backbone = build_backbone(name, weights="random")
    recipe = clip_feature(backbone, name, num_frames=clip[0], input_size=clip[-1])
    encoder = ClipEncoder(backbone, recipe, num_frames=clip[0], is_frozen=True)
    seen = WatchedNetwork(encoder.features, encoder.network, clip=clip, device=CPU, kinds="all", name=name)
    assert len({layer.name for layer in seen.layers}) == len(seen.layers) == (num_layers or len(seen.layers))
    if name == "r21d-tiny":
        kinds = [layer.kind for layer in seen.layers]
        assert [kinds.count(kind) for kind in ("convolution", "normalisation", "activation")] == [24, 24, 21]
        assert [layer.name for layer in seen.layers[:4]] == [
            "conv1.spatial_conv",
            "conv1.bn",
            "conv1.relu",
            "conv1.temporal_conv",
        ]


def test_convolutions_clip_by_clip_are_the_same() -> None:
    network = Small().eval()
    given = clips(3)
    with torch.no_grad(), Watching(network, lambda *_: None, num_clips=3):
        apart = network(given)
    torch.testing.assert_close(apart, network(given))


def test_live_bytes_are_those_of_tensors_that_are_held() -> None:
    start = torch.zeros(1000)
    with LiveBytes([start]) as live:
        held = start + 1
        for _ in range(3):
            held = held * 2
        view = held[:10]
    assert (live.peak, live.largest) == (8000, 8000)
    assert len(view) == 10
