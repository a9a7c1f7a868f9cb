"""Rows of a benchmark, each number beside the row of the same network that it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featcache.metrics.settings import IntervalSettings
from featcache.report.paired import paired_cells
from featcache.report.tables import Cell, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One row of the table.

    Attributes:
        network: Registry name of the backbone.
        kind: How it was trained, e.g. the name of a task; differs from that of other rows of the network.
        weights: Weights of its networks, one per seed, by the names of their features; empty: none is probed.
        runs: Folders of its runs by column.
        trained: Results of its trainings by name, as JSON.
        numbers: Columns whose numbers are known already, e.g. what its training cost.
        note: What else is known.
    """

    network: str
    kind: str
    weights: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Cell] = field(default_factory=dict)
    note: str = ""

    @property
    def name(self) -> str:
        """The name of the row."""
        return f"{self.network}, {self.kind}"


def arms_table(
    arms: Sequence[Arm],
    *,
    title: str,
    bases: Mapping[str, str],
    intervals: IntervalSettings,
    against: str = "",
    note: str = "",
) -> Table:
    """The table of rows: accuracies of runs with what they gain, video by video, and the numbers known already.

    There is one column per way of testing, and per split if there are several, before those of known numbers.

    Args:
        arms: The rows.
        title: Title of the table.
        bases: Columns of runs in their order, and the kind of the row of the same network with which each is compared.
        intervals: Settings of the intervals.
        against: What accuracies are compared with, in words.
        note: What a reader of the whole table should know.

    Raises:
        ConfigError: A run has no predictions, or two have no video in common.
    """
    known = {(arm.network, arm.kind): arm for arm in arms}
    found: dict[str, dict[tuple[str, str], Cell]] = {}
    for arm in arms:
        cells = found.setdefault(arm.name, {})
        for column, runs in arm.runs.items():
            base = known[arm.network, bases[column]]
            baseline = () if base is arm else base.runs[column]
            for split, cell in paired_cells(runs, baseline, intervals=intervals).items():
                cells[column, split] = cell
    splits = tuple(dict.fromkeys(split for cells in found.values() for _, split in cells))
    places = {(column, split): split_column(column, split, splits) for column in bases for split in splits}
    others = tuple(dict.fromkeys(name for arm in arms for name in arm.numbers))
    nothing = Cell(value=None)
    rows = tuple(
        (
            arm.name,
            None,
            arm.note,
            {name: found[arm.name].get(place, nothing) for place, name in places.items()}
            | {name: arm.numbers.get(name, nothing) for name in others},
        )
        for arm in arms
    )
    return Table(title=title, columns=(*places.values(), *others), rows=rows, against=against, note=note, beside=others)


def split_column(column: str, split: str, splits: Sequence[str]) -> str:
    """Name of a column for a split, which is named if there are several."""
    return column if len(splits) == 1 else f"{column}, {split}"
