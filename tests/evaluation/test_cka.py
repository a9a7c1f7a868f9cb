import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from featcache.evaluation.cka import Block, CkaMaps, block_measures, centred, hsic, largest_block
from featcache.seeding import rng_for


def drawn(n: int, p: int, key: str) -> Tensor:
    """Independent Gaussians, float64 [n, p]."""
    return torch.from_numpy(rng_for(0, "cka", key, n, p).normal(size=(n, p)))


def gram(x: Tensor) -> Tensor:
    return x @ x.T


def written_out(k: Tensor, l: Tensor) -> float:  # noqa: E741  as in the paper
    """Unbiased HSIC term by term, as the papers print it."""
    n = len(k)
    k, l = (each - torch.diag(each.diagonal()) for each in (k, l))  # noqa: E741
    one = torch.ones(n, dtype=torch.float64)
    sums = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return float(torch.trace(k @ l) + sums - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def cka(*batches: tuple[Tensor, Tensor]) -> float:
    """CKA of one layer with another over minibatches of their activations."""
    maps = CkaMaps(1, 1)
    for x, y in batches:
        maps.update(centred(gram(x)[None]), centred(gram(y)[None]))
    return float(maps.result()[0, 0])


def biased(x: Tensor, y: Tensor) -> float:
    """The estimate of Kornblith et al. (2019), whose HSIC is biased."""
    n = len(x)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    k, l = (centre @ gram(each) @ centre for each in (x, y))  # noqa: E741
    return float((k * l).sum() / (k.square().sum() * l.square().sum()).sqrt())


def test_hsic_is_the_formula_for_all_pairs_of_layers() -> None:
    first = torch.stack([gram(drawn(9, 5, key)) for key in "abc"])
    second = torch.stack([gram(drawn(9, 30, key) + 3) for key in "de"])
    expected = [[written_out(k, l) for l in second] for k in first]  # noqa: E741
    np.testing.assert_allclose(hsic(centred(first), centred(second)), expected, rtol=1e-9)


def test_layers_equal_themselves_whatever_their_rotation_and_scale() -> None:
    x, y = drawn(64, 20, "x"), drawn(64, 20, "y")
    turned = torch.linalg.qr(drawn(20, 20, "turn"))[0]
    mixed = x + y
    assert cka((x, x)) == pytest.approx(1.0, abs=1e-12)
    assert cka((x, 7e3 * x @ turned)) == pytest.approx(1.0, abs=1e-6)
    assert cka((x, 1e-4 * mixed @ turned + 1e-3)) == pytest.approx(cka((x, mixed)), abs=1e-6)
    assert 0.2 < cka((x, mixed)) < 0.8


def test_independent_layers_are_not_alike_where_the_biased_estimate_says_so() -> None:
    x, y = drawn(256, 512, "one"), drawn(256, 512, "other")
    assert abs(cka((x, y))) < 0.02
    assert biased(x, y) == pytest.approx(0.665, abs=0.01)


def test_minibatches_are_the_ratio_of_mean_hsic() -> None:
    x = drawn(48, 30, "x")
    y = x[:, :10] + drawn(48, 10, "y")
    batches = [(x[first : first + 16], y[first : first + 16]) for first in (0, 16, 32)]
    means = [
        np.mean([written_out(gram(one), gram(other)) for one, other in pairs])
        for pairs in (batches, [(a, a) for a, _ in batches], [(b, b) for _, b in batches])
    ]
    assert cka(*batches) == pytest.approx(means[0] / np.sqrt(means[1] * means[2]), abs=1e-6)


def test_small_minibatches_estimate_what_all_inputs_have() -> None:
    x = drawn(1600, 6, "x")
    y = x[:, :3] + drawn(1600, 3, "y")
    small = cka(*zip(x.split(16), y.split(16), strict=True))
    assert small == pytest.approx(cka((x, y)), abs=0.02)


def test_sums_are_kept_and_gone_on_with() -> None:
    batches = [(drawn(8, 6, f"x{place}"), drawn(8, 6, f"y{place}")) for place in range(3)]
    maps = CkaMaps(1, 1)
    for x, y in batches[:2]:
        maps.update(centred(gram(x)[None]), centred(gram(y)[None]))
    again = CkaMaps(1, 1)
    again.load({name: tensor.clone() for name, tensor in maps.state().items()})
    again.update(*(centred(gram(each)[None]) for each in batches[2]))
    assert again.num_batches == 3
    assert float(again.result()[0, 0]) == cka(*batches)


def test_a_layer_that_says_the_same_of_all_inputs_has_no_cka() -> None:
    x = drawn(8, 6, "x")
    grams = centred(torch.stack([gram(x), gram(torch.full((8, 6), 0.1, dtype=torch.float64))]))
    maps = CkaMaps(2, 2)
    maps.update(grams, grams)
    np.testing.assert_array_equal(np.isnan(maps.result()), [[False, True], [True, True]])
    measured = block_measures(maps.result(), threshold=0.9, is_self=True)
    assert np.isnan(measured.mean)
    assert measured.largest == Block(first=0, last=0)


def test_three_inputs_are_too_few() -> None:
    with pytest.raises(AssertionError, match="3 inputs"):
        centred(torch.eye(3))


def test_a_map_is_measured_off_its_diagonal() -> None:
    values = np.array([[1.0, 0.95, 0.2], [0.95, 1.0, 0.92], [0.2, 0.92, 1.0]])
    own = block_measures(values, threshold=0.9, is_self=True)
    assert own.mean == pytest.approx((0.95 + 0.2 + 0.92) / 3)
    assert own.share_above == pytest.approx(2 / 3)
    assert own.largest == Block(first=0, last=1)
    assert block_measures(values, threshold=0.9, is_self=False).share_above == pytest.approx(7 / 9)
    assert block_measures(values[:2], threshold=0.9, is_self=False).largest is None


@given(st.integers(1, 9), st.randoms(use_true_random=False), st.floats(0, 1))
def test_the_largest_block_is_that_of_a_plain_search(num: int, random: object, share: float) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    alike = rng.random((num, num)) < share
    alike |= alike.T
    spans = [
        (last - first + 1, -first)
        for first in range(num)
        for last in range(first, num)
        if alike[first : last + 1, first : last + 1].all()
    ]
    found = largest_block(alike)
    assert (None if found is None else (found.num_layers, -found.first)) == max(spans, default=None)
