"""Logs of a run: one JSON line per epoch, one for every so many steps, and TensorBoard events beside them.

They are two files, so that whoever reads epochs does not meet steps.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from featcache.errors import CorruptStoreError
from featcache.files.publish import put_replace

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NAME = "log.jsonl"
STEPS_NAME = "steps.jsonl"


class RunLog:
    """Appends to ``log.jsonl`` and ``steps.jsonl``; lines of steps that a resumed run repeats are dropped first."""

    def __init__(self, folder: Path, *, first_step: int, tensorboard: bool) -> None:
        self._epochs = _appending(folder / NAME, first_step=first_step)
        self._steps = _appending(folder / STEPS_NAME, first_step=first_step)
        self._board = _board(folder / "tensorboard", first_step=first_step) if tensorboard else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._epochs.close()
        self._steps.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one epoch."""
        _append(self._epochs, step, values)
        self._plot("", step, values)

    def write_steps(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of some steps, of which ``step`` is the last."""
        _append(self._steps, step, values)
        self._plot("steps/", step, values)

    def _plot(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{prefix}{name}", value, step)


def _appending(path: Path, *, first_step: int) -> TextIO:
    kept = [line for line in _read_lines(path) if line["step"] <= first_step]
    put_replace(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return path.open("a", encoding="utf-8")


def _append(file: TextIO, step: int, values: Mapping[str, float]) -> None:
    file.write(json.dumps({"step": step, **values}) + "\n")
    file.flush()


def _board(folder: Path, *, first_step: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import, and is rarely needed

    return SummaryWriter(str(folder), purge_step=first_step or None)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The line of each epoch of a run, without a last one that was truncated by a kill."""
    return _read_lines(folder / NAME)


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """The lines about every ``training.log_steps`` steps of a run, without a last one that was truncated by a kill."""
    return _read_lines(folder / STEPS_NAME)


def _read_lines(path: Path) -> list[dict[str, Any]]:
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
