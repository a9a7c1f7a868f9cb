"""The matrix products of one pre-training step of SCALE, counted from the settings alone, and their speed."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from cells import synchronise
from torch import Tensor

from featcache.methods.scale.settings import ScaleHeadSettings, ScaleSettings
from featcache.networks.settings import NUM_NUMBERS

Form = Literal["nn", "nt", "tn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """``count`` products [rows, inner] x [inner, columns] at once.

    Attributes:
        form: Which factor is transposed in memory: ``nt`` is a linear layer's forward pass, ``nn`` the gradient of its
            input, ``tn`` the gradient of its weight.
        rows: Number of rows of the result.
        inner: Length of the sums.
        columns: Number of columns of the result.
        count: Number of products in one batched call.
    """

    form: Form
    rows: int
    inner: int
    columns: int
    count: int = 1

    @property
    def operations(self) -> int:
        """Number of multiplications and additions."""
        return 2 * self.count * self.rows * self.inner * self.columns


def step_products(settings: ScaleSettings, *, width_in: int, num_masked: int) -> list[Product]:
    """All products of the forward and backward pass of one step with both losses, MCM in one direction, SET by InfoNCE.

    Gradients that are not needed (of stored vectors, of positions) are left out, and so is everything but products:
    norms, softmax, GELU, dropout, gathers and the optimiser.

    Args:
        settings: The published settings, or others with these losses.
        width_in: Number of channels of a clip.
        num_masked: Number of masked clips in the batch.
    """
    batch, clips = settings.training.batch_size, settings.clips_per_set
    predictor, heads = settings.predictor, settings.heads
    sets, rows = 2 * batch, 2 * batch * clips
    tokens, width, hidden = sets * (clips + 1), predictor.width, int(predictor.width * predictor.mlp_ratio)
    products = [
        *linear(rows, width_in, width, input_needs_grad=False),
        *linear(rows, NUM_NUMBERS[predictor.position], predictor.position_hidden, input_needs_grad=False),
        *linear(rows, predictor.position_hidden, width),
    ]
    for _ in range(predictor.depth):
        products += linear(tokens, width, 3 * width)
        products += attention(sets * predictor.num_heads, clips + 1, width // predictor.num_heads)
        products += linear(tokens, width, width) + linear(tokens, width, hidden) + linear(tokens, hidden, width)
    products += head(rows, width_in, heads, hidden=heads.target_hidden, depth=heads.target_layers, is_input=True)
    products += head(num_masked, width, heads, hidden=heads.hidden, depth=heads.layers)
    products += head(sets, width, heads, hidden=heads.hidden, depth=heads.layers)
    products += linear(num_masked, heads.width, rows)  # logits of MCM: both factors need a gradient
    return products + 2 * linear(batch, heads.width, batch)


def linear(rows: int, width_in: int, width_out: int, *, input_needs_grad: bool = True) -> list[Product]:
    """Products of a linear layer: forward pass, gradient of the weight and, if needed, of the input."""
    forward = Product(form="nt", rows=rows, inner=width_in, columns=width_out)
    weight = Product(form="tn", rows=width_out, inner=rows, columns=width_in)
    into = Product(form="nn", rows=rows, inner=width_out, columns=width_in)
    return [forward, weight, *([into] if input_needs_grad else [])]


def attention(count: int, tokens: int, width: int) -> list[Product]:
    """Products of attention with ``count`` heads: scores, output, gradients of queries, keys, values and scores."""
    scores = Product(form="nt", rows=tokens, inner=width, columns=tokens, count=count)
    mixed = Product(form="nn", rows=tokens, inner=tokens, columns=width, count=count)
    transposed = Product(form="tn", rows=tokens, inner=tokens, columns=width, count=count)
    return [scores, mixed, scores, mixed, transposed, transposed]


def head(
    rows: int, width_in: int, heads: ScaleHeadSettings, *, hidden: int, depth: int, is_input: bool = False
) -> list[Product]:
    """Products of a projection head; with ``is_input`` its input needs no gradient."""
    widths = [width_in, *[hidden] * (depth - 1), heads.width]
    return [
        product
        for number in range(depth)
        for product in linear(rows, widths[number], widths[number + 1], input_needs_grad=not (is_input and number == 0))
    ]


def operations(products: Iterable[Product]) -> int:
    """Number of multiplications and additions of all products."""
    return sum(product.operations for product in products)


def seconds_of(products: Iterable[Product], *, dtype: torch.dtype, device: str, repeats: int = 3) -> float:
    """Seconds that the machine takes for these shapes, each measured alone, the best of ``repeats``."""
    return sum(
        number * seconds_of_one(product, dtype=dtype, device=device, repeats=repeats)
        for product, number in Counter(products).items()
    )


def seconds_of_one(product: Product, *, dtype: torch.dtype, device: str, repeats: int) -> float:
    """The best time of one call that writes into an allocated result."""
    left, right, result = factors(product, dtype=dtype, device=device)
    number = max(1, min(100, int(2e9 // product.operations)))
    times = []
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        for _ in range(number):
            torch.matmul(left, right, out=result)
        synchronise(device)
        times.append((time.perf_counter() - started) / number)
    return min(times)


def factors(product: Product, *, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Both factors in their memory layout, and an allocated result."""
    is_batched = product.count > 1

    def made(shape: tuple[int, int], *, is_transposed: bool) -> Tensor:
        stored = shape[::-1] if is_transposed else shape
        tensor = torch.randn((product.count, *stored) if is_batched else stored, dtype=dtype, device=device)
        return tensor.transpose(-1, -2) if is_transposed else tensor

    left = made((product.rows, product.inner), is_transposed=product.form == "tn")
    right = made((product.inner, product.columns), is_transposed=product.form == "nt")
    return left, right, torch.matmul(left, right)
