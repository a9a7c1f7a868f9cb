"""A pretext task whole: a killed run, a network that extracts, and what is refused."""

import dataclasses
import json

import pytest
import torch
import yaml
from typer.testing import CliRunner

from featcache.backbones import build_backbone
from featcache.cli.main import app
from featcache.config import parse, to_yaml
from featcache.errors import ConfigError, FeatcacheError, ManifestError, UnknownNameError
from featcache.loaders.ahead import Batch, ViewLoader
from featcache.loaders.usable import list_videos, open_usable
from featcache.loaders.views import ClipShape, read_views
from featcache.methods.pretext.objective import DrawnViews
from featcache.methods.pretext.rotnet import RotNet
from featcache.methods.pretext.run import build_module, plan_pretext, pretrain
from featcache.methods.pretext.settings import PretextSettings
from featcache.testing.videos import write_video
from featcache.training.loop import trained_state
from tests.training.kept_files import check_kept

NUM_FRAMES = (24, 20, 28, 22, 3)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, num_frames in enumerate(NUM_FRAMES):
        write_video(folder / f"{number}.mp4", num_frames=num_frames)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def settings(videos, out, **changes):
    training = {"epochs": 2, "batch_size": 2, "device": "cpu", "threads": 1, "tensorboard": False}
    given = {
        "source": str(videos),
        "task": {"name": "rotnet"},
        "backbone": "svt-tiny",
        "num_frames": 2,
        "input_size": 32,
        "workers": 0,
        "training": {**training, "checkpoint_seconds": 0.0, "keep_epochs": (1, 2)},
        "out": str(out),
    }
    return parse(PretextSettings, {**given, **changes})


@pytest.fixture(scope="module")
def straight(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, pretrain(settings(videos, folder, task={"name": "rotnet", "stride": 3}))


def test_a_run_says_what_it_saw(straight):
    folder, result = straight
    assert (result.task, result.backbone) == ("rotnet", "svt-tiny")
    assert (result.num_videos, result.num_left_out, result.num_short) == (4, 1, 1)
    assert result.num_head_parameters == 4 * 192 + 4
    summary = result.summary()
    assert summary.tables[0].columns == ("seed", "loss", "accuracy", "videos/s", "wait")
    assert summary.facts["too short"] == "1 video"
    assert yaml.safe_load((folder / "config.yaml").read_text())["task"]["stride"] == 3
    assert to_yaml(parse(PretextSettings, yaml.safe_load((folder / "config.yaml").read_text()))) == (
        (folder / "config.yaml").read_text()
    )


def test_a_dry_run_says_what_a_run_would_train_and_writes_nothing(videos, straight, tmp_path):
    told = to_yaml(settings(videos, tmp_path / "run", task={"name": "rotnet", "stride": 3}))
    (tmp_path / "settings.yaml").write_text(told)
    flags = ["train", "pretext", "--config", str(tmp_path / "settings.yaml"), "--dry-run"]
    planned = CliRunner().invoke(app, [*flags, "--json"], catch_exceptions=False)
    plan, result = json.loads(planned.stdout), straight[1]
    assert not (tmp_path / "run").exists()
    for name in ("task", "num_left_out", "num_short", "num_parameters"):
        assert plan[name] == getattr(result, name), name
    assert plan["num_train"] == result.num_videos
    assert plan["num_trained"] == result.num_parameters + result.num_head_parameters
    assert plan["num_steps"] == trained_state(straight[0] / "seed-0").step == 4
    assert (plan["num_clips"], plan["clip"]) == (1, [2, 32, 32])
    shown = CliRunner().invoke(app, flags, catch_exceptions=False).stdout
    assert "4 videos, clips of each: 1" in shown
    assert "2 frames of 32 x 32" in shown
    with pytest.raises(ConfigError, match="batch"):
        plan_pretext(settings(videos, tmp_path, training={"batch_size": 9}))


def test_a_killed_run_goes_on_with_the_same_bits(videos, straight, tmp_path):
    chosen = settings(videos, tmp_path, task={"name": "rotnet", "stride": 3})

    def kill(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done > 1.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(chosen, on_stage=kill)
    assert trained_state(tmp_path / "seed-0").step == 2
    resumed = pretrain(chosen)
    states = [trained_state(each / "seed-0").tensors for each in (straight[0], tmp_path)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    assert resumed.seeds[0]["loss"] == straight[1].seeds[0]["loss"]
    check_kept(straight[0] / "seed-0", tmp_path / "seed-0", last=2, name="backbone.safetensors")
    unmirrored = {"name": "rotnet", "stride": 3, "look": {"flip_probability": 0.0}}
    with pytest.raises(FeatcacheError, match=r"a run with task\.look\.flip_probability 0\.5, which is 0\.0 here"):
        pretrain(settings(videos, tmp_path, task=unmirrored))


def test_what_was_trained_is_a_backbone(videos, straight):
    start = build_module(settings(videos, "unused"), seed=0)
    trained = build_backbone("svt-tiny", weights=straight[1].weights[0]).network.state_dict()
    state = trained_state(straight[0] / "seed-0").part("module.network")
    assert all(torch.equal(trained[name], tensor) for name, tensor in state.items())
    assert not all(torch.equal(trained[name], each) for name, each in start.network.state_dict().items())


def test_views_are_decoded_and_rotated_by_what_is_drawn(videos, tmp_path):
    manifest = list_videos(settings(videos, tmp_path))
    usable = open_usable(manifest.videos, root=manifest.root, decoder="pyav").files
    files = usable.only(lambda video: video.num_frames > 10)
    source = DrawnViews(RotNet(), ClipShape(3, 32), seed=0)
    with ViewLoader(source, files, workers=0) as loader:
        clips, turns = loader.views(Batch(0, (2, 0))).arrays
    assert (clips.shape, clips.dtype) == ((2, 3, 3, 32, 32), torch.uint8)
    assert turns.tolist() == [source.draw(files.videos[video], epoch=0).targets["turns"] for video in (2, 0)]
    (view,) = source.draw(files.videos[2], epoch=0).views
    upright = dataclasses.replace(view, looks=tuple(look._replace(turns=0) for look in view.looks))
    with files.open(2) as reader:
        (clip,) = read_views(reader, [upright])
    assert torch.equal(clips[0], torch.rot90(clip, int(turns[0]), (-2, -1)))
    several = {
        source.draw(files.videos[video], epoch=epoch).targets["turns"] for video in range(4) for epoch in range(5)
    }
    assert several == {0, 1, 2, 3}


def test_what_cannot_be_trained_is_a_sentence(videos, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown pretext task 'rotne'; did you mean 'rotnet'"):
        settings(videos, tmp_path, task={"name": "rotne"})
    with pytest.raises(ConfigError, match="task has no name; give one of: cvrl, prp, rotnet, rspnet, tdl, vcop"):
        settings(videos, tmp_path, task={})
    with pytest.raises(FeatcacheError, match="unknown key 'strid'; did you mean 'stride'"):
        settings(videos, tmp_path, task={"name": "rotnet", "strid": 3})
    with pytest.raises(ManifestError, match="all 5 usable videos are shorter than the 101 frames that"):
        pretrain(settings(videos, tmp_path, task={"name": "rotnet", "stride": 100}))
    with pytest.raises(ConfigError, match=r"4 training videos make no batch of 8; .*training\.batch_size=4 or less"):
        pretrain(settings(videos, tmp_path, task={"name": "rotnet", "stride": 3}, training={"batch_size": 8}))
    with pytest.raises(ConfigError, match="pretext tasks keep no average"):
        settings(videos, tmp_path, training={"ema_decay": 0.9})
    assert [path.name for path in tmp_path.iterdir()] == ["videos.parquet"], "the next start need not scan"
