"""What commands print: summaries to stdout, progress and warnings to stderr, JSON on request."""

import io
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table

from featcache.summary import Result
from featcache.units import duration, printable, printable_json


class _Seen(RenderHook):
    """Removes control sequences from printed text, which may come from file names and labels."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Wrap each."""
        return [_SeenText(renderable) for renderable in renderables]


class _SeenText:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._renderable, options):
            # The console's own movements (a progress bar's) are control segments, and colours are no text yet.
            yield segment if segment.control else Segment(printable(segment.text, lines=True), segment.style)


out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False, emoji=False)
out.push_render_hook(_Seen())
err.push_render_hook(_Seen())


class _OneLine(logging.Formatter):
    """Log messages on a single line, even if they quote text from files that contains line breaks."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name that logging gives it
        return printable(super().formatMessage(record))


def configure_logging() -> None:
    """Send the package's log lines to stderr; of several processes of a run, all but the first only warn."""
    handler = RichHandler(console=err, show_path=False, show_time=False, markup=False)
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("featcache").setLevel(logging.INFO if _is_first() else logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name need not be text in the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")


def print_json(data: Any) -> None:
    """One JSON document on stdout; not-a-number becomes null."""
    print(printable_json(json.dumps(_finite(data), indent=2, ensure_ascii=False, default=str)))  # noqa: T201


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, num_text: int = 1) -> None:
    """A table on stdout; the first ``num_text`` columns are left-aligned, the others are numbers. Brackets are text."""
    table = Table(title=_plain(title), title_justify="left", show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(_plain(column), justify="left" if index < num_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_plain(str(cell)) for cell in row))
    out.print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Aligned ``name  value`` lines on stdout. Brackets are text."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        out.print(f"[dim]{_plain(f'{name:<{width}}')}[/dim]  {_plain(str(value))}")


def print_line(text: str, *, dim: bool = False) -> None:
    """One line on stdout, even if the names in it contain line breaks."""
    out.print(printable(text), markup=False, style="dim" if dim else None)


def print_error(error: BaseException) -> None:
    """One line on stderr: what, where, and what to do next."""
    err.print(f"[bold red]error:[/bold red] {_plain(str(error))}", soft_wrap=True)


def print_heading(text: str) -> None:
    """A rule across the screen."""
    out.rule(_plain(text), align="left")


def print_result(result: Result, *, as_json: bool = False) -> None:
    """What a command found: its summary, or one JSON document; in both cases its warnings, and its problem is raised.

    Of several processes that share a run the first speaks alone.
    """
    if not _is_first():
        return
    summary = result.summary()
    if as_json:
        print_json(result.to_dict())
    else:
        for table in summary.tables:
            print_table(table.title, table.columns, table.rows, num_text=table.num_text)
        if summary.facts:
            print_facts(summary.facts)
        for line in summary.lines:
            print_line(line)
        if summary.next_command is not None:
            print_line(f"next: {summary.next_command}", dim=True)
    for warning in summary.warnings:
        err.print(printable(warning), markup=False)
    if summary.problem is not None:
        raise summary.problem


def _is_first() -> bool:
    """Whether this process is the first, or the only one, of a run."""
    return os.environ.get("RANK", "0") == "0"


LINE_SECONDS = 30.0
_is_quiet = False


def _silence(quiet: bool) -> bool:
    global _is_quiet
    _is_quiet = quiet
    return quiet


Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show no progress: no bars, and no lines off a terminal.", callback=_silence),
]
"""Option of all commands that show progress; its callback applies it."""


@dataclass(frozen=True, slots=True)
class _Figures:
    stage: str
    done: float
    total: float
    note: str
    num_failed: int


class Lines:
    """Progress in a log instead of bars: one line with the latest figures every 30 seconds.

    Args:
        write: Writes a line.
        clock: Clock in seconds, from any origin.
    """

    def __init__(self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._written = self._began = clock()
        self._first = 0.0
        self._latest: _Figures | None = None

    def update(self, stage: str, done: float, total: float, note: str = "", num_failed: int = 0) -> None:
        """Set the latest figures, and write them if 30 seconds have passed."""
        with self._lock:
            if self._latest is None or self._latest.stage != stage or done < self._latest.done:  # it begins again
                self._began, self._first = self._clock(), done
            self._latest = _Figures(stage, done, total, note, num_failed)
        self.tick()

    def tick(self) -> None:
        """Write the latest figures again if 30 seconds have passed, even without progress."""
        with self._lock:
            now = self._clock()
            if self._latest is None or now - self._written < LINE_SECONDS:
                return
            self._written = now
            line = self._line(self._latest, seconds=now - self._began)
        self._write(line)

    def _line(self, figures: _Figures, *, seconds: float) -> str:
        share = f" ({100 * figures.done / figures.total:.0f} %)" if figures.total else ""
        parts = [f"{figures.stage}: {figures.done:.0f} of {figures.total:.0f}{share}"]
        if figures.num_failed:
            parts.append(f"{figures.num_failed} failed")
        progress = figures.done - self._first
        if progress > 0 and figures.done < figures.total and seconds > 0:  # once done, time says nothing of its rate
            rate = progress / seconds
            parts += [f"{rate:.3g} a second", f"about {duration((figures.total - figures.done) / rate)} left"]
        if figures.note:
            parts.append(figures.note)
        return ", ".join(parts)


class Bars:
    """Progress bars on stderr, one per stage; lines if stderr is not a terminal."""

    def __init__(self, progress: Progress, lines: Lines | None) -> None:
        self._progress = progress
        self._lines = lines
        self._tasks: dict[str, TaskID] = {}
        self._drawn = 0.0

    def update(self, stage: str, done: float, total: float, note: str = "", num_failed: int = 0) -> None:
        """Draw ``done`` of ``total`` of a stage, at most ten times per second."""
        if self._lines is not None:
            self._lines.update(stage, done, total, note, num_failed)
            return
        now = time.monotonic()
        if done < total and now - self._drawn < 0.1:
            return
        self._drawn = now
        note = _plain(note) + (f" failed {num_failed}" if num_failed else "")
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, note=note)
        self._progress.update(self._tasks[stage], completed=done, total=total, note=note)


@contextmanager
def bars(*, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> Iterator[Bars]:
    """Bars for a ``with`` block if stderr is a terminal, lines if it is not, nothing with ``--quiet``."""
    quiet = quiet or _is_quiet or not _is_first()
    progress = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("[dim]{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=quiet or not err.is_terminal,
        transient=False,
    )
    if quiet or err.is_terminal:
        with progress:
            yield Bars(progress, None)
        return
    lines = Lines(lambda line: err.print(printable(line), markup=False, soft_wrap=True), clock=clock)
    ended = threading.Event()

    def keep_ticking() -> None:
        while not ended.wait(1.0):
            lines.tick()

    ticking = threading.Thread(target=keep_ticking, daemon=True, name="featcache-progress")
    ticking.start()
    try:
        yield Bars(progress, lines)
    finally:
        ended.set()
        ticking.join()


def _plain(text: str) -> str:
    """The text on one line, with brackets and control characters made harmless."""
    return escape(printable(text))


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
