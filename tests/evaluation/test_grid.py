"""The grid against each head trained alone by torch.nn.Linear and torch.optim."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from featcache.evaluation.grid import (
    epoch_batches,
    initial_weight,
    iter_video_probabilities,
    learning_rate_factor,
    train_grid,
)
from featcache.evaluation.settings import Head, LinearSettings

HEADS = [
    Head(optimizer=optimizer, lr=lr, weight_decay=decay, batch_norm=batch_norm)
    for optimizer, lr, decay in (("sgd", 0.5, 0.0), ("sgd", 0.05, 1e-2), ("adamw", 1e-2, 0.1), ("adamw", 1e-3, 0.0))
    for batch_norm in (False, True)
]


def rows(num_rows=67, num_channels=12, num_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_rows)
    features = rng.normal(size=(num_rows, num_channels)) + 2 * rng.normal(size=(num_classes, num_channels))[labels] + 3
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


def train_alone(features, labels, head, *, num_classes, settings, seed):
    """The plain loop: one Linear, torch's optimiser and LambdaLR, the batches of this seed."""
    linear = nn.Linear(features.shape[1], num_classes)
    with torch.no_grad():
        linear.weight.copy_(initial_weight(features.shape[1], num_classes, seed=seed).T)
        linear.bias.zero_()
    norm = nn.BatchNorm1d(features.shape[1], affine=False) if head.batch_norm else nn.Identity()
    model = nn.Sequential(norm, linear)
    if head.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), lr=head.lr, momentum=settings.momentum, weight_decay=head.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=head.lr, weight_decay=head.weight_decay)
    for epoch in range(settings.epochs):
        batches = epoch_batches(len(features), batch_size=settings.batch_size, seed=seed, epoch=epoch)
        for step, batch in enumerate(batches):
            fraction = epoch + step / len(batches)
            warm, total = settings.warmup_fraction * settings.epochs, settings.epochs
            if fraction < warm:
                factor = fraction / warm
            else:
                factor = (1 + math.cos(math.pi * (fraction - warm) / (total - warm))) / 2
            for group in optimizer.param_groups:
                group["lr"] = head.lr * factor
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(features[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize("batch_size", [16, 1000], ids=["five batches", "batch larger than the rows"])
def test_each_head_equals_training_it_alone(batch_size):
    settings = LinearSettings(seeds=(0, 7), epochs=6, batch_size=batch_size, warmup_fraction=0.25)
    features, labels = rows()
    fresh, _ = rows(seed=1)
    grid = train_grid(features, labels, HEADS, num_classes=5, settings=settings)
    ours = grid.probabilities(fresh)
    for place, head in enumerate(HEADS):
        for slot, seed in enumerate(settings.seeds):
            model = train_alone(features, labels, head, num_classes=5, settings=settings, seed=seed)
            with torch.no_grad():
                theirs = model(fresh).softmax(dim=1)
            torch.testing.assert_close(ours[slot, :, place], theirs, rtol=2e-4, atol=2e-5)
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)  # seeds differ


def test_heads_do_not_depend_on_their_neighbours():
    settings = LinearSettings(seeds=(3,), epochs=3, batch_size=16)
    features, labels = rows()
    together = train_grid(features, labels, HEADS, num_classes=5, settings=settings).probabilities(features)
    alone = train_grid(features, labels, HEADS[3:4], num_classes=5, settings=settings).probabilities(features)
    torch.testing.assert_close(together[:, :, 3:4], alone, rtol=1e-5, atol=1e-6)


def test_a_head_that_diverges_harms_none():
    settings = LinearSettings(seeds=(0,), epochs=10, batch_size=16, warmup_fraction=0.0)
    features, labels = rows()
    mad = Head(optimizer="sgd", lr=1e38, weight_decay=1.0, batch_norm=False)
    grid = train_grid(features, labels, [HEADS[2], mad, HEADS[2]], num_classes=5, settings=settings)
    assert grid.train_loss.isfinite().tolist() == [[True, False, True]]
    alone = train_grid(features, labels, HEADS[2:3], num_classes=5, settings=settings)
    together = grid.probabilities(features)
    torch.testing.assert_close(together[:, :, [0]], alone.probabilities(features), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together[:, :, 0], together[:, :, 2])


def test_training_lowers_the_loss_below_chance():
    features, labels = rows()
    settings = LinearSettings(seeds=(0,), epochs=20, batch_size=16)
    loss = train_grid(features, labels, HEADS, num_classes=5, settings=settings).train_loss
    assert loss.shape == (1, len(HEADS))
    assert (loss[:, :6] < 0.5 * math.log(5)).all()


def test_same_seed_same_bits():
    features, labels = rows()
    settings = LinearSettings(seeds=(0, 1), epochs=2, batch_size=16)
    once, again = (
        train_grid(features, labels, HEADS, num_classes=5, settings=settings).probabilities(features) for _ in range(2)
    )
    assert torch.equal(once, again)


@pytest.mark.parametrize(("num_rows", "batch_size"), [(1, 4), (5, 4), (67, 16), (128, 128), (129, 128), (3, 100)])
def test_batches_hold_every_row_once_and_are_even(num_rows, batch_size):
    batches = epoch_batches(num_rows, batch_size=batch_size, seed=0, epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(num_rows))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_schedule():
    cosine = LinearSettings(epochs=10, warmup_fraction=0.2)
    points = [learning_rate_factor(epoch, cosine) for epoch in (0, 1, 2, 6, 10)]
    assert points == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-12)
    constant = LinearSettings(epochs=10, warmup_fraction=0.0, schedule="constant")
    assert [learning_rate_factor(epoch, constant) for epoch in (0, 9.9)] == [1, 1]


@pytest.mark.parametrize("rows_at_once", [1, 7, 10**6])
def test_views_are_averaged_after_the_softmax(monkeypatch, rows_at_once):
    settings = LinearSettings(seeds=(0, 1), epochs=1, batch_size=16)
    features, labels = rows()
    grid = train_grid(features, labels, HEADS, num_classes=5, settings=settings)
    monkeypatch.setattr("featcache.evaluation.grid.LOGITS_AT_ONCE", rows_at_once * 2 * len(HEADS) * 5)
    counts = np.array([1, 30, 2, 4, 9, 21])
    parts = list(iter_video_probabilities(grid, features, counts))
    assert [index for part, _ in parts for index in range(part.start, part.stop)] == list(range(6))
    averaged = torch.cat([part for _, part in parts], dim=1)
    plain = [part.mean(dim=1) for part in grid.probabilities(features).split(counts.tolist(), dim=1)]
    torch.testing.assert_close(averaged, torch.stack(plain, dim=1))
