"""Every probe on the device against the same on the CPU, through the path that reports numbers."""

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featcache.evaluation.flat_index import agrees, card_of
from featcache.evaluation.grid import TrainedGrid, train_grid
from featcache.evaluation.probe import Task, find_probe
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import KnnSettings, LinearSettings
from featcache.extract.encode import float32_products
from featcache.metrics.neighbours import search_torch
from featcache.testing.probes import numbered, separable_data, small_settings
from gpu_parts.bench import SkippedError
from gpu_parts.checks.comparing import FLOAT32, LOSSES, Check, distance, within

EPOCHS = 3


def probe(name: str, device: str, folder: Path) -> str:
    """Scores of the test videos, and the reported numbers."""
    data = separable_data(spread=0.3)
    if name == "ridge":
        data = numbered(data, np.random.default_rng(0).standard_normal(len(data.videos)))
    settings = _short(small_settings(name))
    splits = np.array(data.splits)
    train, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits != "train")
    run = find_probe(name).run
    with float32_products("highest"):
        scores = [
            run(Task(data=data, train=train, test=test, device=each), settings).scores for each in (device, "cpu")
        ]
    finite = [np.where(np.isneginf(each), -1.0, each) for each in scores]
    said = within(distance(*finite), LOSSES, "scores")
    result = run_probe(name, data, settings, device=device)
    assert result.device == device, f"computed on {result.device} instead of {device}"
    return said


def _short(settings: Any) -> Any:
    """The same settings with few epochs, because rounding errors grow and scores are compared."""
    if hasattr(settings, "training"):
        return dataclasses.replace(settings, training=dataclasses.replace(settings.training, epochs=EPOCHS))
    return dataclasses.replace(settings, epochs=EPOCHS) if hasattr(settings, "epochs") else settings


def neighbours(device: str, folder: Path) -> str:
    """The cosines of exact search over random vectors, and equal neighbours wherever cosines differ."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((5000, 64)).astype(np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    owner = np.arange(5000)
    with float32_products("highest"):
        found, wanted = (search_torch(table, owner, table[:500], owner[:500], 20, each) for each in (device, "cpu"))
    share = float((found[1] == wanted[1]).mean())
    assert share > 0.999, f"{1 - share:.1%} of the neighbours differ"
    return within(distance(found[0], wanted[0]), FLOAT32, "cosines") + f", {share:.2%} of the neighbours equal"


def grid(device: str, folder: Path) -> str:
    """The 52 heads of the default grid after a few epochs; heads with large learning rates are not compared."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (600,), generator=generator)
    features = torch.randn(600, 32, generator=generator) + 2 * torch.eye(5, 32)[labels]
    settings = LinearSettings(epochs=EPOCHS, seeds=(0, 1), batch_size=100)
    heads = settings.heads
    assert len(heads) == 52, f"{len(heads)} heads"

    def trained(place: str) -> TrainedGrid:
        with float32_products("highest"):
            return train_grid(features.to(place), labels.to(place), heads, num_classes=5, settings=settings)

    found, wanted = trained(device), trained("cpu")
    apart = [
        distance(one.weight[:, :, place], other.weight[:, :, place])
        for one, other in zip(found.blocks, wanted.blocks, strict=True)
        for place in range(len(one.index))
    ]
    assert max(apart) < 0.1, f"a head is {max(apart):.2g} from the CPU's"
    return within(float(np.median(apart)), FLOAT32, "weights, in the median")


def serving_card(device: str) -> int:
    """The number of the card on which faiss works.

    Raises:
        SkippedError: faiss does not work on a card; says why.
    """
    if importlib.util.find_spec("faiss") is None:
        raise SkippedError("faiss is not installed")
    card = card_of(device)
    if card is None:
        raise SkippedError("this faiss is built for the CPU, or the device is one")
    if not agrees(card):
        raise SkippedError("faiss gives no search on this card that agrees with torch, and serves on the CPU")
    return card


def faiss(device: str, folder: Path) -> str:
    """Search by faiss on the card, if it works there, gives the same as torch."""
    serving_card(device)
    data = separable_data(spread=0.3)
    results = [
        run_probe("knn", data, KnnSettings(backend=backend), device=device).splits for backend in ("faiss", "torch")
    ]
    assert results[0] == results[1], "kNN by faiss differs from kNN by torch"
    return "trial of 1,000 vectors and kNN agree with torch"


NAMES = ("knn", "retrieval", "linear", "ridge", "mlp", "transformer", "scale-linear", "scale-ft")
CHECKS: dict[str, Check] = {
    "exact search": neighbours,
    "grid of 52 heads": grid,
    **{f"probe {name}": functools.partial(probe, name) for name in NAMES},
    "faiss on the card": faiss,
}
