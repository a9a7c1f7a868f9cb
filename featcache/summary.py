"""Readable summaries of results: tables, facts and the next command, independent of how they are drawn.

Every result that a command prints has the methods ``summary()`` and ``to_dict()``; the command line draws the summary,
or prints the dict with ``--json``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryTable:
    """One table of a summary.

    Attributes:
        title: Heading of the table.
        columns: Names of the columns.
        rows: Cells as text or numbers, one tuple per row.
        num_text: Number of columns at the left that hold text; the others hold numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    num_text: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The part of a result that a command prints.

    Attributes:
        tables: Tables, in order.
        facts: Names and values, drawn as aligned lines below them.
        lines: Sentences below these.
        next_command: A command that people often run next, or ``None``.
        warnings: Sentences for stderr, which are printed with ``--json`` too.
        problem: Why the command fails although it ran to its end, or ``None``; raised once the rest is printed.
    """

    tables: tuple[SummaryTable, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    next_command: str | None = None
    warnings: tuple[str, ...] = ()
    problem: Exception | None = None


class Result(Protocol):
    """The result of a command."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""

    def summary(self) -> Summary:
        """The summary that a command prints."""


def percent(value: float, low: float, high: float) -> str:
    """A share and its interval in percent, e.g. ``43.8 [29.2, 58.3]``."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def failures_table(failures: Sequence[tuple[str, str, str]], what: str = "failed") -> tuple[SummaryTable, ...]:
    """The first (video, status, reason) of the videos that failed, and how many they are; no table if none did."""
    if not failures:
        return ()
    title = f"{counted(len(failures), 'video')} {what}"
    rows = tuple(failures[:20])
    return (SummaryTable(title=title, columns=("video", "status", "reason"), rows=rows, num_text=3),)


def counted(number: int, what: str) -> str:
    """A number of things, e.g. ``1 video`` or ``2 videos``; ``what`` takes an s in the plural."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
