"""Checkpoints: one safetensors file named by its content, and a sealed JSON that names it; never pickled.

The JSON is the commit point. It is replaced atomically after the tensors are on disk, so a kill at any time leaves the
previous checkpoint intact.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from featcache.errors import CorruptStoreError, FeatcacheError, RecipeMismatchError
from featcache.files.places import safe_join
from featcache.files.publish import put_replace, remove
from featcache.files.sealed import read_bytes, read_sealed, seal, sha256_bytes
from featcache.training.identity import Identity

NAME = "checkpoint.json"
_FORMAT = "featcache-checkpoint"
_MEMBERS = {"step": int, "identity": str | dict, "facts": dict, "tensors": str, "sha256": str}
_TENSORS_NAME = re.compile(r"checkpoint-[0-9a-f]{16}\.safetensors", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a run after ``step`` steps.

    Attributes:
        step: Number of optimiser steps done.
        identity: Values that must be equal for the run to be resumed, JSON-ready, by name; see
            :class:`featcache.training.identity.Identity`.
        tensors: ``module.*``, ``ema.*`` and ``optimiser.*`` by name, on CPU.
        facts: JSON-ready values for code that loads the checkpoint, e.g. the network's settings.
    """

    step: int
    identity: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under ``prefix.``, without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained module's tensors; the averaged ones where the run kept an average."""
        return self.part("ema.module") or self.part("module")

    def weights_of(self, child: str) -> dict[str, Tensor]:
        """The tensors of one child of the trained module, by the names that they have in it."""
        start = f"{child}."
        return {name.removeprefix(start): each for name, each in self.weights.items() if name.startswith(start)}


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Publish a checkpoint in a folder and remove the previous one."""
    former = _read_document(folder)["tensors"] if (folder / NAME).exists() else None
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()})
    digest = sha256_bytes(data)
    name = f"checkpoint-{digest[:16]}.safetensors"
    put_replace(folder / name, data)
    document = {
        "format": _FORMAT,
        "version": 2,
        "step": checkpoint.step,
        "identity": dict(checkpoint.identity),
        "facts": dict(checkpoint.facts),
        "tensors": name,
        "sha256": digest,
    }
    put_replace(folder / NAME, seal(document))
    if former is not None and former != name:
        remove(folder / former)


def read_checkpoint(folder: Path, *, identity: Identity | None = None) -> Checkpoint | None:
    """The checkpoint of a folder, or ``None`` if there is none.

    Args:
        folder: Folder of one run.
        identity: Identity that the checkpoint must have; ``None`` accepts any.

    Raises:
        CorruptStoreError: A file is damaged, missing or swapped.
        RecipeMismatchError: The checkpoint belongs to other settings or data; names the first difference.
    """
    if not (folder / NAME).exists():
        return None
    document = _read_document(folder)
    saved = document["identity"]
    if isinstance(saved, str):  # version 1 kept only a hash
        saved = {"hash": saved}
        if identity is not None:
            raise RecipeMismatchError(
                f"{folder} holds a run of an earlier featcache, which kept no settings to compare; "
                "choose another --out, or delete it to start anew"
            )
    if identity is not None and (difference := identity.difference(saved)):
        raise RecipeMismatchError(
            f"{folder} holds a run {difference}; choose another --out, or delete it to start anew"
        )
    path = safe_join(folder, document["tensors"])
    data = read_bytes(path, what="checkpoint")
    if sha256_bytes(data) != document["sha256"]:
        raise CorruptStoreError(f"checkpoint {path} is damaged; restore it, or delete {folder / NAME} to start anew")
    try:
        tensors = load(data)
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError) as error:
        raise CorruptStoreError(f"checkpoint {path} cannot be read ({error}); delete {folder / NAME}") from error
    return Checkpoint(step=document["step"], identity=saved, tensors=tensors, facts=document["facts"])


def checkpoint_digest(folder: Path) -> str:
    """Hex SHA-256 of the tensors of a folder's checkpoint, which changes with every step.

    Raises:
        CorruptStoreError: There is no checkpoint, or it is damaged.
    """
    found: str = _read_document(folder)["sha256"]
    return found


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``<parameter number>.<name>``; groups are settings and are not saved."""
    return {
        f"{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that :func:`optimiser_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


@contextmanager
def taking_up(folder: Path) -> Iterator[None]:
    """Explain errors of building a network from a checkpoint that lacks tensors or does not fit.

    Raises:
        CorruptStoreError: In place of the original exception.
    """
    try:
        yield
    except FeatcacheError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        why = next(iter(str(error).splitlines()), "")
        raise CorruptStoreError(
            f"{folder / NAME} does not hold what its run needs ({type(error).__name__}: {why:.200}); restore it, or "
            "train anew in another folder"
        ) from error


def _read_document(folder: Path) -> dict[str, Any]:
    """Read the JSON of a checkpoint and check the name of its file, which the next checkpoint will remove."""
    document = read_sealed(folder / NAME, what="checkpoint")
    if document.get("format") != _FORMAT:
        raise CorruptStoreError(f"{folder / NAME} is not a checkpoint; choose another folder")
    for name, kind in _MEMBERS.items():
        if not isinstance(document.get(name), kind):
            raise CorruptStoreError(f"{folder / NAME} has no usable member {name!r}; restore it from a copy")
    if not _TENSORS_NAME.fullmatch(document["tensors"]) or not 0 <= document["step"] < 1 << 62:
        raise CorruptStoreError(f"{folder / NAME} names no tensors of a checkpoint; restore it from a copy")
    return document
