"""The loss against a case by hand, DINO's two loops, and numerical gradients; centre and temperatures."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from featcache.methods.svt.losses import (
    distillation_loss,
    moved_center,
    reversal_center,
    teacher_targets,
    teacher_temperature,
)
from featcache.methods.svt.pairs import Pair, view_pairs
from featcache.methods.svt.settings import SvtLossSettings


def logits(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def two_loops(student, targets, routes):
    """DINO's double loop over views: every pair of different views of a wanted route, one mean a pair."""
    terms = []
    for teacher, other in itertools.product(range(len(targets)), range(len(student))):
        route = f"{'g' if other < 2 else 'l'}2{'g' if teacher < 2 else 'l'}"
        if other != teacher and route in routes:
            terms.append((-targets[teacher] * functional.log_softmax(student[other] / 0.1, dim=-1)).sum(-1).mean())
    return terms


def test_a_case_by_hand():
    # One video, two prototypes, globals 0 and 1. The teacher's centred logits over its temperature of 0.5 are (0, 0)
    # and (log 3, 0), so it assigns (1/2, 1/2) and (3/4, 1/4). The student's over 0.1 give (1/5, 4/5) and (2/3, 1/3).
    targets = teacher_targets(
        torch.tensor([[[0.7, 0.2]], [[0.7 + math.log(3) / 2, 0.2]]]), torch.tensor([0.7, 0.2]), temperature=0.5
    )
    torch.testing.assert_close(targets, torch.tensor([[[0.5, 0.5]], [[0.75, 0.25]]]))
    student = torch.tensor([[[0.0, math.log(4)]], [[math.log(2), 0.0]]]) / 10
    first = -0.75 * math.log(1 / 5) - 0.25 * math.log(4 / 5)  # the student's view 0 predicts the teacher's view 1
    second = -0.5 * math.log(2 / 3) - 0.5 * math.log(1 / 3)
    pairs = view_pairs(["g2g"], num_locals=0)
    assert distillation_loss(student, targets, pairs, temperature=0.1) == pytest.approx((first + second) / 2)
    assert distillation_loss(student, targets, pairs, temperature=0.1, sums=True) == pytest.approx(first + second)


@pytest.mark.parametrize("routes", [["l2g", "g2g"], ["l2g"], ["g2g"], ["l2l"], ["g2l", "l2l", "g2g"]])
def test_equals_dino_s_loops(routes):
    student, teacher = logits(10, 4, 30) / 5, logits(10, 4, 30, seed=1) / 20
    targets = teacher_targets(teacher, logits(30, seed=2) / 30, temperature=0.04)
    terms = two_loops(student, targets, routes)
    pairs = view_pairs(routes, num_locals=8)
    assert len(terms) == len(pairs)
    loss = distillation_loss(student, targets, pairs, temperature=0.1)
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_a_single_teacher_sums_nine_terms():
    student, targets = logits(10, 4, 30) / 5, logits(2, 4, 30, seed=1).softmax(-1)
    pairs = view_pairs(["l2g", "g2g"], num_locals=8, teacher_view=1)
    assert len(pairs) == 9
    expected = sum(
        (-targets[1] * functional.log_softmax(student[other] / 0.1, dim=-1)).sum(-1).mean()
        for other in {*range(10)} - {1}
    )
    torch.testing.assert_close(distillation_loss(student, targets, pairs, temperature=0.1, sums=True), expected)


def test_gradients_reach_the_student_alone_and_equal_those_of_the_loops():
    student, teacher = logits(4, 3, 6).requires_grad_(), logits(2, 3, 6, seed=1).requires_grad_()
    targets = teacher_targets(teacher, torch.zeros(6), temperature=0.04)
    assert not targets.requires_grad
    loss = distillation_loss(student, targets, view_pairs(["l2g", "g2g"], num_locals=2), temperature=0.1)
    (mine,) = torch.autograd.grad(loss, student)
    expected = torch.stack(two_loops(student, targets, ["l2g", "g2g"])).mean()
    torch.testing.assert_close(mine, torch.autograd.grad(expected, student)[0])


def test_positions_are_copied_to_a_device_once(monkeypatch):
    student, targets = logits(4, 3, 6), logits(2, 3, 6, seed=1).softmax(dim=-1)
    pairs = view_pairs(["l2g", "g2g"], num_locals=2)
    first = distillation_loss(student, targets, pairs, temperature=0.1)
    monkeypatch.delattr(torch, "tensor")
    assert torch.equal(distillation_loss(student, targets, pairs, temperature=0.1), first)


def test_autocast_changes_nothing():
    student, targets = logits(2, 3, 500), logits(2, 3, 500, seed=1).softmax(-1)
    pairs = [Pair(0, 1), Pair(1, 0)]
    plain = distillation_loss(student, targets, pairs, temperature=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distillation_loss(student, targets, pairs, temperature=0.1), plain)


def test_the_centre_follows_the_mean_over_views_and_videos():
    center, teacher = torch.tensor([1.0, -1.0]), torch.tensor([[[0.0, 2.0], [1.0, 0.0]], [[2.0, 4.0], [5.0, 6.0]]])
    moved = moved_center(center, teacher, momentum=0.9)
    torch.testing.assert_close(moved, torch.tensor([0.9 + 0.1 * 2.0, -0.9 + 0.1 * 3.0]))
    assert center.tolist() == [1.0, -1.0]
    halves = torch.stack([part.flatten(0, 1).mean(0) for part in teacher.split(1)])
    torch.testing.assert_close(moved_center(center, halves, momentum=0.9), moved)
    # logits that are alike for all videos are forgotten: the assignment becomes uniform
    for _ in range(300):
        center = moved_center(center, teacher[:1, :1], momentum=0.9)
    torch.testing.assert_close(teacher_targets(teacher[0, 0], center, temperature=0.04), torch.full((2,), 0.5))


def test_what_a_view_and_its_reversal_share_is_no_target():
    shared, own = logits(2, 3, 50), logits(2, 3, 50, seed=1)
    teacher = torch.cat([shared + own, shared - own], dim=1)
    center = reversal_center(teacher)
    torch.testing.assert_close(teacher - center, torch.cat([own, -own], dim=1))
    blind = torch.cat([shared, shared], dim=1)
    targets = teacher_targets(blind, reversal_center(blind), temperature=0.02)
    torch.testing.assert_close(targets, torch.full_like(targets, 1 / 50))


def test_temperature_of_the_teacher():
    assert teacher_temperature(SvtLossSettings(), 0.0) == 0.04
    dino = SvtLossSettings(teacher_temperature=0.07, teacher_warmup_epochs=30)
    assert [teacher_temperature(dino, epoch) for epoch in (0, 15, 30, 99)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
