"""Every task whole, on encoded videos: killed and resumed, in two processes, and its network as a backbone."""

import pytest
import torch

from featcache.backbones import build_backbone
from featcache.loaders.views import ClipShape
from featcache.methods.pretext.prp import Prp
from featcache.methods.pretext.run import build_module, plan_pretext, pretrain
from featcache.methods.pretext.task import TASKS
from featcache.networks.counting import count_macs, count_parameters
from featcache.training.logs import read_steps
from featcache.training.loop import trained_state
from tests.methods.pretext.tasks import NUM_FRAMES, SMALL, brief, main, settings, write_videos
from tests.training.processes import together

EVERY = [name if name == "rspnet" else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tasks")
    write_videos(made)
    return made


@pytest.fixture(scope="module")
def one(folder):
    """One run of a task in one process, trained when it is asked for."""
    results = {}

    def run(task):
        if task not in results:
            results[task] = pretrain(settings(folder, task, "one"))
        return results[task]

    return run


@pytest.mark.parametrize("task", EVERY)
def test_a_killed_run_goes_on_with_the_same_bits(folder, one, task):
    def kill(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done > 1.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(settings(folder, task, "killed"), on_stage=kill)
    assert trained_state(folder / f"{task}-killed" / "seed-0").step == 1
    pretrain(settings(folder, task, "killed"))
    one(task)
    states = [trained_state(folder / f"{task}-{name}" / "seed-0") for name in ("one", "killed")]
    assert states[0].step == states[1].step == 3
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert all(torch.equal(tensor, states[1].tensors[name]) for name, tensor in states[0].tensors.items())


@pytest.mark.parametrize("task", EVERY)
def test_its_network_is_a_backbone_that_has_learnt(folder, one, task):
    result = one(task)
    network = build_backbone("r21d-tiny", weights=result.weights[0]).network.state_dict()
    start = build_module(settings(folder, task, "one"), seed=0).network.state_dict()
    state = trained_state(folder / f"{task}-one" / "seed-0").part("module.network")
    assert network.keys() == state.keys()
    assert all(torch.equal(network[name], tensor) for name, tensor in state.items())
    assert not any(torch.equal(network[name], start[name]) for name in start if name.endswith("conv.weight"))
    assert result.chance == TASKS.load(task)(**SMALL[task]).chance
    least = settings(folder, task, "one").task.min_frames(ClipShape(8, 32))
    assert result.num_short == sum(num_frames < least for num_frames in NUM_FRAMES)


def test_a_dry_run_counts_clips_of_the_networks_alone(folder):
    found = {task: plan_pretext(settings(folder, task, "plan")).num_clips for task in ("cvrl", "rspnet", "vcop")}
    assert found == {"cvrl": 2, "rspnet": 3, "vcop": 3}
    prp = settings(folder, "prp", "plan").model_copy(update={"task": Prp(complexity="c1")})
    assert plan_pretext(prp).num_clips == 1, "frames that tell motion are as many as those of the clip"


def test_a_dry_run_counts_heads_that_read_maps_and_what_has_no_gradient(folder):
    plans = {task: plan_pretext(settings(folder, task, "plan")) for task in ("prp", "rspnet")}
    module = build_module(settings(folder, "prp", "plan"), seed=0).eval()
    maps = torch.zeros(1, module.map_channels(), 1, 2, 2)
    heads = sum(count_macs(module.heads[name], maps) for name in ("rate", "pixels"))
    assert heads > module.macs, "a decoder that is larger than a thin network"
    cost = plans["prp"].forecast.cost
    assert (cost.trained_macs, cost.frozen_macs, plans["prp"].head_macs) == (module.macs + heads, 0, heads)
    assert plans["prp"].num_head_parameters == count_parameters(module.heads)
    assert f"{count_parameters(module.heads):,} parameters" in plans["prp"].summary().facts["heads"]
    vector, cost = 2 * module.width * 128, plans["rspnet"].forecast.cost  # of both heads
    assert cost.frozen_macs == 2 * (module.macs + vector)
    assert cost.trained_macs == module.macs + vector + 2 * 6 * 128, "both keys are compared with the queue"
    assert plans["rspnet"].head_macs == 3 * vector + 2 * 6 * 128


@pytest.mark.slow
def test_two_processes_train_every_task_as_one(folder):
    together(main, folder)
    for task in SMALL:
        pretrain(brief(folder, task, "alone"))
        lines = [read_steps(folder / f"{task}-{name}" / "seed-0") for name in ("alone", "two")]
        assert len(lines[0]) == len(lines[1]) == (1 if task == "cvrl" else 3)
        for mine, theirs in zip(*lines, strict=True):
            for name in mine.keys() - {"items_per_second", "wait_share", "peak_memory_bytes"}:
                assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-5), f"{name} of {task}"
        states = [trained_state(folder / f"{task}-{name}" / "seed-0").tensors for name in ("alone", "two")]
        assert states[0].keys() == states[1].keys()
        for name, tensor in states[0].items():
            difference = (states[1][name].double() - tensor.double()).norm()
            allowed = 0.05 if task == "cvrl" or name.startswith("optimiser") else 1e-3
            assert float(difference) < allowed * (float(tensor.double().norm()) + 1e-3), f"{name} of {task}"
