"""Tables of a sweep: values from the runs' ``result.json`` beside published numbers, as JSON and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featcache.errors import ConfigError, unknown_name
from featcache.metrics.result import share_right
from featcache.summary import SummaryTable

PERCENT = 100.0
ABOVE, BELOW = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value of a table.

    Attributes:
        value: Our value; ``None`` if the run has none, e.g. a GPU's memory on a CPU.
        low: Lower end of its interval; ``None`` if there is no interval.
        high: Upper end of its interval.
        published: Value printed in the source; ``None`` if it prints none.
        gain: Our value minus that of the cell with which it is compared, with a paired interval; ``None``: with none.
        run: Folder of the run that measured our value; ``None``: none did.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    gain: "Cell | None" = None
    run: str | None = None

    @property
    def difference(self) -> "Cell":
        """Ours minus the published value, with the ends of our interval; without a value if either is lacking."""
        if self.value is None or self.published is None:
            return Cell(value=None)
        low, high = (None if end is None else end - self.published for end in (self.low, self.high))
        return Cell(value=self.value - self.published, low=low, high=high)

    @property
    def sign(self) -> str:
        """An arrow if the gain is surely above or below 0: its interval leaves 0 out; empty otherwise."""
        if self.gain is None or self.gain.low is None or self.gain.high is None:
            return ""
        return ABOVE if self.gain.low > 0 else BELOW if self.gain.high < 0 else ""

    def with_interval(self) -> dict[str, float | None]:
        """The value and the ends of its interval."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a sweep.

    Attributes:
        title: Title, e.g. the table of the paper that it reproduces.
        columns: Names of the values.
        rows: ``(name, x, note, cells by column)``.
        x_label: Name of ``x``.
        against: Name of what the cells are compared with; empty: they are not.
        note: What a reader of the whole table should know.
        beside: Those of the columns that are shown in a table of their own, where a line cannot be as long as all.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, float | None, str, Mapping[str, Cell]], ...]
    x_label: str = ""
    against: str = ""
    note: str = ""
    beside: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "title": self.title,
            "against": self.against,
            "note": self.note,
            "columns": list(self.columns),
            "rows": [
                {
                    "name": name,
                    "x": x,
                    "note": note,
                    **{
                        column: {
                            **cell.with_interval(),
                            "published": cell.published,
                            "difference": cell.difference.with_interval(),
                            "gain": None if cell.gain is None else cell.gain.with_interval(),
                            "run": cell.run,
                        }
                        for column, cell in cells.items()
                    },
                }
                for name, x, note, cells in self.rows
            ],
        }

    def summary_table(self, *, notes: bool = False) -> SummaryTable:
        """Ours with its interval, and what was published behind it; with the notes of the rows if asked."""
        columns = tuple(column for column in self.columns if column not in self.beside)
        return self._summary_of(columns, title=f"{self.title}, percent [95 % interval]", notes=notes)

    def summary_tables(self, *, notes: bool = False) -> tuple[SummaryTable, ...]:
        """That table, and one of the numbers beside if there are any."""
        first = self.summary_table(notes=notes)
        return (first, self._summary_of(self.beside, title=f"{self.title}, beside")) if self.beside else (first,)

    def _summary_of(self, columns: Sequence[str], *, title: str, notes: bool = False) -> SummaryTable:
        rows = tuple(
            (name, *(cell_text(cells[column]) for column in columns), *([note] if notes else []))
            for name, _, note, cells in self.rows
            if columns != self.beside or any(cells[column].value is not None for column in columns)
        )
        return SummaryTable(title=title, columns=("", *columns, *(["note"] if notes else [])), rows=rows)

    def to_markdown(self) -> str:
        """The table in Markdown: our values with their intervals, each followed by the published one."""
        lines = [
            f"# {self.title}",
            "",
            f"| | {' | '.join(self.columns)} | |",
            f"|---|{'---|' * (len(self.columns) + 1)}",
        ]
        lines += [
            f"| {name} | {' | '.join(cell_text(cells[column]) for column in self.columns)} | {note} |"
            for name, _, note, cells in self.rows
        ]
        return "\n".join([*lines, "", f"{self.legend}.", *(["", self.note] if self.note else []), ""])

    @property
    def legend(self) -> str:
        """What the numbers of a cell are."""
        arrows = f"{ABOVE} or {BELOW}: its interval leaves out 0, so that ours is higher or lower"
        gain = f"; {{ours - ours of {self.against!r}, video by video}}, {arrows}" if self.against else ""
        return f"Ours [95 % interval]; (published, ours - published){gain}"


def cell_text(cell: Cell) -> str:
    """The text of a cell, ``12.3 [10.1, 14.2] (15.0, -2.7) {+3.1 [1.0, 5.2]} ↑``; a dash is a missing value."""
    published = "" if cell.published is None else f" ({_short(cell.published)}{_difference(cell)})"
    gain = "" if cell.gain is None or cell.gain.value is None else f" {{{cell.gain.value:+.1f}{_interval(cell.gain)}}}"
    sign = f" {cell.sign}" if gain and cell.sign else ""
    return f"{'-' if cell.value is None else _short(cell.value)}{_interval(cell)}{published}{gain}{sign}"


def _interval(cell: Cell) -> str:
    return "" if cell.low is None or cell.high is None else f" [{_short(cell.low)}, {_short(cell.high)}]"


def value_at(result: Mapping[str, Any], path: Sequence[str], *, where: str) -> Cell:
    """The number at a path of a result; a metric (value, low, high) is a share and becomes percent.

    The part ``*`` stands for the only key at its place.

    Raises:
        UnknownNameError: A key of the path does not exist; names the closest.
        ConfigError: The value is not a number, or ``*`` stands for several keys.
    """
    node: Any = result
    for part in path:
        if part == "*" and isinstance(node, Mapping) and node:
            if len(node) > 1:
                raise ConfigError(
                    f"'*' of {'.'.join(path)!r} may be any of {', '.join(map(str, node))} in {where}; name one, or let "
                    "the step have one alone, e.g. its test_splits"
                )
            part = next(iter(node))
        if not isinstance(node, Mapping) or part not in node:
            known = node if isinstance(node, Mapping) else {}
            raise unknown_name(f"key of {where}", part, [str(key) for key in known])
        node = node[part]
    if isinstance(node, Mapping) and all(isinstance(node.get(name), float | int) for name in ("value", "low", "high")):
        return Cell(value=PERCENT * node["value"], low=PERCENT * node["low"], high=PERCENT * node["high"])
    if node is None:
        return Cell(value=None)
    if isinstance(node, bool) or not isinstance(node, int | float):
        raise ConfigError(f"{'.'.join(path)!r} of {where} is {type(node).__name__} and not a number; name a number")
    return Cell(value=float(node))


def probe_table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Top-1, or R@1 of a retrieval, in percent by probe; splits without any trained class are left out.

    There is one column per label and split.

    Args:
        results: Results by label and name of the probe: :class:`featcache.evaluation.run.ProbeResult` as JSON. A probe
            that was not run for a label, or that predicts numbers, has no value there.
    """
    places = {
        f"{label}, {split}": (label, split)
        for label, by_probe in results.items()
        for result in by_probe.values()
        for split, numbers in result["splits"].items()
        if numbers["num_unseen"] < numbers["num_videos"]
    }
    names = tuple(dict.fromkeys(name for by_probe in results.values() for name in by_probe))

    def cell(name: str, label: str, split: str) -> Cell:
        if split not in results[label].get(name, {}).get("splits", {}):
            return Cell(value=None)
        top1 = share_right(results[label][name]["splits"][split]["metrics"])
        if top1 is None:
            return Cell(value=None)
        return Cell(value=PERCENT * top1["value"], low=PERCENT * top1["low"], high=PERCENT * top1["high"])

    rows = tuple((name, None, "", {column: cell(name, *place) for column, place in places.items()}) for name in names)
    return Table(title="Top-1 by probe", columns=tuple(places), rows=rows)


def _difference(cell: Cell) -> str:
    """Ours minus the published value, with as many decimals as that is shown with."""
    value = cell.difference.value
    if value is None or cell.published is None:
        return ""
    return f", {value:+.1f}" if abs(cell.published) >= 10 else f", {value:+.3g}"


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
