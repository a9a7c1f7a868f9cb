"""Losses against sums by hand, and weights of AE-KD against a general solver."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from featcache.config import parse
from featcache.errors import ConfigError
from featcache.methods.distill.losses import divergence, mean_gradients, teacher_weights
from featcache.methods.distill.min_norm import smallest_combination
from featcache.methods.distill.settings import DistillSettings, StudentSettings
from featcache.seeding import rng_for


def alone(tensor):
    return tensor


def drawn(*shape, key=0):
    return torch.from_numpy(rng_for(0, "logits", key).normal(size=shape).astype(np.float32) * 3)


def reference(gram, largest):
    """The weights by a general solver of scipy."""
    num = len(gram)
    scaled = gram / (np.trace(gram) / num)
    found = minimize(
        lambda w: w @ scaled @ w,
        np.full(num, 1 / num),
        jac=lambda w: 2 * scaled @ w,
        bounds=[(0, max(largest, 1 / num))] * num,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(num)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return found.x


def test_a_divergence_is_the_sum_by_hand_at_temperature_4():
    student, teacher = [[2.0, 0.0, -4.0], [1.0, 1.0, 1.0]], [[4.0, -4.0, 0.0], [0.0, 8.0, 0.0]]
    total = 0.0
    for mine, theirs in zip(student, teacher, strict=True):
        p, q = ([math.exp(z / 4) / sum(math.exp(y / 4) for y in row) for z in row] for row in (theirs, mine))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    by_hand = 16 * total / 2
    assert divergence(torch.tensor(student), torch.tensor(teacher), temperature=4).item() == pytest.approx(by_hand)
    assert by_hand == pytest.approx(16 * (0.18384 + 0.43303) / 2, abs=1e-3)
    assert divergence(torch.tensor(teacher), torch.tensor(teacher), temperature=4).item() == pytest.approx(0, abs=1e-6)


def test_gradients_in_closed_form_are_those_of_a_backward_pass():
    student = drawn(6, 5).requires_grad_()
    teachers = torch.stack([drawn(6, 5, key=each) for each in (1, 2, 3)])
    closed = mean_gradients(student, teachers, temperature=4)
    for teacher, mine in zip(teachers, closed, strict=True):
        (gradient,) = torch.autograd.grad(divergence(student, teacher, temperature=4), student)
        torch.testing.assert_close(mine, gradient.sum(dim=0))  # the loss divides by the batch
    assert not closed.requires_grad


def test_two_equal_teachers_weigh_the_same():
    student, teacher = drawn(4, 3), drawn(4, 3, key=1)
    pair = torch.stack([teacher, teacher])
    about = {"temperature": 4, "largest": 0.6, "mean": alone}
    assert teacher_weights("aekd", student, pair, **about).tolist() == [0.5, 0.5]
    assert teacher_weights("mean", student, pair, **about).tolist() == [0.5, 0.5]
    assert teacher_weights("sum", student, pair, **about).tolist() == [1, 1]
    third = torch.stack([teacher, drawn(4, 3, key=2), teacher])
    first, _, last = teacher_weights("aekd", student, third, **about).tolist()
    assert first == pytest.approx(last, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_three_teachers_are_weighed_as_by_a_general_solver(scale):
    vectors = np.array([[3.0, -1.0, -2.0], [0.1, 0.2, -0.3], [1.0, -2.0, 1.0]]) * scale
    for order in ([0, 1, 2], [2, 0, 1]):
        gram = vectors[order] @ vectors[order].T
        mine = smallest_combination(gram.tolist(), largest=0.6)
        np.testing.assert_allclose(mine, reference(gram, 0.6), atol=1e-6)
        np.testing.assert_allclose(mine, np.array([0.03, 0.6, 0.37])[order], atol=1e-6)


def test_released_weights_are_ours_where_gradients_are_large():
    """scikit-learn's one-class machine, as AE-KD's code calls it; its tolerance is absolute, so only for large ones."""
    from sklearn.svm import OneClassSVM

    teachers = torch.stack([drawn(8, 5, key=each) * 3 for each in (1, 2, 3, 4)])
    gradients = mean_gradients(drawn(8, 5) * 3, teachers, temperature=4)
    gram = (gradients @ gradients.T).double().numpy() * 1e4
    nu = 1 / (0.6 * 4)
    machine = OneClassSVM(kernel="precomputed", nu=nu, tol=1e-6).fit(gram)
    released = np.zeros(4)
    released[machine.support_] = machine.dual_coef_ / (4 * nu)
    np.testing.assert_allclose(smallest_combination(gram.tolist(), largest=0.6), released, atol=1e-4)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000), st.sampled_from([0.1, 0.4, 0.6, 1.0]))
def test_no_weights_give_a_shorter_sum(num, width, key, largest):
    vectors = rng_for(1, key).normal(size=(num, width))
    gram = vectors @ vectors.T
    mine = np.array(smallest_combination(gram.tolist(), largest=largest))
    bound = max(largest, 1 / num)
    assert mine.min() >= 0
    assert mine.max() <= bound + 1e-12
    assert mine.sum() == pytest.approx(1)
    theirs = reference(gram, largest)
    assert mine @ gram @ mine <= theirs @ gram @ theirs + 1e-6 * np.trace(gram)


def test_nothing_to_weigh():
    assert smallest_combination([[0.0, 0.0], [0.0, 0.0]], largest=0.6) == [0.5, 0.5]
    assert smallest_combination([[2.0]], largest=0.6) == [1.0]
    assert teacher_weights("aekd", drawn(2, 3), drawn(1, 2, 3), temperature=4, largest=0.6, mean=alone).tolist() == [
        1.0
    ]


def test_processes_average_the_gradients_before_they_weigh():
    student, teachers = drawn(4, 3), torch.stack([drawn(4, 3, key=each) for each in (1, 2)])
    about = {"temperature": 4, "largest": 0.9}
    whole = teacher_weights("aekd", student, teachers, mean=alone, **about)
    other = mean_gradients(student[2:], teachers[:, 2:], temperature=4)
    halves = teacher_weights("aekd", student[:2], teachers[:, :2], mean=lambda own: (own + other) / 2, **about)
    torch.testing.assert_close(halves, whole)


def test_settings_say_what_is_lacking(tmp_path):
    given = {"source": str(tmp_path), "students": [{"backbone": "r21d-tiny"}]}
    with pytest.raises(ConfigError, match="no teacher is given"):
        parse(DistillSettings, given)
    assert DistillSettings(**given, kd_weight=0).teachers == ()
    with pytest.raises(ConfigError, match="two students are named 'r21d-tiny'"):
        parse(DistillSettings, {**given, "students": given["students"] * 2, "kd_weight": 0})
    with pytest.raises(ConfigError, match=r"has no {} for a class"):
        parse(DistillSettings, {**given, "kd_weight": 0, "prompt": "a video"})
    student = StudentSettings(backbone="timm/vit.dino", input_size=32)
    tuned = DistillSettings(**given, kd_weight=0, head_dropout=0.1).as_finetuning(student, out="there")
    assert (student.folder, tuned.backbone, tuned.input_size) == ("timm-vit.dino", "timm/vit.dino", 32)
    assert (tuned.head_dropout, tuned.weights, tuned.out, tuned.command) == (0.1, "random", "there", "train-finetune")
