"""featcache: extract video features once, then train and probe on the store.

>>> import featcache
>>> store = featcache.open("stores/mine")                  # doctest: +SKIP
>>> features = store.feature("clip-l14-post-mean")         # doctest: +SKIP
>>> encode = featcache.encoder("stores/mine")              # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from featcache.extract.encoder import Encoder
    from featcache.store.reader import Store

__version__ = "0.1.0"
__all__ = ["encoder", "open", "use_backbone"]


def open(path: str | Path) -> "Store":  # noqa: A001  featcache.open is the name users say
    """Open a store for reading; see :class:`featcache.store.reader.Store`.

    Raises:
        StoreError: The folder is no store, or one of a newer format.
    """
    from featcache.store.reader import open_store

    return open_store(path)


def encoder(
    store: str | Path,
    *,
    features: Sequence[str] | None = None,
    weights: Mapping[str, str] | None = None,
    device: str = "auto",
    matmul: Literal["highest", "high"] = "highest",
) -> "Encoder":
    """Rebuild the exact pipeline of a store for new videos; see :func:`featcache.extract.encoder.encoder`."""
    from featcache.extract.encoder import encoder as build

    return build(store, features=features, weights=weights, device=device, matmul=matmul)


def use_backbone(given: str) -> str:
    """Make a backbone of a Python file known to this process, which runs it; see :mod:`featcache.backbones.from_file`.

    Args:
        given: ``path/to/net.py:build``.

    Returns:
        Its name in settings and recipes, ``net.py:build``.
    """
    from featcache.backbones.from_file import use_file

    return use_file(given)
