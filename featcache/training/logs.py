"""Logs of a run: one JSON line per epoch, and TensorBoard events beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from featcache.errors import CorruptStoreError
from featcache.files.publish import put_replace

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NAME = "log.jsonl"


class RunLog:
    """Appends to ``log.jsonl``; lines of steps that a resumed run repeats are dropped first."""

    def __init__(self, folder: Path, *, first_step: int, tensorboard: bool) -> None:
        self._path = folder / NAME
        kept = [line for line in read_log(folder) if line["step"] <= first_step]
        put_replace(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _board(folder / "tensorboard", first_step=first_step) if tensorboard else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one epoch."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


def _board(folder: Path, *, first_step: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import, and is rarely needed

    return SummaryWriter(str(folder), purge_step=first_step or None)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All lines of a run's log, without a last line that was truncated by a kill."""
    path = folder / NAME
    if not path.exists():
        return []
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except (ValueError, RecursionError) as error:
        why = str(error).partition(";")[0]
        raise CorruptStoreError(f"log {path} is damaged ({why}); restore or remove it") from error
    if not all(isinstance(line, dict) and isinstance(line.get("step"), int) for line in found):
        raise CorruptStoreError(f"log {path} has lines without a step; restore or remove it")
    return found
