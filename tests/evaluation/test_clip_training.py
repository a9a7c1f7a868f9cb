"""Training over clips against plain loops: draws, losses, whole trainings, averages over ragged sets."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from featcache.evaluation.clip_training import (
    clip_losses,
    clip_table,
    draw_clips,
    iter_outputs,
    train_stack,
)
from featcache.evaluation.grid import epoch_batches, initial_weight
from featcache.evaluation.mlp import ClipMlp
from featcache.evaluation.sets import SetEmbedder, embedded_width
from featcache.evaluation.settings import Candidate, ClipTraining
from featcache.evaluation.stack import Embedding, Stack
from featcache.networks.set_predictor import SetPredictor
from featcache.networks.settings import SetPredictorSettings
from featcache.seeding import rng_for
from featcache.testing.probes import separable_data
from featcache.training.generators import seeded_torch

PREDICTOR = SetPredictorSettings(width=32, depth=1, position_hidden=8, dropout=0.0)
CANDIDATE = Candidate(optimizer="adamw", lr=1e-2, weight_decay=0.1, batch_norm=True, batch_size=10)


@settings(max_examples=50)
@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    num_clips=st.integers(1, 20),
    epoch=st.integers(0, 3),
)
def test_draws_equal_one_video_at_a_time(counts, num_clips, epoch):
    drawn, present = draw_clips(np.array(counts), num_clips=num_clips, seed=5, epoch=epoch)
    keys = rng_for(5, "probe-clips", epoch).random((len(counts), max(counts)))
    assert drawn.shape == present.shape == (len(counts), min(num_clips, max(counts)))
    for video, count in enumerate(counts):
        mine = sorted(range(count), key=lambda clip: keys[video, clip])[:num_clips]
        assert drawn[video].tolist() == mine + [0] * (drawn.shape[1] - len(mine))
        assert present[video].tolist() == [True] * len(mine) + [False] * (drawn.shape[1] - len(mine))


def test_each_clip_is_drawn_as_often_and_epochs_differ():
    counts = np.full(4000, 16)
    drawn, _ = draw_clips(counts, num_clips=8, seed=0, epoch=0)
    times = np.bincount(drawn.ravel(), minlength=16)
    assert np.abs(times / 2000 - 1).max() < 0.1  # 2000 expected, deviation 32
    assert not np.array_equal(drawn, draw_clips(counts, num_clips=8, seed=0, epoch=1)[0])
    assert not np.array_equal(drawn, draw_clips(counts, num_clips=8, seed=1, epoch=0)[0])


@pytest.mark.parametrize("kind", ["per_clip", "mean_logits", "mean_probabilities"])
@pytest.mark.parametrize("counts", [(3, 1, 2), (2, 2, 2)], ids=["ragged", "even"])
def test_losses_equal_their_formulas(kind, counts):
    rng = np.random.default_rng(0)
    videos = [rng.normal(size=(count, 5)) for count in counts]
    classes = [4, 0, 2]
    shape = (3, max(counts))
    mask = np.arange(shape[1]) < np.array(counts)[:, None]
    present = None if mask.all() else torch.from_numpy(mask)
    outputs = torch.zeros(2, 1, *shape, 5, dtype=torch.float64)
    outputs[0, 0][torch.from_numpy(mask)] = torch.from_numpy(np.concatenate(videos))
    outputs[1] = 7.0  # another network, whose loss is its own

    def softmax(logits):
        return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)

    losses = []
    for video, label in zip(videos, classes, strict=True):
        if kind == "per_clip":
            losses += [-math.log(softmax(clip)[label]) for clip in video]
        elif kind == "mean_logits":
            losses.append(-math.log(softmax(video.mean(axis=0))[label]))
        else:
            losses.append(-math.log(softmax(video).mean(axis=0)[label]))
    present = None if present is None else present[None]
    found = clip_losses(outputs, torch.tensor([classes]), present, kind=kind)
    assert found.shape == (2, 1)
    assert found[0].item() == pytest.approx(np.mean(losses), rel=1e-9)
    targets = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    squares = [
        (value - target) ** 2
        for video, target in zip(videos, targets[0].tolist(), strict=True)
        for value in (video[:, 0] if kind == "per_clip" else [video[:, 0].mean()])
    ]
    found = clip_losses(outputs[..., :1], targets, present, kind=kind)
    assert found[0].item() == pytest.approx(np.mean(squares), rel=1e-9)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_equals_the_plain_loop(optimizer):
    data = separable_data(spread=0.5)
    videos = np.flatnonzero(np.array(data.splits) == "train")
    targets = torch.from_numpy(data.labels[videos])
    # BatchNorm takes away what a bias adds: its gradient is rounding alone, which AdamW would blow up to whole steps.
    norm = optimizer == "sgd"
    candidate = Candidate(optimizer=optimizer, lr=1e-2, weight_decay=0.1, batch_norm=norm, batch_size=10)
    training = ClipTraining(epochs=4, num_clips=3, warmup_fraction=0.25)
    embedding = Embedding(make=lambda seed: ClipMlp((12, 6), width_in=8), width=14)
    table = clip_table(data, form=None, coordinates="true", device="cpu")
    other = dataclasses.replace(candidate, lr=0.3)
    stack = train_stack(embedding, table, videos, targets, (other, candidate), (1, 3), training, num_outputs=4)

    with seeded_torch(3, "probe-init"):
        mlp = ClipMlp((12, 6), width_in=8)
    linear = nn.Linear(14, 4)
    with torch.no_grad():
        linear.weight.copy_(initial_weight(14, 4, seed=3).T)
        linear.bias.zero_()
    head = nn.Sequential(*([nn.BatchNorm1d(14, affine=False)] if norm else []), linear)
    parameters = [*mlp.parameters(), *head.parameters()]
    if optimizer == "adamw":
        optimiser = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    else:
        optimiser = torch.optim.SGD(parameters, lr=1e-2, weight_decay=0.1, momentum=0.9)
    counts = np.array([(data.row_video == video).sum() for video in videos])
    for epoch in range(4):
        drawn, present = draw_clips(counts, num_clips=3, seed=3, epoch=epoch)
        batches = epoch_batches(len(videos), batch_size=10, seed=3, epoch=epoch)
        for step, batch in enumerate(batches):
            at = epoch + step / len(batches)
            factor = at if at < 1 else 0.5 * (1 + math.cos(math.pi * (at - 1) / 3))
            for group in optimiser.param_groups:
                group["lr"] = 1e-2 * factor
            rows, labels = [], []
            for place in batch:
                own = np.flatnonzero(data.row_video == videos[place])
                rows += [data.features[own[clip]] for clip in drawn[place][present[place]]]
                labels += [int(targets[place])] * int(present[place].sum())
            features = torch.from_numpy(np.stack(rows))
            loss = functional.cross_entropy(
                head(torch.cat([features, mlp.layers(features)], dim=1)), torch.tensor(labels)
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    plain = [*(each.flatten() for each in mlp.parameters()), linear.weight.T.flatten(), linear.bias]
    torch.testing.assert_close(stack.theta[1, 1], torch.cat(plain), rtol=1e-3, atol=1e-5)
    if norm:
        torch.testing.assert_close(stack.statistics[0][1, 1, 0], head[0].running_mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(stack.statistics[1][1, 1, 0], head[0].running_var, rtol=1e-4, atol=1e-6)


def test_heads_on_a_frozen_embedder_do_not_depend_on_their_neighbours():
    data = separable_data(spread=0.5)
    videos = np.flatnonzero(np.array(data.splits) == "train")
    targets = torch.from_numpy(data.labels[videos])
    predictor = SetPredictor(PREDICTOR, width_in=8)
    before = [parameter.clone() for parameter in predictor.parameters()]
    embedding = Embedding(
        make=lambda seed: SetEmbedder(predictor, refined=True),
        width=embedded_width(PREDICTOR, width_in=8, refined=True),
        form="box6",
        is_frozen=True,
    )
    table = clip_table(data, form="box6", coordinates="true", device="cpu")
    mad = Candidate(optimizer="sgd", lr=1e38, weight_decay=1.0, batch_norm=False, batch_size=10)
    training = ClipTraining(epochs=3, num_clips=2)
    together, alone = (
        train_stack(embedding, table, videos, targets, candidates, (0,), training, num_outputs=4)
        for candidates in ((mad, CANDIDATE), (CANDIDATE,))
    )
    assert together.loss.isfinite().tolist() == [[False], [True]]
    torch.testing.assert_close(together.theta[1], alone.theta[0], rtol=1e-4, atol=1e-6)
    for mine, was in zip(predictor.parameters(), before, strict=True):
        assert torch.equal(mine, was)


def test_a_set_does_not_see_the_padding_of_others(monkeypatch):
    data = separable_data(spread=0.5)  # two to four rows a video
    with seeded_torch(0, "test"):
        embed = SetEmbedder(SetPredictor(PREDICTOR, width_in=8), refined=False).eval()
    embedding = Embedding(make=lambda seed: embed, width=40, form="box6", is_frozen=True)
    plainly = dataclasses.replace(CANDIDATE, batch_norm=False)
    stack = Stack(embedding, (plainly, plainly), (0,), num_outputs=4, device=torch.device("cpu"))
    torch.nn.init.normal_(stack.theta.data)
    weight, bias = stack.theta.detach()[:, 0].split([160, 4], dim=1)
    table = clip_table(data, form="box6", coordinates="true", device="cpu")
    monkeypatch.setattr("featcache.evaluation.clip_training.CLIPS_AT_ONCE", 56)  # seven videos at once
    videos = np.array([55, 3, 4, 9, 10, 11, 30, 31, 2, 0])
    parts = list(iter_outputs(stack, table, videos))
    assert [part.stop for part, _, _ in parts] == [7, 10]
    probabilities = torch.cat([part for _, part, _ in parts], dim=2)[:, 0]
    logits = torch.cat([part for _, _, part in parts], dim=2)[:, 0]
    for place, video in enumerate(videos):
        own = data.row_video == video
        features = torch.from_numpy(data.features[own])
        positions = torch.from_numpy(data.positions["box6"][own])
        with torch.no_grad():
            summary = embed.predictor(features[None], positions[None]).summary[0]
            vectors = torch.cat([features, summary.expand(len(features), -1)], dim=1)
            plain = vectors @ weight.view(2, 40, 4) + bias[:, None]
        torch.testing.assert_close(logits[:, place], plain.mean(dim=1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(probabilities[:, place], plain.softmax(dim=2).mean(dim=1), rtol=1e-4, atol=1e-5)
