"""What a part runs with: its device, its time, and a file to which each row goes as soon as it is measured."""

import gc
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from cells import peak_bytes

Status = Literal["ok", "skipped", "left out", "does not fit", "failed", "stopped"]
GOOD: tuple[Status, ...] = ("ok", "skipped", "left out", "does not fit")
"""What is no fault of featcache's. A row that is left out or does not fit says why."""


class SkippedError(Exception):
    """A row that cannot be measured here, for a reason that is no fault."""


class DeviceLostError(Exception):
    """The device answers no more: whatever follows in this process would fail too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One part's run.

    Attributes:
        part: Its name.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        is_small: Sizes for a laptop.
        folder: For what the part writes.
        rows: JSON lines, one a row.
        ends: When the part's time is over, by ``time.monotonic``.
    """

    part: str
    device: str
    is_small: bool
    folder: Path
    rows: Path
    ends: float

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"

    def left(self) -> float:
        """Seconds that are left."""
        return self.ends - time.monotonic()

    def row(self, what: str, measure: Callable[[], dict[str, Any]], *, needs: float = 1.0) -> dict[str, Any]:
        """Measure one row and write it; whatever goes wrong is written and does not stop the next.

        Args:
            what: Its name.
            measure: Gives the row's figures; ``result`` is what the table shows.
            needs: Seconds without which it is not begun.

        Returns:
            The row as written.

        Raises:
            DeviceLostError: A GPU that answers no more.
        """
        row: dict[str, Any] = {"part": self.part, "what": what, "status": "ok", "result": ""}
        began = time.monotonic()
        if self.left() < needs:
            problem = f"{max(0.0, self.left()):.0f} s of the part's time are left, and it takes about {needs:.0f} s"
            row |= {"status": "left out", "result": problem}
        else:
            self._reset_peak()
            row |= self._measured(measure)
            if self.on_gpu and row["status"] == "ok":
                row["peak_gb"] = round(peak_bytes(self.device) / 1e9, 3)
        row["seconds"] = round(time.monotonic() - began, 3)
        with self.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._free()
        return row

    def _measured(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return measure()
        except SkippedError as reason:
            return {"status": "skipped", "result": str(reason)}
        except (torch.OutOfMemoryError, MemoryError) as error:
            return {"status": "does not fit", "result": "out of memory: " + str(error).partition("\n")[0][:160]}
        except Exception as error:  # the table says what failed, and the next row is another matter
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            return {"status": "failed", "result": reason[:300], "traceback": traceback.format_exc()}

    def _reset_peak(self) -> None:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def _free(self) -> None:
        """Give memory back, and see whether the device still answers: a kernel that failed takes its context along."""
        gc.collect()
        if not self.on_gpu:
            return
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceLostError(str(error)) from error


def rate(count: float, seconds: float, unit: str) -> dict[str, Any]:
    """The figures of ``count`` things in so many seconds, e.g. ``1,234 frames/s``."""
    value = count / seconds
    return {"result": f"{value:,.0f} {unit}/s" if value >= 100 else f"{value:.3g} {unit}/s", "rate": value}


def took(seconds: float, what: str) -> dict[str, Any]:
    """The figures of something that took so long."""
    shown = f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    return {"result": f"{shown} {what}", "seconds_each": seconds}
