"""What the two stages draw, and that they learn what can be learnt."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from featcache.config import parse
from featcache.errors import ConfigError
from featcache.loaders.bank import open_bank
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.playback import playback_objective
from featcache.methods.advise.settings import PretextClipSettings, TmmFineTuneSettings
from featcache.methods.advise.tuning import (
    ORDERS,
    clip_views,
    fine_tune,
    frame_order,
    label_objective,
    video_logits,
)
from featcache.networks.settings import TmmSettings
from featcache.networks.tmm import TmmClassifier
from featcache.recipes import SamplingRecipe
from featcache.store.features import Features
from featcache.testing import stores
from featcache.training.generators import seeded_torch
from featcache.training.identity import Identity
from featcache.training.logs import read_log
from featcache.training.loop import train
from featcache.training.seeds import open_runs
from featcache.training.settings import OptimiserSettings, TrainingSettings
from tests.methods.advise.helpers import MemoryBank, counting_bank, moving_bank

SMALL = TmmSettings(hidden=8, out=16, num_blocks=1, head_hidden=16, temporal_kernel=3)


def module(bank, *, num_classes=4, settings=SMALL):
    with seeded_torch(0, "module"):
        return TmmClassifier(settings, width_in=bank.shape[2], grid=bank.shape[0], num_classes=num_classes)


def pretext(bank, **clips):
    settings = PretextClipSettings(**clips)
    return playback_objective(bank, np.arange(len(bank.video_ids)), settings, module=module(bank), batch_size=4, seed=0)


def maps_of(part):
    """Maps of a batch as float32."""
    return part.maps.on("cpu")


def test_clips_play_at_the_rate_of_their_label():
    bank = counting_bank(num_frames=1000)
    objective = pretext(bank, speed_jitter=0.0, num_clips=3)
    seen = set()
    for epoch in range(8):
        for part in objective.parts(epoch, 0):
            frames = maps_of(part)[:, :, 0, 0, 1].numpy()
            rates = np.diff(frames, axis=1) % 1000 / 2
            assert (rates == 2.0 ** part.labels.numpy()[:, None]).all()
            seen |= set(part.labels.tolist())
    assert seen == {0, 1, 2, 3}


def test_speed_varies_within_the_jitter():
    bank = counting_bank(num_frames=1000)
    part = pretext(bank, speed_jitter=0.2, sequential=False, num_clips=8).parts(0, 0)[0]
    frames = maps_of(part)[:, :, 0, 0, 1].numpy()
    whole = (frames[:, -1] - frames[:, 0]) % 1000 / 7 / 2 / 2.0 ** part.labels.numpy()
    assert whole.min() >= 0.8 - 0.1
    assert whole.max() <= 1.2 + 0.1
    assert whole.std() > 0.05


def test_a_clip_keeps_to_one_video_and_one_crop():
    part = pretext(counting_bank(crops=3), sequential=False).parts(2, 0)[0]
    for name, axis in (("video", 0), ("crop", 2)):
        values = maps_of(part)[:, :, 0, 0, axis]
        assert (values == values[:, :1]).all(), name
    assert len(maps_of(part)[:, 0, 0, 0, 2].unique()) > 1


def test_batches_are_a_function_of_their_number_and_cover_the_videos():
    bank = counting_bank(num_videos=8)
    first, second = pretext(bank), pretext(bank)
    assert first.num_batches == 2
    for epoch in (0, 1):
        videos = []
        for batch in (1, 0):
            ours, theirs = first.parts(epoch, batch), second.parts(epoch, batch)
            assert all(
                torch.equal(maps_of(a), maps_of(b)) and torch.equal(a.labels, b.labels)
                for a, b in zip(ours, theirs, strict=True)
            )
            videos += maps_of(ours[0])[:, 0, 0, 0, 0].tolist()
        assert sorted(videos) == list(range(8))
    assert not torch.equal(maps_of(first.parts(0, 0)[0]), maps_of(first.parts(1, 0)[0]))


def test_a_bank_that_would_tell_the_rate_is_refused():
    coarse = MemoryBank(torch.zeros(4, 20, 1, 1, 1, 3), bank_stride=2)
    with pytest.raises(ConfigError, match="--stride 1"):
        pretext(coarse)
    pretext(coarse, base_stride=3)


def test_the_rate_is_learnt_with_a_kernel_of_three(tmp_path):
    bank = moving_bank()
    objective = playback_objective(
        bank,
        np.arange(32),
        PretextClipSettings(sequential=False),
        module=module(bank),
        batch_size=16,
        seed=0,
    )
    settings = TrainingSettings(epochs=40, batch_size=16, optimiser=OptimiserSettings(lr=0.01), tensorboard=False)
    train(objective, settings, folder=tmp_path, seed=0, identity=Identity(values={}), facts={})
    log = read_log(tmp_path)
    assert log[-1]["accuracy"] > 0.6 > log[0]["accuracy"]


def fine_tuning(**settings):
    return TmmFineTuneSettings(
        bank=BankSettings(store="none"), training=TrainingSettings(batch_size=4, tensorboard=False), **settings
    )


def test_training_clips_and_their_labels():
    bank = counting_bank(num_frames=100)
    labels = np.array([3, 1, 0, 2, 1, 3])
    objective = label_objective(
        bank, np.arange(6), labels, fine_tuning(num_clips=2, stride=5), module=module(bank), seed=0
    )
    (part,) = objective.parts(0, 0)
    videos = maps_of(part)[:, 0, 0, 0, 0].numpy().astype(int)
    assert np.array_equal(part.labels.numpy(), labels[videos])
    frames = maps_of(part)[:, :, 0, 0, 1].numpy()
    assert (np.diff(frames, axis=1) % 100 == 5).all()
    assert len(part.labels) == 8
    assert (frames[::2] != frames[1::2]).any()


def test_speed_varies_in_fine_tuning_where_asked_and_never_in_tests():
    bank = counting_bank(num_frames=1000)
    settings = fine_tuning(num_clips=16, stride=10, speed_jitter=0.2)
    objective = label_objective(bank, np.arange(6), np.arange(6) % 2, settings, module=module(bank), seed=0)
    (part,) = objective.parts(0, 0)
    frames = part.maps.on("cpu")[:, :, 0, 0, 1].numpy()
    strides = (frames[:, -1] - frames[:, 0]) % 1000 / 7
    assert 7.9 <= strides.min() < 9
    assert 11 < strides.max() <= 12.1
    positions, _ = clip_views(bank, 0, settings)
    assert (np.diff(positions, axis=1) == 10).all()
    with pytest.raises(ConfigError, match="speed_jitter is for sampler 'random'"):
        parse(TmmFineTuneSettings, {"bank": {"store": "s"}, "sampler": "spread", "speed_jitter": 0.2})


def test_a_linear_probe_leaves_the_module_as_it_was(tmp_path):
    bank = moving_bank(num_videos=8)
    settings = fine_tuning(frozen=True, tmm=dataclasses.replace(SMALL, head_hidden=None), stride=1, num_frames=4)
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"epochs": 2})})
    runs = open_runs(settings, settings.training, name="tmm", of="s", out=str(tmp_path))
    videos = np.arange(8)
    trained = fine_tune(settings, bank, runs=runs, videos=videos, labels=videos % 2, num_classes=2, seed=0)
    with seeded_torch(0, "tmm"):
        untrained = TmmClassifier(settings.tmm, width_in=bank.shape[2], grid=bank.shape[0], num_classes=2)
    assert set(trained.head.state_dict()) == {"fc2.weight", "fc2.bias"}
    assert not torch.equal(trained.head.fc2.weight, untrained.head.fc2.weight)
    before = untrained.tmm.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.tmm.state_dict().items())


def test_views_are_clips_times_crops():
    bank = counting_bank(num_frames=100, crops=3)
    positions, crops = clip_views(bank, 0, fine_tuning(test_clips=10, stride=8))
    assert positions.shape == (30, 8)
    assert crops == [0, 1, 2] * 10
    assert (positions[::3] == positions[1::3]).all()
    assert positions[::3, 0].tolist() == [0, 3, 7, 11, 15, 19, 23, 27, 31, 35]


def test_logits_are_averaged_over_views_whatever_the_chunks(monkeypatch):
    bank = MemoryBank(torch.randn(5, 30, 2, 2, 2, 6, generator=torch.Generator().manual_seed(0)))
    networks = [module(bank).eval(), module(bank, settings=dataclasses.replace(SMALL, hidden=4)).eval()]
    settings = fine_tuning(test_clips=3, stride=2)
    _, together = video_logits(networks, bank, np.arange(5), settings, seeds=(0, 1))
    assert list(together) == list(ORDERS)
    for order, scores in together.items():
        plain = np.zeros_like(scores)
        with torch.no_grad():
            for (seed, network), video in itertools.product(enumerate(networks), range(5)):
                clips, crops = clip_views(bank, video, settings)
                clips = clips[:, frame_order(order, num_frames=8, seed=seed)]
                maps = torch.stack([bank.values[video, clip, crop] for clip, crop in zip(clips, crops, strict=True)])
                plain[seed, video] = network(maps).double().mean(dim=0).numpy()
        assert np.allclose(scores, plain, atol=1e-6), order
    monkeypatch.setattr("featcache.methods.advise.tuning._BYTES_AT_ONCE", 1)
    _, apart = video_logits(networks, bank, np.arange(5), settings, seeds=(0, 1))
    assert all(np.allclose(apart[order], scores, atol=1e-6) for order, scores in together.items())


def test_all_orders_and_modules_are_scored_in_one_reading_with_the_bits_of_one_reading_each(tmp_path):
    bank = SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1)
    plan = stores.StorePlan(records={"map": stores.make_record((2, 2, 6))}, num_videos=6, rows_per_video=(20, 17))
    stores.write_store(tmp_path / "s", plan, sampling=bank)
    source = open_bank(BankSettings(store=str(tmp_path / "s"), storage="mmap"))
    networks = [module(source).eval(), module(source, settings=dataclasses.replace(SMALL, hidden=4)).eval()]
    settings = fine_tuning(test_clips=3, stride=2)
    num_read = []
    gather = Features.gather
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Features, "gather", lambda self, rows, **how: num_read.append(np.size(rows)) or gather(self, rows, **how)
        )
        _, together = video_logits(networks, source, np.arange(6), settings, seeds=(3, 4))
    views = [clip_views(source, video, settings) for video in range(6)]
    assert sum(num_read) == 6 * 3 * 8 == sum(clips.size for clips, _ in views)
    with torch.inference_mode():
        for order, (place, network) in itertools.product(ORDERS, enumerate(networks)):
            clips = np.concatenate([clips for clips, _ in views])[:, frame_order(order, num_frames=8, seed=3 + place)]
            maps = source.clips(np.repeat(np.arange(6), 3), clips, [0] * 18)  # read in that order
            read = network(maps.on("cpu")).double().reshape(6, 3, -1).mean(dim=1).numpy()
            assert np.array_equal(together[order][place], read), (order, place)


def test_orders():
    assert frame_order("true", num_frames=8, seed=0).tolist() == list(range(8))
    assert frame_order("reversed", num_frames=8, seed=0).tolist() == list(range(8))[::-1]
    assert frame_order("one frame", num_frames=8, seed=0).tolist() == [4] * 8
    shuffled = frame_order("shuffled", num_frames=8, seed=0).tolist()
    assert shuffled != list(range(8)) == sorted(shuffled)
    assert all(frame_order("shuffled", num_frames=2, seed=seed).tolist() == [1, 0] for seed in range(9))


def test_too_few_videos_for_batch_norm_are_a_sentence():
    bank = counting_bank(num_videos=1)
    with pytest.raises(ConfigError, match="BatchNorm"):
        pretext(bank)
