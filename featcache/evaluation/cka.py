"""Centered kernel alignment (CKA) of the layers of two networks, and measures of a map of it.

The Gram matrix of a layer holds the products of what it says of n inputs, X X', [n, n]. HSIC is the unbiased estimator
of Song et al., in minibatches as in Nguyen, Raghu and Kornblith (ICLR 2021): its mean over minibatches estimates that
of all inputs, whatever their size. CKA = mean HSIC(K, L) / sqrt(mean HSIC(K, K) * mean HSIC(L, L)).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SMALLEST_BATCH = 4
"""The estimator divides by n - 3."""

ROUNDING = 1e-9
"""What is smaller, relative to the largest product, is rounding: such inputs are all alike."""

Map = npt.NDArray[np.float64]


def centred(grams: Tensor) -> Tensor:
    """Gram matrices with which unbiased HSIC is a plain mean of products, see :func:`hsic`; float64 [..., n, n].

    The diagonal is left out, and each row and column sums to 0 without it (Szekely and Rizzo's U-centering). Matrices
    of inputs that are all alike become 0.

    Args:
        grams: Symmetric [..., n, n] of at least four inputs.
    """
    n = grams.shape[-1]
    assert n >= SMALLEST_BATCH, f"HSIC of {n} inputs is not defined"
    values = grams.double()
    values = values - torch.diag_embed(values.diagonal(dim1=-2, dim2=-1))
    sums = values.sum(dim=-1, keepdim=True) / (n - 2)
    total = sums.sum(dim=-2, keepdim=True) / (n - 1)
    values = values - sums - sums.mT + total
    values = values - torch.diag_embed(values.diagonal(dim1=-2, dim2=-1))
    largest, rest = (each.abs().amax(dim=(-2, -1), keepdim=True) for each in (grams.double(), values))
    return values * (rest > ROUNDING * largest)


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased HSIC of every layer of one network with every layer of another, float64 [La, Lb].

    For Gram matrices K, L with a diagonal of 0 this is ``1 / (n (n - 3)) * (tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) -
    2 / (n - 2) 1'KL1)``.

    Args:
        first: :func:`centred` Gram matrices, [La, n, n].
        second: The same of the other network and the same inputs, [Lb, n, n].
    """
    n = first.shape[-1]
    return first.flatten(1) @ second.flatten(1).T / (n * (n - 3))


class CkaMaps:
    """Sums HSIC over minibatches; holds one number per pair of layers, and no Gram matrix.

    Attributes:
        num_batches: Number of minibatches so far.
        cross: Sum of HSIC between the layers of both networks, float64 [La, Lb].
        own: Sums of HSIC of each layer with itself, float64 [La] and [Lb].
    """

    def __init__(self, num_layers: int, num_others: int) -> None:
        """Begin with nothing.

        Args:
            num_layers: Number of layers La of the first network.
            num_others: Number of layers Lb of the second one.
        """
        self.num_batches = 0
        self.cross = torch.zeros(num_layers, num_others, dtype=torch.float64)
        self.own = tuple(torch.zeros(number, dtype=torch.float64) for number in (num_layers, num_others))

    def update(self, first: Tensor, second: Tensor) -> None:
        """Add a minibatch.

        Args:
            first: :func:`centred` Gram matrices of the first network's layers, [La, n, n].
            second: Those of the second network for the same inputs, [Lb, n, n]; for a map of a network with itself the
                same tensor.
        """
        n = first.shape[-1]
        self.cross += hsic(first, second)
        for sums, grams in zip(self.own, (first, second), strict=True):
            sums += grams.square().sum(dim=(1, 2)) / (n * (n - 3))
        self.num_batches += 1

    def result(self) -> Map:
        """CKA of each pair of layers, float64 [La, Lb]; NaN for a layer that says the same of all inputs."""
        rows, columns = self.own
        scale = (rows[:, None] * columns[None]).sqrt()
        values: Map = torch.where(scale > 0, self.cross / scale, torch.nan).numpy()
        return values

    def state(self) -> dict[str, Tensor]:
        """All sums, to go on with later by :meth:`load`."""
        return {"num_batches": torch.tensor(self.num_batches), "cross": self.cross, "rows": self.own[0]} | {
            "columns": self.own[1]
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a :meth:`state` of the same layers."""
        self.num_batches = int(state["num_batches"])
        self.cross = state["cross"].clone()
        self.own = (state["rows"].clone(), state["columns"].clone())


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Neighbouring layers of which all pairs are alike.

    Attributes:
        first: Number of the first layer, from 0.
        last: Number of the last layer.
    """

    first: int
    last: int

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMeasures:
    """What is otherwise judged by eye in a map: how much the layers of a network say the same.

    Attributes:
        mean: Mean CKA over the pairs of different layers, or over all pairs of layers of two networks.
        share_above: Share of these pairs above the threshold.
        largest: The most layers in a row along the diagonal of which all pairs are above the threshold; the first of
            several. ``None`` if the networks have different layers.
        threshold: The threshold.
    """

    mean: float
    share_above: float
    largest: Block | None
    threshold: float


def block_measures(values: Map, *, threshold: float, is_self: bool) -> BlockMeasures:
    """Measure a map; pairs whose CKA is not defined are left out, and are in no block.

    Args:
        values: CKA, [La, Lb].
        threshold: CKA above which a pair of layers counts as alike.
        is_self: Whether the map is that of a network with itself, of which the diagonal is 1.
    """
    pairs = values[~np.eye(len(values), dtype=bool)] if is_self else values.ravel()
    known = pairs[np.isfinite(pairs)]
    return BlockMeasures(
        mean=float(known.mean()) if len(known) else float("nan"),
        share_above=float((known > threshold).mean()) if len(known) else float("nan"),
        largest=largest_block(values > threshold) if values.shape[0] == values.shape[1] else None,
        threshold=threshold,
    )


def largest_block(alike: npt.NDArray[np.bool_]) -> Block | None:
    """The longest run of layers all pairs of which are alike, the first of several; ``None`` if no layer is.

    Args:
        alike: Whether a pair is, [L, L]; a pair counts if both orders do.
    """
    both = alike & alike.T
    first, best = 0, None
    for last in range(len(both)):
        apart = np.flatnonzero(~both[first : last + 1, last])
        if len(apart):
            first += int(apart[-1]) + 1
        if first <= last and (best is None or last - first + 1 > best.num_layers):
            best = Block(first=first, last=last)
    return best
