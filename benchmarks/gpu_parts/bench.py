"""The environment of a part: its device, its time limit, and a file to which each row is written at once."""

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
"""States that are not a fault of featcache. A row that is left out or does not fit says why."""


class SkippedError(Exception):
    """A row that cannot be measured on this machine, for a reason that is not a fault."""


class DeviceLostError(Exception):
    """The device does not respond any more: everything that follows in this process would fail too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One part's run.

    Attributes:
        part: Name of the part.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        is_small: Sizes for a laptop.
        folder: Folder for files that the part writes.
        rows: File of JSON lines, one per row.
        ends: Time at which the part has to end, by ``time.monotonic``.
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
        """Seconds that are left of the part's time."""
        return self.ends - time.monotonic()

    def row(self, what: str, measure: Callable[[], dict[str, Any]], *, needs: float = 1.0) -> dict[str, Any]:
        """Measure one row and write it; a failure is written too and does not stop the next row.

        Args:
            what: Name of the row.
            measure: Returns the row's figures; the table shows ``result``.
            needs: Seconds that must be left for the row to begin.

        Returns:
            The row as written.

        Raises:
            DeviceLostError: The GPU does not respond any more.
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
        except Exception as error:  # the table says what failed; the next row may still work
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            return {"status": "failed", "result": reason[:300], "traceback": traceback.format_exc()}

    def _reset_peak(self) -> None:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def _free(self) -> None:
        """Release memory, and check that the device still responds: a failed kernel destroys its context."""
        gc.collect()
        if not self.on_gpu:
            return
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceLostError(str(error)) from error


def rate(count: float, seconds: float, unit: str) -> dict[str, Any]:
    """Figures for ``count`` items in a number of seconds, e.g. ``1,234 frames/s``."""
    value = count / seconds
    return {"result": f"{value:,.0f} {unit}/s" if value >= 100 else f"{value:.3g} {unit}/s", "rate": value}


def took(seconds: float, what: str) -> dict[str, Any]:
    """Figures for work that took a number of seconds."""
    shown = f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    return {"result": f"{shown} {what}", "seconds_each": seconds}
