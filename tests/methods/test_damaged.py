"""Damaged videos in every method that decodes while it trains: a run ends, repeats and goes on without them."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from featcache.config import parse, to_yaml
from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.data.scan import scan
from featcache.errors import VideoError
from featcache.extract.settings import ExtractSettings
from featcache.loaders.labelled import read_data
from featcache.methods.advise.run import pretrain as pretrain_advise
from featcache.methods.advise.run import pretrain_r3d50
from featcache.methods.advise.settings import AdviseSettings, PretextClipSettings, R3d50Settings, TmmFineTuneSettings
from featcache.methods.advise.tmm import run_temporal
from featcache.methods.finetune.objective import FinetuneObjective
from featcache.methods.finetune.run import finetune
from featcache.methods.pretext.run import pretrain as pretrain_task
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.svt.run import pretrain_svt
from featcache.methods.svt.settings import SvtHeadSettings, SvtSettings
from featcache.networks.settings import TmmSettings
from featcache.testing.damaged_files import overwrite_pictures
from featcache.testing.videos import picture, write_video
from featcache.training.loop import trained_state
from featcache.training.settings import OptimiserSettings, TrainingSettings
from featcache.training.skips import NAME, read_skips
from tests.methods.finetune import helpers
from tests.methods.svt.helpers import small_views

NUM_VIDEOS, DAMAGED = 8, (1, 4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The manifest of eight videos, all of which pass the scan and two of which break off in the middle."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "videos").mkdir()
    for number in range(NUM_VIDEOS):
        pictures = [picture(13 * number + frame, width=48, height=32) for frame in range(16)]
        write_video(folder / "videos" / f"{number}.mp4", pictures=pictures, options={"bf": "0"})
        if number in DAMAGED:
            overwrite_pictures(folder / "videos" / f"{number}.mp4", first=2, num=12)
    manifest = scan(folder / "videos")
    rows = [
        replace(video, labels={"label": label}, split="test" if place in (0, 2) else "train")
        for place, (video, label) in enumerate(zip(manifest.videos, "abbaabab", strict=True))
    ]
    write_parquet(Manifest(root=manifest.root, videos=tuple(rows)), folder / "videos.parquet")
    return folder / "videos.parquet"


def training(**changes):
    given = {"epochs": 3, "batch_size": 2, "device": "cpu", "threads": 1, "tensorboard": False, "checkpoint_seconds": 0}
    return TrainingSettings(**{"optimiser": OptimiserSettings(lr=1e-3), **given, **changes})


def svt(videos, out, **changes):
    given = {
        "source": str(videos),
        "size": "tiny",
        "workers": 0,
        "views": small_views(global_frames=(2, 2), local_frames=(2,), global_size=16),
        "head": SvtHeadSettings(hidden=16, bottleneck=8, prototypes=32),
        "training": training(),
        "max_damaged": 0.4,
        "out": str(out),
    }
    return pretrain_svt, SvtSettings(**{**given, **changes})


def pretext(videos, out, **changes):
    given = {
        "source": str(videos),
        "task": {"name": "rotnet", "stride": 4},
        "backbone": "svt-tiny",
        "num_frames": 2,
        "input_size": 16,
        "workers": 0,
        "max_damaged": 0.4,
        "training": {
            "epochs": 3, "batch_size": 2, "device": "cpu", "threads": 1, "tensorboard": False, "checkpoint_seconds": 0.0
        },
        "out": str(out),
    }  # fmt: skip
    return pretrain_task, parse(PretextSettings, {**given, **changes})


def r3d50(videos, out, **changes):
    clips = R3d50Settings.model_fields["clips"].default.model_copy(update={"num_frames": 4, "num_clips": 2})
    given = {"size": 32, "width": 4, "head_hidden": 8, "clips": clips, "training": training(), "max_damaged": 0.4}
    return pretrain_r3d50, R3d50Settings(source=str(videos), out=str(out), **{**given, **changes})


def online_bank(videos, out):
    """The settings of an extraction that is never carried out."""
    extraction = {
        "source": str(videos),
        "out": str(out.with_name(f"{out.name}-nothing")),
        "features": [
            {
                "backbone": "timm/tf_efficientnet_lite0",
                "weights": "random",
                "output": "map",
                "layer": "blocks.2",
                "input_size": 32,
            }
        ],
        "sampling": {"layout": "frames", "spatial": "center", "crop_fraction": 1.0},
        "runtime": {"device": "cpu", "threads": 1, "encode_batch": 8},
    }
    file = out.with_name(f"{out.name}.yaml")
    file.write_text(to_yaml(parse(ExtractSettings, extraction)))
    return {"store": str(file), "online": True, "workers": 0, "max_damaged": 0.4}


SMALL = {"hidden": 4, "out": 8, "num_blocks": 1, "head_hidden": 8}


def advise(videos, out, **changes):
    clips = PretextClipSettings(num_frames=4, num_clips=2)
    given = {"tmm": TmmSettings(**SMALL), "clips": clips, "training": training()}
    return pretrain_advise, AdviseSettings(bank=online_bank(videos, out), out=str(out), **{**given, **changes})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("method", [svt, pretext, r3d50, advise])
def test_a_run_ends_and_says_what_was_replaced_and_goes_on_after_a_kill(videos, folders, method, caplog):
    straight, killed = folders / method.__name__, folders / f"{method.__name__}-killed"
    run, chosen = method(videos, straight)
    result = run(chosen)
    skips = read_skips(straight / "seed-0")
    assert {skip.video for skip in skips} == {"1.mp4", "4.mp4"}
    assert len(skips) == len({(skip.epoch, skip.video) for skip in skips})
    assert all(skip.instead != skip.video for skip in skips)
    assert json.loads((straight / "result.json").read_text())["replaced"] == {"num_videos": 2, "num_times": len(skips)}
    assert result.summary().facts["replaced"].startswith(f"2 damaged videos, {len(skips)} times")
    assert sum("takes its place" in message for message in caplog.messages) == 1

    def kill(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done > 1.4:
            raise KeyboardInterrupt

    run, chosen = method(videos, killed)
    with pytest.raises(KeyboardInterrupt):
        run(chosen, on_stage=kill)
    assert run(chosen).replaced == result.replaced
    assert (killed / "seed-0" / NAME).read_bytes() == (straight / "seed-0" / NAME).read_bytes()
    states = [trained_state(folder / "seed-0").tensors for folder in (straight, killed)]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


@pytest.mark.parametrize("method", [svt, pretext, r3d50])
def test_at_0_the_first_damaged_video_stops_a_run(videos, tmp_path, method):
    run, chosen = method(videos, tmp_path / "run", max_damaged=0.0)
    with pytest.raises(VideoError, match=r"1 of 6 training videos cannot be decoded, where max_damaged 0 allows 0"):
        run(chosen)


def test_a_temporal_module_is_tuned_on_others_and_scored_without_damaged_test_videos(videos, tmp_path):
    manifest = read_parquet(videos)
    tests = {"0.mp4", "2.mp4", "4.mp4"}  # the last is damaged
    rows = [replace(video, split="test" if video.id in tests else "train") for video in manifest.videos]
    write_parquet(Manifest(root=manifest.root, videos=tuple(rows)), tmp_path / "videos.parquet")
    settings = TmmFineTuneSettings(
        bank=online_bank(tmp_path / "videos.parquet", tmp_path / "tmm"),
        tmm=TmmSettings(**SMALL),
        num_frames=4,
        test_clips=1,
        training=training(seeds=(0, 1)),
        out=str(tmp_path / "tmm"),
    )
    result = run_temporal(settings)
    assert result.replaced.num_videos == 1
    assert result.to_dict()["replaced"]["num_videos"] == 1
    assert result.summary().facts["replaced"].startswith("1 damaged videos")
    assert (result.coverage["test"].ok, result.coverage["test"].failed) == (2, 1)
    assert set(pq.read_table(tmp_path / "tmm" / "predictions.parquet")["video"].to_pylist()) == {"0.mp4", "2.mp4"}


def test_fine_tuning_takes_the_label_of_the_video_in_the_place_and_leaves_out_test_videos(
    tmp_path, monkeypatch, caplog
):
    damaged = ("train-red-1.mp4", "test-blue-0.mp4", "test-red-2.mp4")
    manifest = helpers.write_classes(tmp_path, {"train": 4, "test": 3}, damaged=damaged)
    chosen = helpers.settings(manifest, tmp_path / "run", max_damaged=0.2, training=helpers.training(seeds=(0, 1)))
    videos = read_data(chosen).train.files.videos
    seen, parts = [], FinetuneObjective.parts

    def noting(self, epoch, batch):
        found = parts(self, epoch, batch)
        asked = self._batches._batch(epoch, batch).videos
        seen.extend(
            (epoch, videos[number].id, int(label)) for number, label in zip(asked, found[0].labels, strict=True)
        )
        return found

    monkeypatch.setattr(FinetuneObjective, "parts", noting)
    result = finetune(chosen)
    skips = read_skips(tmp_path / "run" / "seed-0")
    assert {skip.video for skip in skips} == {"train-red-1.mp4"}
    instead = {skip.epoch: skip.instead for skip in skips}
    labels = {"blue": 0, "red": 1}
    asked = [each for each in seen[: len(seen) // 2] if each[1] == "train-red-1.mp4"]  # of the first seed
    assert [epoch for epoch, _, _ in asked] == sorted(instead)
    for epoch, name, label in seen[: len(seen) // 2]:
        taken = instead[epoch] if name == "train-red-1.mp4" else name
        assert label == labels[taken.split("-")[1]]
    assert any(taken.split("-")[1] == "blue" for taken in instead.values()), "another label than the damaged one's"
    coverage = result.splits["test"].coverage
    assert (coverage.ok, coverage.failed, result.splits["test"].num_videos) == (4, 3, 4)
    assert result.num_left_out == 3
    assert result.summary().facts["left out"] == "3 videos that cannot be used"
    assert sum("2 videos of split 'test' cannot be decoded" in message for message in caplog.messages) == 1
    assert result.replaced.num_videos == 1


def test_test_videos_that_are_all_damaged_are_a_sentence(tmp_path):
    damaged = ("test-red-0.mp4", "test-blue-0.mp4")
    manifest = helpers.write_classes(tmp_path, {"train": 2, "test": 1}, damaged=damaged)
    with pytest.raises(VideoError, match="none of 2 test videos can be decoded"):
        finetune(helpers.settings(manifest, tmp_path / "run", training=helpers.training(epochs=1)))
