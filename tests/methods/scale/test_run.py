"""A whole pre-training: from a store, killed and resumed, loaded again, refused."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load
from featcache.commands.run import carry_out
from featcache.config import parse, to_yaml
from featcache.errors import ConfigError, RecipeMismatchError
from featcache.loaders.clip_sets import with_coordinates
from featcache.methods.scale.run import build_module, pretrain_scale
from featcache.methods.scale.saved import load_predictor
from featcache.methods.scale.settings import ScaleSettings
from featcache.testing.stores import StorePlan, make_record, write_store
from featcache.training.checkpoint import read_checkpoint
from featcache.training.logs import read_log

from .helpers import located_sets


def settings_for(folder, **changes):
    data = {
        "sets": {"store": "none"},
        "clips_per_set": 4,
        "predictor": {"width": 32, "depth": 1, "position_hidden": 16},
        "heads": {"width": 16, "target_hidden": 32, "hidden": 32},
        "training": {
            "epochs": 6,
            "batch_size": 8,
            "optimiser": {"lr": 3e-3},
            "tensorboard": False,
            "threads": 1,
            "device": "cpu",
        },
        "out": str(folder),
    }
    for name, value in changes.items():
        data[name] = {**data[name], **value} if isinstance(data.get(name), dict) else value
    return parse(ScaleSettings, data)


def tensors_of(folder):
    return dict(read_checkpoint(folder).tensors)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("counts", [None, [16, 5, 9, 2, 1, 16, 16, 7, 16, 16, 3, 16]])
def test_killed_and_resumed_equals_straight_bit_for_bit(tmp_path, counts):
    sets = located_sets(12, counts=counts)
    training = {"checkpoint_seconds": 0.0, "batch_size": 5}  # two batches an epoch
    pretrain_scale(settings_for(tmp_path / "straight", training=training), sets=sets)

    def kill(stage, done, total, note="", num_failed=0):
        if round(done * 2) == 5:  # in the middle of an epoch
            raise KilledError

    settings = settings_for(tmp_path / "killed", training=training)
    with pytest.raises(KilledError):
        pretrain_scale(settings, sets=sets, on_stage=kill)
    assert read_checkpoint(tmp_path / "killed/seed-0").step == 4
    pretrain_scale(settings, sets=sets)
    straight, resumed = tensors_of(tmp_path / "straight/seed-0"), tensors_of(tmp_path / "killed/seed-0")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_learns_which_clip_is_hidden_from_where_it_is(tmp_path):
    sets = located_sets(32)
    training = {"epochs": 60, "batch_size": 32, "optimiser": {"lr": 1e-2}}
    result = pretrain_scale(settings_for(tmp_path, training=training), sets=sets)
    first, last = read_log(tmp_path / "seed-0")[0], result.seeds[0]
    assert first["mcm"] == pytest.approx(5.6, abs=1.0)  # a guess among 256 clips: log 256
    assert last["mcm"] < first["mcm"] - 1
    assert last["set_accuracy"] > 0.9
    assert result.num_videos == 32


def test_a_run_is_loaded_as_it_was(tmp_path):
    settings = settings_for(tmp_path, training={"epochs": 1, "seeds": [0, 3]})
    result = pretrain_scale(settings, sets=located_sets(8))
    document = json.loads((tmp_path / "result.json").read_bytes())
    assert document["seeds"].keys() == {"0", "3"}
    saved = load_predictor(tmp_path, seed=3)
    assert saved.settings == settings.predictor
    assert saved.width_in == 12
    assert not saved.predictor.training
    state = read_checkpoint(tmp_path / "seed-3").part("module.predictor")
    assert all(torch.equal(value, state[name]) for name, value in saved.predictor.state_dict().items())
    assert load_predictor(tmp_path / "seed-0").identity != saved.identity
    assert sum(value.numel() for value in state.values()) == result.num_parameters
    heads = 12 * 32 + 32 * 32 + 32 * 16 + 2 * (32 * 32 + 32 * 16)
    assert result.num_head_parameters == heads
    with pytest.raises(ConfigError, match="seeds 0, 3"):
        load_predictor(tmp_path)
    with pytest.raises(ConfigError, match="holds no trained run"):
        load_predictor(tmp_path / "elsewhere")


def test_seeds_begin_differently_and_shapes_are_the_settings(tmp_path):
    settings = settings_for(tmp_path)
    one, same, other = (build_module(settings, width_in=12, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["predictor.project.weight"], other["predictor.project.weight"])


def test_half_precision_learns_alike(tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = settings_for(tmp_path / precision, training={"epochs": 3, "precision": precision})
        losses[precision] = pretrain_scale(settings, sets=located_sets(8)).seeds[0]["loss"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]
    state = load_predictor(tmp_path / "bfloat16").predictor.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("what", [True, "objective"])
def test_compiled_equals_eager(tmp_path, what):
    shape = {"predictor": {"dropout": 0.0}, "training": {"epochs": 2}}
    eager = pretrain_scale(settings_for(tmp_path / "eager", **shape), sets=located_sets(8))
    compiled = pretrain_scale(settings_for(tmp_path / "compiled", compile=what, **shape), sets=located_sets(8))
    assert compiled.seeds[0]["loss"] == pytest.approx(eager.seeds[0]["loss"], rel=1e-4)
    assert load_predictor(tmp_path / "compiled").settings == load_predictor(tmp_path / "eager").settings


def test_released_heads_have_their_published_size():
    settings = parse(ScaleSettings, {"sets": {"store": "none"}})
    sizes = {}
    for width in (768, 2048):
        with torch.device("meta"):
            module = build_module(settings, width_in=width, seed=0)
        sizes[width] = sum(parameter.numel() for parameter in module.parameters()) - sum(
            parameter.numel() for parameter in module.predictor.parameters()
        )
    assert sizes == {768: 9_175_040, 2048: 11_796_480}  # 9.2 to 11.8 M


def test_another_run_in_the_folder_is_refused(tmp_path):
    pretrain_scale(settings_for(tmp_path, training={"epochs": 1}), sets=located_sets(8))
    with pytest.raises(RecipeMismatchError):
        pretrain_scale(settings_for(tmp_path, training={"epochs": 1}, coordinates="zero"), sets=located_sets(8))
    others = dataclasses.replace(located_sets(8), identity="others")
    with pytest.raises(RecipeMismatchError):
        pretrain_scale(settings_for(tmp_path, training={"epochs": 1}), sets=others)


def test_coordinates_may_be_shuffled_within_videos_or_left_out():
    sets = located_sets(4, counts=[16, 3, 8, 5])
    shuffled = with_coordinates(sets, "shuffled")
    assert not torch.equal(shuffled.positions, sets.positions)
    for first, stop in zip(sets.video_start[:-1], sets.video_start[1:], strict=True):
        mine, before = (each.positions[first:stop].tolist() for each in (shuffled, sets))
        assert sorted(mine) == sorted(before)
    assert not with_coordinates(sets, "zero").positions.any()
    assert with_coordinates(sets, "true") is sets


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    write_store(path, StorePlan(records={"clips": make_record((12,))}, rows_per_video=(8,), num_videos=9))
    return path


def test_the_command_trains_on_a_store_and_is_repeated_by_its_file(tmp_path, store):
    sets = ["clips_per_set=4", "predictor.width=32", "heads.hidden=16", "heads.target_hidden=16"]
    sets += ["training.tensorboard=false", "training.threads=1"]
    words = ["train", "scale", str(store), "--epochs", "2", "--seed", "5", "--device", "cpu", "--json"]
    words += ["--out", str(tmp_path / "run"), *(word for each in sets for word in ("--set", each))]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    assert document["num_videos"] == 6
    settings = load(tmp_path / "run/config.yaml")
    assert isinstance(settings, ScaleSettings)
    assert settings.training.optimiser.lr == 3e-4
    assert settings.training.schedule.warmup_fraction == 0.05
    assert settings.sets.store == str(store)
    assert parse(ScaleSettings, load(tmp_path / "run/config.yaml").model_dump()) == settings
    assert to_yaml(settings).startswith("command: train-scale")
    list(carry_out(settings))  # takes up what is there: nothing is left to do
    assert read_checkpoint(tmp_path / "run/seed-5").step == 2


def test_too_few_clips_are_a_sentence(tmp_path):
    path = tmp_path / "store"
    write_store(path, StorePlan(records={"clips": make_record((12,))}, rows_per_video=(1,), num_videos=6))
    with pytest.raises(ConfigError, match="0 of 4 training videos have two clips or more"):
        pretrain_scale(settings_for(tmp_path / "run", sets={"store": str(path)}))
    assert not (tmp_path / "run").exists()
