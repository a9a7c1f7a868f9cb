"""Pipelines and sweeps: several commands from one YAML, for ``featcache run``."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.cli.console import out, print_json, print_table
from featcache.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from featcache.config import Settings
    from featcache.report.settings import PipelineSettings, SweepSettings


def run_pipeline(settings: "PipelineSettings", *, as_json: bool = False) -> None:
    """Carry out the steps one after another; every step is checked before the first begins."""
    from featcache.commands import runner
    from featcache.report.settings import pipeline_steps

    for number, step in enumerate(parse_steps(pipeline_steps(settings))):
        if not as_json:
            out.rule(f"{number + 1}/{len(settings.steps)} {settings.steps[number]['command']}", align="left")
        runner(step)(step, as_json=as_json)


def run_sweep(settings: "SweepSettings", *, as_json: bool = False) -> None:
    """Carry out the steps of every row, then print and write the table."""
    from featcache.commands import runner
    from featcache.config import to_yaml
    from featcache.io import put_replace
    from featcache.report.settings import row_steps
    from featcache.report.tables import Table, cell_text, read_row, write_table

    folder = Path(settings.out)
    planned = [row_steps(settings, row, folder=str(folder / slug(row.name))) for row in settings.rows]
    parsed = [parse_steps(steps) for steps in planned]
    put_replace(folder / "config.yaml", to_yaml(settings).encode())
    rows = []
    for row, raw, steps in zip(settings.rows, planned, parsed, strict=True):
        if not as_json:
            out.rule(f"{settings.title}: {row.name}", align="left")
        for step in steps:
            runner(step)(step, as_json=as_json)
        rows.append((row.name, row.x, row.note, read_row(settings, row, [step["out"] for step in raw])))
    table = Table(title=settings.title, columns=tuple(settings.columns), rows=tuple(rows), x_label=settings.x_label)
    write_table(table, folder)
    if as_json:
        print_json({**table.to_dict(), "out": str(folder)})
        return
    print_table(
        f"{settings.title}: ours [95 % interval] (published)",
        ("", *table.columns, "note"),
        [(name, *(cell_text(cells[column]) for column in table.columns), note) for name, _, note, cells in table.rows],
    )
    out.print(f"written to {folder}", markup=False, style="dim")


def parse_steps(steps: Sequence[Mapping[str, Any]]) -> "list[Settings]":
    """Settings of each step.

    Raises:
        ConfigError: A step without a known command, or with an unusable setting; names the step.
    """
    from featcache.commands import COMMANDS
    from featcache.config import parse

    parsed = []
    for number, step in enumerate(steps):
        name = step.get("command")
        if not isinstance(name, str) or name not in COMMANDS:
            raise unknown_name(f"command of step {number}", str(name), COMMANDS)
        try:
            parsed.append(parse(COMMANDS[name].settings, step))
        except ConfigError as error:
            raise ConfigError(f"step {number} ({name}): {error}") from error
    return parsed


def slug(name: str) -> str:
    """A folder name out of a row's name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "row"


RUNNERS = {"pipeline": run_pipeline, "sweep": run_sweep}
