"""The losses against slow plain references in float64, and against values worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional

from featcache.methods.scale.losses import (
    balanced_assignment,
    contrast,
    masked_clip_loss,
    set_clustering_loss,
    set_contrast_loss,
    set_regression_loss,
)


def unit(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def plain_contrast(queries, keys, positive, temperature):
    """All logits at once, one query after another."""
    logits = queries @ keys.T / temperature
    return torch.stack(
        [torch.logsumexp(row, dim=0) - row[own] for row, own in zip(logits, positive.tolist(), strict=True)]
    ).mean()


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_contrast_in_chunks_equals_full_logits(rows):
    queries, keys = unit(7, 5, seed=0).requires_grad_(), unit(11, 5, seed=1).requires_grad_()
    positive = torch.tensor([3, 3, 0, 10, 7, 1, 2])
    mine = contrast(queries, keys, positive, temperature=0.2, chunk_bytes=4 * 11 * rows)
    wanted = plain_contrast(queries, keys, positive, 0.2)
    torch.testing.assert_close(mine.loss, wanted)
    for got, plain in zip(gradients(3 * mine.loss, queries, keys), gradients(3 * wanted, queries, keys), strict=True):
        torch.testing.assert_close(got, plain)


def test_contrast_passes_a_numerical_check_of_its_gradient():
    queries, keys = unit(3, 4, seed=0).requires_grad_(), unit(5, 4, seed=1).requires_grad_()
    positive = torch.tensor([0, 4, 2])
    assert torch.autograd.gradcheck(
        lambda q, k: contrast(q, k, positive, temperature=0.2, chunk_bytes=40).loss, (queries, keys)
    )


def test_contrast_counts_the_queries_that_find_their_key():
    keys = torch.eye(4)
    result = contrast(keys[[0, 1, 2]], keys, torch.tensor([0, 1, 3]), temperature=0.2)
    assert result.accuracy.item() == pytest.approx(2 / 3)
    assert not result.accuracy.requires_grad


def test_contrast_without_a_query_is_zero_with_a_graph():
    queries, keys = torch.zeros(0, 4, requires_grad=True), unit(3, 4, seed=1).float().requires_grad_()
    loss = contrast(queries, keys, torch.zeros(0, dtype=torch.int64), temperature=0.2).loss
    assert loss.item() == 0
    loss.backward()
    assert not keys.grad.any()


def test_contrast_without_gradients_keeps_no_graph():
    result = contrast(unit(3, 4, seed=0), unit(3, 4, seed=1), torch.arange(3), temperature=0.2)
    assert not result.loss.requires_grad


def test_golden_values():
    """Two orthogonal keys at temperature 0.2: logits 5 and 0."""
    keys = torch.eye(2, dtype=torch.float64)
    alone = math.log(1 + math.exp(-5))
    assert contrast(keys, keys, torch.arange(2), temperature=0.2).loss.item() == pytest.approx(alone)
    assert set_contrast_loss(keys, keys, temperature=0.2).loss.item() == pytest.approx(alone)
    assert contrast(keys, keys, torch.tensor([1, 0]), temperature=0.2).loss.item() == pytest.approx(5 + alone)
    assert set_regression_loss((keys, keys), (keys, keys)).item() == 0
    assert set_regression_loss((keys, keys), (keys.flip(0), keys.flip(0))).item() == pytest.approx(2)


def test_masked_clips_are_found_among_all_clips():
    predictions, targets = unit(8, 6, seed=2), unit(8, 6, seed=3)
    positive = torch.tensor([1, 4, 6])
    one_way = masked_clip_loss(predictions[positive], targets, positive, temperature=0.2)
    torch.testing.assert_close(one_way.loss, plain_contrast(predictions[positive], targets, positive, 0.2))
    both = masked_clip_loss(predictions, targets, positive, temperature=0.2, symmetric=True)
    back = plain_contrast(targets[positive], predictions, positive, 0.2)
    torch.testing.assert_close(both.loss, (one_way.loss + back) / 2)


def test_sets_are_compared_in_both_directions():
    first, second = unit(5, 6, seed=4).requires_grad_(), unit(5, 6, seed=5).requires_grad_()
    mine = set_contrast_loss(first, second, temperature=0.2).loss
    logits = first @ second.T / 0.2
    own = torch.arange(5)
    wanted = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(gradients(mine, first, second), gradients(wanted, first, second))


def test_regression_stops_the_gradient_at_the_other_set():
    predicted, projected = unit(4, 6, seed=6).requires_grad_(), unit(4, 6, seed=7).requires_grad_()
    loss = set_regression_loss((predicted[:2], predicted[2:]), (projected[:2], projected[2:]))
    cosine = (predicted * projected.roll(2, dims=0)).sum(dim=-1)
    torch.testing.assert_close(loss, (2 - 2 * cosine).mean())
    loss.backward()
    assert predicted.grad.any()
    assert projected.grad is None


def test_assignment_is_balanced():
    logits = unit(64, 8, seed=8) @ unit(4, 8, seed=9).T / 0.05
    few, many = (balanced_assignment(logits, num_steps=steps) for steps in (3, 200))
    for assigned in (few, many):
        torch.testing.assert_close(assigned.sum(dim=1), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(many.sum(dim=0), torch.full((4,), 16.0, dtype=torch.float64), rtol=1e-3, atol=0)
    # Sinkhorn-Knopp as SwAV writes it, on the exponentials themselves
    plain = logits.exp().T / logits.exp().sum()
    for _ in range(3):
        plain = plain / plain.sum(dim=1, keepdim=True) / 4
        plain = plain / plain.sum(dim=0, keepdim=True) / 64
    torch.testing.assert_close(few, (plain * 64).T)


def test_clustering_predicts_the_other_sets_assignment():
    first, second = (unit(6, 8, seed=seed) @ unit(4, 8, seed=12).T for seed in (10, 11))
    first.requires_grad_()
    loss = set_clustering_loss(first, second, temperature=0.2, epsilon=0.05, num_steps=3)
    codes = [balanced_assignment(cosines.detach() / 0.05, num_steps=3) for cosines in (first, second)]
    there = -(codes[1] * (first / 0.2).log_softmax(dim=1)).sum(dim=1).mean()
    back = -(codes[0] * (second / 0.2).log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss, (there + back) / 2)
    torch.testing.assert_close(gradients(loss, first), gradients((there + back) / 2, first))


def test_loss_is_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        queries = unit(4, 8, seed=13).float().requires_grad_()
        loss = contrast(queries, unit(6, 8, seed=14).float(), torch.arange(4), temperature=0.2).loss
    assert loss.dtype == torch.float32
    exact = plain_contrast(queries.double(), unit(6, 8, seed=14).float().double(), torch.arange(4), 0.2)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
