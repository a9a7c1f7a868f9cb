"""Probes at the size of Kinetics-400: 52 linear heads on 240,000 rows of 768, and kNN of 20,000 against them."""

import dataclasses
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from cells import synchronise

from featcache.evaluation.flat_index import flat_index
from featcache.evaluation.grid import train_grid
from featcache.evaluation.settings import LinearSettings
from featcache.extract.encode import float32_products
from featcache.metrics.neighbours import search_torch
from gpu_parts.bench import Bench, rate, took
from gpu_parts.checks.probes import serving_card


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Size of the probes."""

    rows: int
    queries: int
    width: int
    classes: int
    epochs: int


FULL = Sizes(rows=240_000, queries=20_000, width=768, classes=400, epochs=1)
SMALL = Sizes(rows=600, queries=50, width=32, classes=4, epochs=1)
NEIGHBOURS = 20


def run(bench: Bench) -> None:
    """Measure the grid, and exact search by torch, and by faiss if it works on the card."""
    sizes = SMALL if bench.is_small else FULL
    shape = f"{sizes.rows:,} x {sizes.width}"
    bench.row(f"52 heads, {sizes.classes} classes, {shape}", partial(grid, bench, sizes), needs=10.0)
    bench.row(f"kNN of {sizes.queries:,} against {shape}, torch", partial(neighbours, bench, sizes), needs=8.0)
    bench.row(f"kNN of {sizes.queries:,} against {shape}, faiss", partial(by_faiss, bench, sizes), needs=15.0)


def grid(bench: Bench, sizes: Sizes) -> dict[str, Any]:
    """One epoch of the default grid, with the features on the device."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(sizes.rows, sizes.width, generator=generator).to(bench.device)
    labels = torch.randint(sizes.classes, (sizes.rows,), generator=generator).to(bench.device)
    settings = LinearSettings(seeds=(0,), epochs=sizes.epochs)
    heads = settings.heads
    with float32_products("highest"):
        warm = 2 * settings.batch_size
        train_grid(features[:warm], labels[:warm], heads, num_classes=sizes.classes, settings=settings)
        synchronise(bench.device)
        began = time.perf_counter()
        train_grid(features, labels, heads, num_classes=sizes.classes, settings=settings)
        synchronise(bench.device)
    seconds = (time.perf_counter() - began) / sizes.epochs
    return took(seconds, "an epoch") | {"note": f"{len(heads)} heads, batches of {settings.batch_size}"}


def vectors(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors float32: a bank and queries."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((sizes.rows + sizes.queries, sizes.width), np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    return table[: sizes.rows], table[sizes.rows :]


def neighbours(bench: Bench, sizes: Sizes) -> dict[str, Any]:
    """The search of the kNN probe, from arrays in memory to arrays in memory."""
    bank, queries = vectors(sizes)
    owner = np.arange(sizes.rows + sizes.queries)
    bank_owner, query_owner = owner[: sizes.rows], owner[sizes.rows :]
    with float32_products("highest"):
        search_torch(bank[:1000], bank_owner[:1000], queries[:10], query_owner[:10], NEIGHBOURS, bench.device)
        began = time.perf_counter()
        search_torch(bank, bank_owner, queries, query_owner, NEIGHBOURS, bench.device)
        return rate(sizes.queries, time.perf_counter() - began, "queries")


def by_faiss(bench: Bench, sizes: Sizes) -> dict[str, Any]:
    """The same by faiss's flat index on the card."""
    serving_card(bench.device)
    bank, queries = vectors(sizes)
    index = flat_index(sizes.width, device=bench.device, k=NEIGHBOURS)
    began = time.perf_counter()
    index.add(bank)
    index.search(queries, NEIGHBOURS)
    return rate(sizes.queries, time.perf_counter() - began, "queries")
