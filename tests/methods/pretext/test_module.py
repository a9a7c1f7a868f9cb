"""What the module of a task keeps beside its network: queues of keys, a key network that follows, the last map."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from featcache.backbones.trainable import has_unused
from featcache.config import parse
from featcache.errors import ConfigError
from featcache.methods.pretext.info_nce import info_nce
from featcache.methods.pretext.queue import KeyQueue
from featcache.methods.pretext.rotnet import RotNet
from featcache.methods.pretext.run import build_module
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.pretext.task import Follow
from featcache.testing import pretext as suite
from featcache.training.shared_norm import SharedBatchNorm, share_batch_norms
from featcache.training.world import ALONE, World


class Keyed(RotNet):
    """Rotations, and a key network beside."""

    @property
    def follows(self):
        return Follow(momentum=0.75)

    @property
    def queues(self):
        return {"earlier": (8, 4)}


def test_a_queue_goes_on_at_its_beginning():
    queue = KeyQueue(8, 1)
    assert queue.keys.abs().tolist() == [[1.0]] * 8, "random keys of unit length at first"
    for push in range(3):
        queue.push(torch.arange(5.0)[:, None] + 10 * push)
    assert queue.keys[:, 0].tolist() == [13, 14, 20, 21, 22, 23, 24, 12]
    assert int(queue.place) == 15 % 8


def test_of_more_keys_than_fit_the_last_ones_stay():
    queue = KeyQueue(4, 1)
    queue.push(torch.arange(11.0)[:, None])
    assert [float(queue.keys[number % 4, 0]) for number in range(7, 11)] == [7, 8, 9, 10]
    assert int(queue.place) == 11 % 4


def test_a_queue_may_move_on_before_the_backward_pass():
    queue = KeyQueue(4, 2)
    queries = torch.randn(3, 2, requires_grad=True)
    loss = info_nce(queries, torch.randn(3, 2), queue.negatives(), temperature=0.1)
    queue.push(torch.randn(3, 2))
    loss.total.backward()
    assert queries.grad is not None


def test_the_logits_of_a_query_are_its_key_the_queue_and_its_own_negative():
    queries = functional.normalize(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), dim=1)
    keys, own = torch.tensor([[0.6, 0.8], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    negatives = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [0.8, 0.6]])
    found = info_nce(queries, keys, negatives, temperature=0.07, own_negatives=own)
    logits = torch.tensor([[0.6, -1.0, 0.0, 0.8, 0.0], [0.8, -0.6, -0.8, 0.96, 0.6]]) / 0.07
    expected = -(logits[:, 0] - logits.exp().sum(dim=1).log()).mean()
    assert float(found.total) == pytest.approx(float(expected), rel=1e-5)
    assert float(found.metrics["accuracy"]) == 0.0


def test_a_key_network_follows_by_its_momentum():
    module = suite.module_of(Keyed())
    start = [each.clone() for each in module.network.parameters()]
    assert all(torch.equal(*pair) for pair in zip(start, module.follower.network.parameters(), strict=True))
    with torch.no_grad():
        for step in (1.0, 3.0):
            for each in (*module.network.parameters(), *module.heads.parameters()):
                each += step
            module.follow(0.75)
    moved = 0.75 * (0.25 * 1.0) + 0.25 * 4.0
    for before, now in zip(start, module.follower.network.parameters(), strict=True):
        assert torch.allclose(now, before + moved, atol=1e-5)
    trained = module.heads["turns"].bias
    assert torch.allclose(module.follower.heads["turns"].bias, trained - 4.0 + moved, atol=1e-5)


def test_keys_pass_in_parts_and_come_back_in_order():
    module = suite.module_of(Keyed())
    clips, _ = suite.batch_of(RotNet(), size=6)
    module.eval()
    whole = module.keys(clips[0], splits=1)["turns"]
    assert torch.allclose(module.keys(clips[0], splits=3)["turns"], whole, atol=1e-5)
    module.train()
    assert not torch.allclose(module.keys(clips[0], splits=3)["turns"], whole, atol=1e-3), "BatchNorm sees parts"
    own = torch.cat([module.keys(clips[0][part::3], splits=1)["turns"] for part in range(3)])
    assert torch.allclose(module.keys(clips[0], splits=3)["turns"], own[[0, 2, 4, 1, 3, 5]], atol=1e-6)
    assert not module.keys(clips[0], splits=9)["turns"].requires_grad


@pytest.mark.parametrize(("size", "parts"), [(1, [1]), (3, [3]), (5, [3, 2]), (8, [2, 2, 2, 2])])
def test_each_part_has_two_clips_for_a_batch_norm(monkeypatch, size, parts):
    module = suite.module_of(Keyed())
    passed = []

    def features(clips):
        passed.append(len(clips))
        return torch.zeros(len(clips), module.width)

    monkeypatch.setattr(module.follower, "features", features)
    assert len(module.keys(torch.zeros(size, 8, 3, 32, 32, dtype=torch.uint8), splits=4)["turns"]) == size
    assert passed == parts


@pytest.mark.parametrize("splits", [1, 2, 4, 9])
def test_parts_are_those_of_the_whole_batch_whatever_the_number_of_processes(monkeypatch, splits):
    def parts(world, clips):
        """The clips of each part, and the keys."""
        module = suite.module_of(Keyed())
        passed = []

        def features(clips):
            counts = all(part.counts for part in module.follower.modules() if isinstance(part, SharedBatchNorm))
            passed.append(set(clips[:, 0, 0, 0, 0].tolist()) if counts else set())
            return clips[:, 0, 0, 0, :1].float().expand(-1, module.width)

        share_batch_norms(module.follower, world)
        monkeypatch.setattr(module, "world", world)
        monkeypatch.setattr(module.follower, "features", features)
        return passed, module.keys(clips, splits=splits)["turns"]

    clips = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1, 1).expand(6, 8, 3, 32, 32)
    alone, keys = parts(ALONE, clips)
    (ones, first), (others, second) = (parts(World(rank=rank, size=2), clips[3 * rank :][:3]) for rank in range(2))
    assert sorted(clip for part in alone for clip in part) == list(range(6))
    assert [one | other for one, other in zip(ones, others, strict=True)] == alone
    assert torch.allclose(torch.cat([first, second]), keys)


def test_nothing_of_a_key_network_is_random_but_its_norms_learn():
    module = suite.module_of(Keyed())
    kinds = {type(part): part.training for part in module.follower.modules()}
    assert kinds[nn.BatchNorm3d]
    assert not kinds[nn.Conv3d]
    module.eval()
    assert not any(part.training for part in module.follower.modules())


def test_queue_and_key_network_are_in_the_checkpoint():
    state = suite.module_of(Keyed()).state_dict()
    assert state["queues.earlier.keys"].shape == (8, 4)
    assert state["queues.earlier.place"] == 0
    assert any(name.startswith("follower.network.") for name in state)
    assert not any(name.startswith("follower.") and "queue" in name for name in state)


@pytest.mark.parametrize(("backbone", "frames", "shape"), [("r21d-tiny", 8, (2, 64, 1, 2, 2)), ("svt-tiny", 2, None)])
def test_maps_are_those_whose_vectors_heads_read(backbone, frames, shape):
    given = {"source": "unused", "task": {"name": "rotnet"}, "backbone": backbone}
    module = build_module(parse(PretextSettings, {**given, "num_frames": frames, "input_size": 32}), seed=0).eval()
    clips = torch.randint(256, (2, frames, 3, 32, 32), dtype=torch.uint8)
    maps = module.maps(clips)
    assert maps.shape[:2] == (2, module.map_channels())
    if shape is not None:
        assert maps.shape == shape
        assert torch.allclose(maps.mean(dim=(2, 3, 4)), module.features(clips), atol=1e-6)
    assert maps.requires_grad


def test_a_task_that_reads_maps_leaves_a_layer_behind_them_out():
    given = {"source": "unused", "backbone": "shufflenet3d-tiny", "num_frames": 16, "input_size": 64}
    module = build_module(parse(PretextSettings, {**given, "task": {"name": "videomae"}}), seed=0)
    assert has_unused(module, reads_map=True)
    assert not has_unused(module)
    assert not has_unused(suite.module_of(RotNet()), reads_map=True)
    assert module.training


def test_a_backbone_without_gradients_is_refused_for_maps_too(monkeypatch):
    module = suite.module_of(RotNet())
    encode = module._backbone.encode
    monkeypatch.setattr(module._backbone, "encode", torch.no_grad()(encode), raising=False)
    with pytest.raises(ConfigError, match="no gradient reaches the network of 'r21d-tiny'"):
        module.maps(torch.zeros(1, 8, 3, 32, 32, dtype=torch.uint8))
