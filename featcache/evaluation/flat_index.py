"""faiss's exact inner-product index, used on a GPU only after a trial search has agreed with torch.

Wheels with GPU code have lacked kernels for newer cards, and faiss then kills the whole process instead of raising. So
a card is first tried in a separate process, and used if that process returns the right neighbours.
"""

import functools
import subprocess
import sys
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from featcache.errors import ConfigError

Floats = npt.NDArray[np.float32]
NUM_VECTORS = 1000
MOST_NEIGHBOURS = 2048
"""Largest number of neighbours that faiss selects on a GPU at once."""
_NUM_QUERIES, _WIDTH, _NEIGHBOURS = 16, 64, 10
_DEADLINE_SECONDS = 120.0


class FlatIndex(Protocol):
    """The methods of a faiss index that are used here."""

    def add(self, vectors: Floats, /) -> None:
        """Append vectors float32 [n, D]."""

    def search(self, queries: Floats, k: int, /) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Products float32 [Q, k] in decreasing order, and positions int64 [Q, k], -1 if there are fewer."""


def import_faiss() -> Any:
    """Import the library, which is an extra.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import faiss  # optional, and slow to import
    except ModuleNotFoundError as error:
        raise ConfigError(
            "faiss is not installed; install featcache[faiss-cpu] or featcache[faiss-gpu], never both, or choose the "
            "search by torch, which is exact too"
        ) from error
    return faiss


def flat_index(width: int, *, device: str, k: int) -> FlatIndex:
    """An empty exact index.

    Args:
        width: Number of channels D.
        device: Device on which it may be: ``cpu``, ``cuda`` or ``cuda:N``.
        k: Largest number of neighbours that will be requested.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = import_faiss()
    card = card_of(device)
    index: FlatIndex
    if card is None or k > MOST_NEIGHBOURS or not agrees(card):
        index = faiss.IndexFlatIP(width)
    else:
        index = _on_card(faiss, width, card)
    return index


def card_of(device: str) -> int | None:
    """The number of a GPU on which this faiss could search; ``None`` for a CPU, or for a faiss built for CPUs."""
    kind, _, number = device.partition(":")
    return int(number or 0) if kind == "cuda" and hasattr(import_faiss(), "StandardGpuResources") else None


@functools.cache
def agrees(card: int) -> bool:
    """Whether a search of :data:`NUM_VECTORS` vectors on a card agrees with torch; tried once, in a child process."""
    try:
        code = f"import sys; sys.path[:] = {sys.path!r}; from featcache.evaluation.flat_index import try_card; try_card"
        done = subprocess.run(
            [sys.executable, "-c", f"{code}({card})"], capture_output=True, timeout=_DEADLINE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def try_card(card: int) -> None:
    """In a child: search on a card.

    Raises:
        SystemExit: Neighbours differ from torch's.
    """
    if not same_as_torch(_on_card(import_faiss(), _WIDTH, card), device=f"cuda:{card}"):
        raise SystemExit(f"faiss finds other neighbours on GPU {card} than torch")


def same_as_torch(index: FlatIndex, *, device: str) -> bool:
    """Whether an empty index of width 64 finds the neighbours, and the cosines, that torch finds on a device."""
    import torch

    draws = np.random.default_rng(0).standard_normal((NUM_VECTORS + _NUM_QUERIES, _WIDTH)).astype(np.float32)
    draws /= np.linalg.norm(draws, axis=1, keepdims=True)
    bank, queries = np.split(draws, [NUM_VECTORS])
    index.add(np.ascontiguousarray(bank))
    found, places = index.search(np.ascontiguousarray(queries), _NEIGHBOURS)
    products = torch.from_numpy(queries).to(device) @ torch.from_numpy(bank).to(device).T
    values, indices = products.topk(_NEIGHBOURS, dim=1)
    same = np.allclose(found, values.cpu().numpy(), atol=1e-5)
    return bool(same and np.array_equal(places, indices.cpu().numpy()))


def _on_card(faiss: Any, width: int, card: int) -> FlatIndex:
    settings = faiss.GpuIndexFlatConfig()
    settings.device = card
    index: FlatIndex = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), width, settings)
    return index
