"""Parts of a probe that are kept while it runs, so that a killed probe goes on with what is left."""

import dataclasses
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.training.identity import Identity

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.training.checkpoint import Checkpoint

NAME = "parts"
"""Name of the folder of the parts in the folder of a probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Finished parts of a probe, and states of those in training, each in a folder of its own.

    Attributes:
        folder: The folder; ``None``: nothing is kept.
        identity: Identity of the probe, which every part has.
        seconds: Longest time between two states of a training.
    """

    folder: Path | None = None
    identity: Identity = dataclasses.field(default_factory=lambda: Identity(values={}))
    seconds: float = 300.0

    def within(self, name: str) -> "Parts":
        """The parts of one of several trainings, e.g. of a fold."""
        return dataclasses.replace(self, folder=None if self.folder is None else self.folder / name)

    def read(self, name: str) -> "Checkpoint | None":
        """What was kept last under a name.

        Raises:
            CorruptStoreError: A file is damaged.
            RecipeMismatchError: It belongs to another probe; names the first difference.
        """
        if self.folder is None:
            return None
        from featcache.training.checkpoint import read_checkpoint  # imports torch

        return read_checkpoint(self.folder / name, identity=self.identity)

    def write(self, name: str, *, step: int, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]) -> None:
        """Keep tensors and JSON-ready facts in place of what the name stood for."""
        if self.folder is None:
            return
        from featcache.training.checkpoint import Checkpoint, write_checkpoint

        made = Checkpoint(step=step, identity=self.identity.values, tensors=tensors, facts=facts)
        write_checkpoint(self.folder / name, made)

    def remove(self) -> None:
        """Remove all parts, once the result is written."""
        if self.folder is not None and self.folder.exists():
            shutil.rmtree(self.folder)


class Due:
    """Says when the state of a training is to be kept again."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._kept_at = time.monotonic()

    def __call__(self) -> bool:
        """Whether that much time has passed since the last time."""
        now = time.monotonic()
        is_due = self._parts.folder is not None and now - self._kept_at >= self._parts.seconds
        if is_due:
            self._kept_at = now
        return is_due


NOTHING_KEPT = Parts()
