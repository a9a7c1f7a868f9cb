"""Sets that are drawn, and what the objective makes of them."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from featcache.config import parse
from featcache.errors import ConfigError
from featcache.loaders.set_batches import draw_sets, draw_sets_there
from featcache.methods.scale.losses import set_contrast_loss
from featcache.methods.scale.objective import ScaleObjective
from featcache.methods.scale.run import with_heads
from featcache.methods.scale.settings import ScaleHeadSettings, ScaleLossSettings
from featcache.networks.set_predictor import SetPredictor
from featcache.networks.settings import SetPredictorSettings
from featcache.seeding import rng_for
from featcache.training.generators import seeded_torch

from .helpers import located_sets

HEADS = ScaleHeadSettings(width=8, target_hidden=16, hidden=16)


def build(sets, loss=None, *, clips_per_set=4, batch_size=4, seed=0, draws="host"):
    loss = loss or ScaleLossSettings()
    with seeded_torch(seed, "test"):
        shape = SetPredictorSettings(width=32, depth=1, position_hidden=16, dropout=0.0)
        module = with_heads(SetPredictor(shape, width_in=sets.features.shape[1]), HEADS, loss)
    sizes = {"clips_per_set": clips_per_set, "batch_size": batch_size}
    return ScaleObjective(sets, loss, module=module, seed=seed, draws=draws, **sizes)


def draw_there(*args, rng, **kwargs):
    """On the device, here the CPU."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return draw_sets_there(*args, generator=generator, **kwargs)


drawing = pytest.mark.parametrize("draw", [draw_sets, draw_there])
counts = st.lists(st.integers(2, 20), min_size=1, max_size=8)


@drawing
@settings(max_examples=60)
@given(counts=counts, clips_per_set=st.integers(1, 9), ratio=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_sets_are_disjoint_and_of_their_own_video(draw, counts, clips_per_set, ratio, seed):
    video_start = np.concatenate([[0], np.cumsum(counts)])
    videos = rng_for(seed, "videos").permutation(len(counts))
    size = np.minimum(clips_per_set, np.diff(video_start)[videos] // 2)
    batch = draw(video_start, videos, set_size=size, mask_ratio=ratio, rng=rng_for(seed, "sets"))
    rows = batch.rows.reshape(2, len(videos), -1).numpy()
    there = np.ones(rows.shape, bool) if batch.present is None else batch.present.reshape(rows.shape).numpy()
    for place, video in enumerate(videos):
        first, second = (set(rows[which, place][there[which, place]].tolist()) for which in (0, 1))
        assert len(first) == len(second) == size[place]
        assert not first & second
        assert all(video_start[video] <= row < video_start[video + 1] for row in first | second)
    masked = batch.masked.flatten().nonzero()[:, 0]
    assert torch.equal(masked, batch.masked_at)
    assert there.reshape(-1)[masked.numpy()].all()
    everything = torch.from_numpy(np.flatnonzero(there)) if batch.present_at is not None else torch.arange(there.size)
    assert batch.present is None or torch.equal(everything, batch.present_at)
    assert torch.equal(everything[batch.positive], batch.masked_at)


@drawing
@settings(max_examples=30)
@given(counts=st.lists(st.integers(2, 20), min_size=2, max_size=8), ratio=st.floats(0, 1), data=st.data())
def test_the_shares_of_processes_are_the_batch_of_one(draw, counts, ratio, data):
    video_start, videos = np.concatenate([[0], np.cumsum(counts)]), np.arange(len(counts))
    given = {"set_size": np.minimum(4, np.array(counts) // 2), "mask_ratio": ratio}
    cut = data.draw(st.integers(1, len(counts) - 1))
    shares = (slice(None), slice(0, cut), slice(cut, len(counts)))
    whole, *parts = (draw(video_start, videos, **given, rng=rng_for(3, "sets"), share=each) for each in shares)

    def clips(batch):
        """Row of each clip, whether it is masked, and whether it is padding, [2, B, K]."""
        there = torch.ones_like(batch.masked) if batch.present is None else batch.present
        return torch.stack([batch.rows, batch.masked, there], dim=-1).unflatten(0, (2, -1))

    assert torch.equal(torch.cat([clips(part) for part in parts], dim=1), clips(whole))
    for part in parts:
        there = torch.arange(part.masked.numel()) if part.present_at is None else part.present_at
        assert torch.equal(there[part.positive], part.masked_at)
        assert torch.equal(part.masked.flatten().nonzero()[:, 0], part.masked_at)


@drawing
def test_every_clip_is_drawn_and_masked_as_often_as_the_others(draw):
    video_start = np.array([0, 16])
    drawn, masked = np.zeros(16), np.zeros(16)
    for number in range(400):
        batch = draw(
            video_start, np.array([0]), set_size=np.array([4]), mask_ratio=0.25, rng=rng_for(0, "sets", number)
        )
        drawn[batch.rows.flatten()] += 1
        masked[batch.rows.flatten()[batch.masked_at]] += 1
    assert drawn.sum() == 400 * 8
    assert np.abs(drawn - 200).max() < 5 * np.sqrt(400 * 0.25)
    assert masked.sum() / drawn.sum() == pytest.approx(0.25, abs=5 * np.sqrt(0.1875 / 3200))


@pytest.mark.parametrize("draws", ["host", "device"])
def test_a_batch_is_a_function_of_its_number(draws):
    objective, again = (build(located_sets(10), draws=draws) for _ in range(2))
    assert objective.num_batches == 2
    assert objective.num_items == 8
    first = objective.parts(3, 1)[0]
    again.parts(5, 0)
    assert torch.equal(again.parts(3, 1)[0].rows, first.rows)
    assert not torch.equal(objective.parts(3, 0)[0].rows, first.rows)
    assert not torch.equal(build(located_sets(10), seed=1, draws=draws).parts(3, 1)[0].rows, first.rows)


def test_an_epoch_sees_each_video_once():
    sets = located_sets(8)
    objective = build(sets)
    seen = np.concatenate([objective.parts(0, number)[0].rows[:4, 0].numpy() // 16 for number in range(2)])
    assert sorted(seen) == list(range(8))


def plain_loss(objective, sets, part, loss):
    """The loss with no gather, no chunk and no padding: set by set."""
    module = objective.module
    clips, summaries, targets, refined, positive = [], [], [], [], []
    present = torch.ones_like(part.masked) if part.present is None else part.present
    for rows, masked, there in zip(part.rows, part.masked, present, strict=True):
        mine = rows[there]
        output = module.predictor(sets.features[mine][None], sets.positions[mine][None], masked=masked[there][None])
        summaries.append(output.summary)
        positive += [len(clips) + place for place in masked[there].nonzero()[:, 0].tolist()]
        refined.append(output.clips[0])
        clips += list(sets.features[mine].float())
        targets.append(module.target_head(sets.features[mine].float()))
    first, second = module.set_head(torch.cat(summaries)).chunk(2)
    cosines = module.clip_head(torch.cat(refined)) @ torch.cat(targets).T / 0.2
    masked = torch.tensor(positive)
    mcm = functional.cross_entropy(cosines[masked], masked, reduction="none")
    if loss.symmetric:
        mcm = (mcm + functional.cross_entropy(cosines.T[masked], masked, reduction="none")) / 2
    mcm = mcm.mean() if loss.mcm_per == "clip" else mcm.sum() / len(first)
    return (mcm * loss.mcm_weight + set_contrast_loss(first, second, temperature=0.2).loss * loss.set_weight) / (
        loss.mcm_weight + loss.set_weight
    )


@pytest.mark.parametrize("changes", [{}, {"symmetric": True}, {"mcm_per": "video"}])
@pytest.mark.parametrize("counts", [None, [16, 5, 9, 2, 8, 16]])
def test_loss_equals_one_set_after_another(counts, changes):
    sets, loss = located_sets(6, counts=counts), ScaleLossSettings(mcm_weight=2.0, set_weight=1.0, **changes)
    objective = build(sets, loss, batch_size=6)
    part = objective.parts(0, 0)[0]
    assert (part.present is None) == (counts is None)
    mine = objective.loss(part)
    wanted = plain_loss(objective, sets, part, loss)
    torch.testing.assert_close(mine.total, wanted)
    parameters = list(objective.module.parameters())
    for got, plain in zip(
        torch.autograd.grad(mine.total, parameters, allow_unused=True),
        torch.autograd.grad(wanted, parameters, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(got, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "metrics", "lacking"),
    [
        (ScaleLossSettings(mcm_weight=0), {"set", "set_accuracy"}, {"target_head", "clip_head"}),
        (ScaleLossSettings(set_weight=0), {"mcm", "mcm_accuracy"}, {"set_head"}),
        (ScaleLossSettings(symmetric=True), {"mcm", "mcm_accuracy", "set", "set_accuracy"}, set()),
        (ScaleLossSettings(set_loss="regression"), {"mcm", "mcm_accuracy", "set"}, {"prototypes"}),
        (ScaleLossSettings(set_loss="clustering"), {"mcm", "mcm_accuracy", "set"}, {"set_regressor"}),
    ],
)
def test_each_form_trains_every_parameter_that_it_has(loss, metrics, lacking):
    objective = build(located_sets(6), loss)
    result = objective.loss(objective.parts(0, 0)[0])
    assert set(result.metrics) == metrics
    assert all(getattr(objective.module, name) is None for name in lacking)
    result.total.backward()
    idle = {name for name, value in objective.module.named_parameters() if value.grad is None}
    assert idle == set()


def test_no_masked_clip_is_no_loss():
    sets, loss = located_sets(6), ScaleLossSettings(set_weight=0)
    objective = build(sets, loss)
    part = objective.parts(0, 0)[0]
    none = torch.zeros(0, dtype=torch.int64)
    bare = dataclasses.replace(part, masked=torch.zeros_like(part.masked), masked_at=none, positive=none)
    total = objective.loss(bare).total
    assert total.item() == 0
    total.backward()


def test_all_clips_may_be_masked():
    objective = build(located_sets(6), ScaleLossSettings(mask_ratio=1.0))
    part = objective.parts(0, 0)[0]
    assert part.masked.all()
    total = objective.loss(part).total
    total.backward()
    assert total.isfinite()


def test_videos_with_one_clip_are_left_out_and_counted():
    objective = build(located_sets(5, counts=[16, 1, 16, 1, 3]))
    assert objective.num_left_out == 2
    assert objective.num_items == 3


def test_refuses_what_cannot_be_compared():
    with pytest.raises(ConfigError, match="1 of 3 training videos have two clips or more"):
        build(located_sets(3, counts=[1, 4, 1]))
    with pytest.raises(ConfigError, match="batch_size is 1"):
        build(located_sets(3), batch_size=1)
    with pytest.raises(ConfigError, match="both 0"):
        parse(ScaleLossSettings, {"mcm_weight": 0, "set_weight": 0})
    with pytest.raises(ConfigError, match="mask_ratio is 0"):
        parse(ScaleLossSettings, {"mask_ratio": 0})
