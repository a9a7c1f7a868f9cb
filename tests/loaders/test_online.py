"""The backbone in the loop: the stored bank's own values, other views on request, sentences for lost files."""

import numpy as np
import pytest
import torch

from featcache.errors import ManifestError, VideoError
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.loaders.bank import open_bank
from featcache.loaders.fresh import fresh_look
from featcache.loaders.online import open_online
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.run import pretrain
from featcache.methods.advise.settings import AdviseSettings, PretextClipSettings
from featcache.networks.settings import TmmSettings
from featcache.store.reader import open_store
from featcache.testing.videos import write_video
from featcache.training.settings import TrainingSettings

NUM_FRAMES = (12, 9, 16, 11)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four videos of 96 x 64: all frames, a plain and a random crop, as maps [7, 7, 40] of random weights."""
    folder = tmp_path_factory.mktemp("online")
    (folder / "videos").mkdir()
    for number, num_frames in enumerate(NUM_FRAMES):
        write_video(folder / "videos" / f"{number}.mp4", num_frames=num_frames)
    extract(
        ExtractSettings(
            source=str(folder / "videos"),
            out=str(folder / "store"),
            features=(
                FeatureSettings(
                    name="map", backbone="timm/tf_efficientnet_lite0", weights="random", layer="blocks.2", output="map",
                    input_size=56,
                ),
            ),
            sampling=SamplingSettings(
                layout="frames", spatial="center_and_random", num_crops=2, crop_fraction=1.0, color={"brightness": 0.5}
            ),
            runtime=RuntimeSettings(device="cpu", threads=1, encode_batch=8),
        )
    )  # fmt: skip
    return folder / "store"


def settings(store, **bank):
    return BankSettings(store=str(store), **bank)


def test_stored_crops_come_out_with_the_stored_bits(store):
    bank, online = open_bank(settings(store)), open_online(settings(store), device="cpu")
    videos = np.array([3, 0, 3, 2, 1])
    positions = np.array([[0, 2, 4, 6], [11, 0, 5, 5], [0, 2, 4, 6], [15, 7, 3, 1], [8, 8, 8, 8]])
    for crops in ([0] * 5, [1, 0, 1, 0, 1]):
        ours, stored = online.clips(videos, positions, crops).joined, bank.clips(videos, positions, crops).joined
        assert ours.dtype == stored.dtype == torch.float16
        assert torch.equal(ours, stored)
    assert online.shape == bank.shape
    assert np.array_equal(online.num_source_frames, bank.num_source_frames)
    assert online.identity != bank.identity


def test_fresh_views_differ_by_draw_and_keep_to_a_clip(store):
    online = open_online(settings(store), device="cpu")
    videos, positions = np.array([0, 0, 0]), np.array([[3, 3], [3, 5], [3, 3]])
    maps = online.clips(videos, positions, [77, 77, 78]).joined
    assert torch.equal(maps[0, 0], maps[1, 0]), "one draw, one view"
    assert torch.equal(maps[0, 0], maps[0, 1]), "the same frame under the same view"
    assert not torch.equal(maps[0, 0], maps[2, 0])
    assert not torch.equal(maps[1, 0], maps[1, 1])
    assert torch.equal(maps, online.clips(videos, positions, [77, 77, 78]).joined)


def test_pooling_at_read_is_that_of_the_bank(store):
    pooled = {"grid": 3, "channels": 10}
    bank, online = open_bank(settings(store, **pooled)), open_online(settings(store, **pooled), device="cpu")
    arguments = np.array([2, 1]), np.array([[0, 1, 2, 3], [4, 5, 6, 7]]), [0, 0]
    assert online.shape == (3, 3, 10)
    assert torch.equal(online.clips(*arguments).joined, bank.clips(*arguments).joined)


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


def test_pretraining_online_repeats_and_sees_other_views_than_the_bank(store, tmp_path):
    def run(out, epochs, **bank):
        return pretrain(
            AdviseSettings(
                bank=settings(store, **bank),
                tmm=TmmSettings(hidden=4, out=8, num_blocks=1, head_hidden=8),
                clips=PretextClipSettings(num_frames=4, num_clips=2),
                training=TrainingSettings(epochs=epochs, batch_size=4, device="cpu", threads=1, tensorboard=False),
                out=str(out),
            )
        )

    losses = [run(tmp_path / name, 2, online=True).seeds[0]["loss"] for name in ("one", "two")]
    assert losses[0] == losses[1]
    assert run(tmp_path / "bank", 2).seeds[0]["loss"] != losses[0]


def test_lost_and_changed_videos_are_sentences(store, tmp_path):
    with pytest.raises(ManifestError, match=r"4 of 4 videos are not there.*'0.mp4'; .*--set bank.videos=DIR"):
        open_online(settings(store, videos=str(tmp_path)), device="cpu")
    for video in open_store(store).videos.values():
        write_video(tmp_path / video.path, num_frames=video.num_frames, options={"crf": "40"})
    online = open_online(settings(store, videos=str(tmp_path)), device="cpu")
    with pytest.raises(VideoError, match="has changed since the scan"):
        online.clips(np.array([0]), np.array([[0, 1]]), [0])
