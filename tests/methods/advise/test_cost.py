"""Costs: counts are those of the networks, and a measured step is the step that is named."""

import json

import pytest
import torch

from featcache.config import parse
from featcache.errors import ConfigError
from featcache.methods.advise import cost
from featcache.methods.advise.cost import FrozenMaps, measure_cost
from featcache.methods.advise.settings import AdviseCostSettings
from featcache.networks.r3d50 import R3d50
from featcache.networks.settings import PRESETS
from featcache.networks.tmm import TmmClassifier

VIT = "timm/test_vit"
MEASURED = {"seconds", "seconds_least", "seconds_most", "peak_memory_gigabytes"}


def settings(tmp_path, **changes):
    given = {"device": "cpu", "threads": 1, "out": str(tmp_path / "cost"), **changes}
    return parse(AdviseCostSettings, given)


def small(tmp_path, **changes):
    tmm = {"hidden": 4, "out": 8, "head_hidden": 8}
    clips = {"num_frames": 4, "num_clips": 2}
    return settings(tmp_path, tmm=tmm, clips=clips, batch_size=2, num_steps=1, size=160, **changes)


def test_counting_takes_no_step_and_gives_the_printed_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "_step", lambda *_, **__: pytest.fail("a step was made"))
    module = {"hidden": 2048, "out": 1024, "num_blocks": 1}
    result = measure_cost(settings(tmp_path, tmm=module, grid=3))
    assert result.cost["gigamacs"] == pytest.approx(3.04, abs=0.01)
    assert not MEASURED & set(result.cost)
    assert json.loads((tmp_path / "cost" / "result.json").read_text())["cost"] == result.cost
    assert (tmp_path / "cost" / "config.yaml").exists()
    r3d50 = measure_cost(settings(tmp_path, network="r3d50")).cost
    assert 3 * r3d50["gigamacs"] == pytest.approx(125.3, rel=0.01)
    assert r3d50["megaparameters"] == pytest.approx(31.63 + 2048 * 4096e-6 + 0.02, abs=0.02)


@pytest.mark.parametrize("is_sequential", [True, False])
def test_the_image_model_encodes_every_clip_of_a_step_and_the_module_learns(tmp_path, monkeypatch, is_sequential):
    passes, trained = [], []
    encode, build = FrozenMaps.forward, cost.build_optimiser

    def watched(self, clips):
        maps = encode(self, clips)
        assert not maps.requires_grad
        passes.append((tuple(clips.shape), tuple(maps.shape)))
        return maps

    def kept(module, *rest, **named):
        trained.append((module, [parameter.clone() for parameter in module.parameters()]))
        return build(module, *rest, **named)

    monkeypatch.setattr(FrozenMaps, "forward", watched)
    monkeypatch.setattr(cost, "build_optimiser", kept)
    chosen = small(tmp_path, backbone=VIT, grid=1)
    chosen = chosen.model_copy(update={"clips": chosen.clips.model_copy(update={"sequential": is_sequential})})
    stages = []
    result = measure_cost(chosen, on_stage=lambda *stage, **_: stages.append(stage[:3]))
    batch, num_passes = (2, 2) if is_sequential else (4, 1)
    assert passes == [((batch, 4, 3, 160, 160), (batch, 4, 1, 1, 64))] * num_passes * 2  # one step is not counted
    assert stages == [("steps", 1, 1)]
    ((module, before),) = trained
    assert isinstance(module, TmmClassifier)
    assert all(not torch.equal(*pair) for pair in zip(before, module.parameters(), strict=True))
    assert set(result.cost) >= MEASURED
    assert 0 < result.cost["seconds_least"] <= result.cost["seconds"] <= result.cost["seconds_most"]
    assert result.cost["peak_memory_gigabytes"] is None
    assert result.cost["frozen_gigamacs"] == FrozenMaps(chosen, device="cpu").counts["frozen_gigamacs"] > 0
    assert result.summary().facts["peak_memory_gigabytes"] == "not measured"


def test_the_baseline_is_trained_whole(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(cost, "R3d50", lambda **named: built.append(R3d50(width=4, **named)) or built[-1])
    result = measure_cost(small(tmp_path, network="r3d50"))
    assert result.cost["seconds"] > 0
    assert result.cost["frozen_gigamacs"] == 0
    network = built[-1]
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_an_image_model_alone_is_only_run(tmp_path):
    result = measure_cost(small(tmp_path, network="backbone", backbone=VIT, compute="bfloat16"))
    assert (result.cost["megaparameters"], result.cost["gigamacs"]) == (0, 0)
    assert result.cost["frozen_gigamacs"] > 0
    assert set(result.cost) >= MEASURED


def test_maps_of_a_step_are_near_those_in_half_precision(tmp_path):
    clips = torch.randint(0, 256, (1, 2, 3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole, half = (
        FrozenMaps(small(tmp_path, backbone=VIT, compute=compute), device="cpu")(clips)
        for compute in ("float32", "bfloat16")
    )
    assert whole.dtype == half.dtype == torch.float32
    assert 0 < (whole - half).abs().max() < 0.1 * whole.abs().max()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"network": "backbone"}, "backbone is null; name one"),
        ({"network": "r3d50", "backbone": VIT}, "reads pixels"),
        ({"network": "i3d"}, "network"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse(AdviseCostSettings, given)


def test_the_default_is_the_released_module():
    assert AdviseCostSettings().tmm == PRESETS["release"]
