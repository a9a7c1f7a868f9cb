"""The backbone in the loop: the stored bank's own values, other views on request, sentences for lost files."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.config import parse, to_yaml
from featcache.errors import ConfigError, ManifestError, VideoError
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings
from featcache.loaders.bank import open_bank
from featcache.loaders.fresh import fresh_look
from featcache.loaders.online import open_source
from featcache.loaders.settings import BankSettings
from featcache.loaders.unstored import open_videos
from featcache.methods.advise.run import pretrain
from featcache.methods.advise.settings import AdviseSettings, PretextClipSettings
from featcache.networks.settings import TmmSettings
from featcache.store.reader import open_store
from featcache.testing.videos import write_video
from featcache.training.settings import TrainingSettings

NUM_FRAMES = (12, 9, 16, 11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four videos of 96 x 64, listed with labels and splits."""
    folder = tmp_path_factory.mktemp("online")
    (folder / "videos").mkdir()
    rows = ["path,label,split,label.split2"]
    for number, num_frames in enumerate(NUM_FRAMES):
        write_video(folder / "videos" / f"{number}.mp4", num_frames=num_frames)
        splits = f"{'train' if number < 3 else 'test'},{'test' if number < 1 else 'train'}"
        rows.append(f"videos/{number}.mp4,{'ab'[number % 2]},{splits}")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder


def extraction(folder, **changes):
    """All frames, a plain and a random crop, as maps [7, 7, 40] of random weights, and others [4, 4, 112]."""
    backbone = {"backbone": "timm/tf_efficientnet_lite0", "weights": "random", "output": "map", "input_size": 56}
    settings = {
        "source": str(folder / "list.csv"),
        "out": str(folder / "store"),
        "features": [
            {**backbone, "name": "map", "layer": "blocks.2"},
            {**backbone, "name": "deep", "layer": "blocks.4"},
        ],
        "sampling": {
            "layout": "frames",
            "spatial": "center_and_random",
            "num_crops": 2,
            "crop_fraction": 1.0,
            "color": {"brightness": 0.5},
            "test": {"temporal": "bank", "num_crops": 3},
        },
        "runtime": {"device": "cpu", "threads": 1, "encode_batch": 8},
    }
    return parse(ExtractSettings, {**settings, **changes})


@pytest.fixture(scope="module")
def store(folder):
    extract(extraction(folder))
    return folder / "store"


@pytest.fixture(scope="module")
def file(folder):
    """The settings of an extraction that is never carried out."""
    (folder / "extract.yaml").write_text(to_yaml(extraction(folder, out=str(folder / "nothing"))))
    return folder / "extract.yaml"


def open_online(settings):
    settings = settings.model_copy(update={"online": True})
    return open_source(settings, videos=open_videos(settings, device="cpu"), device="cpu")


@pytest.fixture(scope="module")
def online(store):
    return open_online(settings(store))


def settings(store, **bank):
    return BankSettings(store=str(store), **{"feature": "map", "workers": 0, **bank})


def test_stored_crops_come_out_with_the_stored_bits(store, online):
    bank = open_bank(settings(store))
    videos = np.array([3, 0, 3, 2, 1])
    positions = np.array([[0, 2, 4, 6], [11, 0, 5, 5], [0, 2, 4, 6], [15, 7, 3, 1], [8, 8, 8, 8]])
    for crops in ([0] * 5, [1, 0, 1, 0, 1]):
        ours, stored = online.clips(videos, positions, crops).joined, bank.clips(videos, positions, crops).joined
        assert ours.dtype == stored.dtype == torch.float16
        assert torch.equal(ours, stored)
    assert online.shape == bank.shape
    assert np.array_equal(online.num_source_frames, bank.num_source_frames)
    assert online.identity != bank.identity


def test_fresh_views_differ_by_draw_and_keep_to_a_clip(online):
    videos, positions = np.array([0, 0, 0]), np.array([[3, 3], [3, 5], [3, 3]])
    maps = online.clips(videos, positions, [77, 77, 78]).joined
    assert torch.equal(maps[0, 0], maps[1, 0]), "one draw, one view"
    assert torch.equal(maps[0, 0], maps[0, 1]), "the same frame under the same view"
    assert not torch.equal(maps[0, 0], maps[2, 0])
    assert not torch.equal(maps[1, 0], maps[1, 1])
    assert torch.equal(maps, online.clips(videos, positions, [77, 77, 78]).joined)


def test_an_extraction_that_is_never_stored_gives_what_its_store_gives(folder, store, file, online):
    pooled = {"feature": "map+deep", "grid": 2, "channels": 8}
    bank, alone = open_bank(settings(store, **pooled)), open_online(settings(file, workers=2, **pooled))
    videos, positions = np.array([2, 1, 3, 2]), np.array([[0, 1, 2, 3], [4, 5, 6, 7], [3, 3, 9, 0], [8, 0, 1, 2]])
    assert (alone.shape, alone.video_ids, alone.bank_stride) == (bank.shape, bank.video_ids, bank.bank_stride)
    assert np.array_equal(alone.num_source_frames, bank.num_source_frames)
    assert (
        [alone.num_crops(video) for video in range(4)] == [bank.num_crops(video) for video in range(4)] == [2, 2, 2, 3]
    )
    crops = [0, 1, 2, 1]
    assert torch.equal(alone.clips(videos, positions, crops).joined, bank.clips(videos, positions, crops).joined)
    assert not (folder / "nothing").exists()


def test_views_follow_the_split_column_where_nothing_is_stored(file):
    listed = open_videos(settings(file, online=True, split_column="split2"), device="cpu")
    source = open_source(settings(file, online=True, split_column="split2"), videos=listed, device="cpu")
    assert [source.num_crops(video) for video in range(4)] == [3, 2, 2, 2]


def test_a_fresh_view_has_the_papers_size_place_and_colours():
    views = [fresh_look("v", draw, height=240, width=320) for draw in range(200)]
    assert {(view.box.y1 - view.box.y0, view.box.x1 - view.box.x0) for view in views} == {(210, 224)}
    assert {view.box.y0 for view in views} >= {0, 30}
    assert len({view.box.x0 for view in views}) > 60
    coloured = [view.color for view in views if view.color]
    assert 0.7 < len(coloured) / len(views) < 0.9
    assert all({step.name for step in steps} == {"brightness", "contrast", "saturation"} for steps in coloured)
    assert all(0.8 <= step.amount <= 1.2 for steps in coloured for step in steps)
    assert len({tuple(step.name for step in steps) for steps in coloured}) == 6
    assert fresh_look("w", 0, height=240, width=320) != views[0]


def test_pretraining_online_repeats_and_sees_other_views_than_the_bank(store, file, tmp_path):
    def run(out, where, **bank):
        return pretrain(
            AdviseSettings(
                bank=settings(where, **bank),
                tmm=TmmSettings(hidden=4, out=8, num_blocks=1, head_hidden=8),
                clips=PretextClipSettings(num_frames=4, num_clips=2),
                training=TrainingSettings(epochs=2, batch_size=3, device="cpu", threads=1, tensorboard=False),
                out=str(tmp_path / out),
            )
        )

    losses = [run(*each, online=True).seeds[0]["loss"] for each in (("one", store), ("two", file))]
    assert losses[0] == losses[1], "from the store's videos, and from a list of them"
    assert run("bank", store).seeds[0]["loss"] != losses[0]


def test_a_module_is_tuned_and_tested_without_any_store(file, tmp_path):
    small = [
        "--epochs",
        "1",
        "--batch-size",
        "3",
        "--device",
        "cpu",
        "--set",
        "training.threads=1",
        "--set",
        "num_frames=4",
    ]
    shape = ["--set", "tmm={hidden: 4, out: 8, num_blocks: 1, head_hidden: 8}", "--set", "test_clips=1"]
    where = [
        "train",
        "tmm",
        str(file),
        "--online",
        "--feature",
        "map",
        "--workers",
        "0",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    printed = CliRunner().invoke(app, [*where, *small, *shape], catch_exceptions=False)
    result = json.loads(printed.stdout)
    assert (result["num_train"], result["num_views"], result["coverage"]["test"]["ok"]) == (3, 3, 1)
    assert set(result["metrics"]["scratch"]["test"]) == {"true", "reversed", "shuffled", "one frame"}


def test_a_file_that_is_no_extraction_is_a_sentence(file, tmp_path):
    with pytest.raises(ConfigError, match=r"is a file, and a store is a folder; .*--online"):
        open_videos(settings(file))
    with pytest.raises(ConfigError, match=r"leave out bank\.videos and bank\.weights"):
        open_videos(settings(file, online=True, weights="random"))
    (tmp_path / "scan.yaml").write_text("command: scan\nsource: videos\n")
    with pytest.raises(ConfigError, match="not of the command 'extract'"):
        open_videos(settings(tmp_path / "scan.yaml", online=True))


def test_lost_and_changed_videos_are_sentences(store, tmp_path):
    with pytest.raises(ManifestError, match=r"4 of 4 videos are not there.*0.mp4'; .*--set bank.videos=DIR"):
        open_online(settings(store, videos=str(tmp_path)))
    (tmp_path / "videos").mkdir()
    for video in open_store(store).videos.values():
        write_video(tmp_path / video.path, num_frames=video.num_frames, options={"crf": "40"})
    online = open_online(settings(store, videos=str(tmp_path)))
    with pytest.raises(VideoError, match=r"'videos/0.mp4' passed the scan .* has changed since the scan"):
        online.clips(np.array([0]), np.array([[0, 1]]), [0])
