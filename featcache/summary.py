"""What a result says to people: tables, facts and the next command, without knowing how they are drawn.

Every result that a command prints has a method ``summary()`` beside its ``to_dict()``; the command line draws the one
and prints the other with ``--json``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryTable:
    """One table of a summary.

    Attributes:
        title: Its heading.
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
    """What a command prints of its result.

    Attributes:
        tables: Tables, in order.
        lines: Sentences below them.
        facts: Names and values, drawn as aligned lines.
        next_command: A command that people often run next; ``None``: none.
    """

    tables: tuple[SummaryTable, ...] = ()
    lines: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    next_command: str | None = None


class Result(Protocol):
    """The result of a command."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""

    def summary(self) -> Summary:
        """What to show of it."""


def percent(value: float, low: float, high: float) -> str:
    """A share and its interval in percent, e.g. ``43.8 [29.2, 58.3]``."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
