"""Pipelines and sweeps: several commands from one YAML, for ``featcache run``."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.cli.console import bars, out, print_facts, print_json, print_line, print_table
from featcache.errors import ConfigError, unknown_name
from featcache.units import duration

if TYPE_CHECKING:
    from featcache.commands.registry import AdvisePipelineSettings
    from featcache.commands.steps import PipelineSettings, SweepSettings
    from featcache.config import Settings
    from featcache.pipeline_settings import ScalePipelineSettings, SvtPipelineSettings


def run_pipeline(settings: "PipelineSettings", *, as_json: bool = False) -> None:
    """Carry out the steps one after another; every step is checked before the first begins."""
    from featcache.commands.registry import runner
    from featcache.commands.steps import pipeline_steps

    for number, step in enumerate(parse_steps(pipeline_steps(settings))):
        if not as_json:
            out.rule(f"{number + 1}/{len(settings.steps)} {settings.steps[number]['command']}", align="left")
        runner(step)(step, as_json=as_json)


def run_sweep(settings: "SweepSettings", *, as_json: bool = False) -> None:
    """Carry out the steps of every row, then print and write the table."""
    from featcache.commands.registry import runner
    from featcache.commands.steps import read_row, row_steps
    from featcache.config import to_yaml
    from featcache.files.publish import put_replace
    from featcache.report.plots import write_table
    from featcache.report.tables import Table, cell_text

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
    print_line(f"written to {folder}", dim=True)


def parse_steps(steps: Sequence[Mapping[str, Any]]) -> "list[Settings]":
    """Settings of each step.

    Raises:
        ConfigError: A step without a known command, or with an unusable setting; names the step.
    """
    from featcache.commands.registry import COMMANDS
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


def run_advise(settings: "AdvisePipelineSettings", *, as_json: bool = False) -> None:
    """Carry out ``pipelines/advise.py`` and print its table."""
    from featcache.cli.extract import draw_progress
    from featcache.shipped import load_pipeline

    with bars() as drawn:
        result: dict[str, Any] = load_pipeline("advise").run(
            settings, on_stage=drawn.update, on_progress=lambda progress: draw_progress(drawn, progress)
        )
    if as_json:
        print_json(result)
        return
    table = result["table"]
    rows = [
        (row["name"], *(f"{row[name]['value']:.1f} [{row[name]['low']:.1f}, {row[name]['high']:.1f}]" for name in
         table["columns"]))
        for row in table["rows"]
    ]  # fmt: skip
    print_table(f"{table['title']}, percent [95 % interval]", ("", *table["columns"]), rows)
    accuracy = [100 * line["accuracy"] for line in result["pretext"]["seeds"].values()]
    print_facts(
        {
            "playback rate": f"{sum(accuracy) / len(accuracy):.1f} % in the last epoch",
            **{
                f"difference, {split}": f"{100 * delta['value']:+.1f} [{100 * delta['low']:+.1f}, "
                f"{100 * delta['high']:+.1f}] points"
                for split, delta in result["finetuned"]["delta"].items()
            },
            "picture": result["picture"]["out"],
            "store": result["store"],
            "time": duration(result["seconds"]),
        }
    )


def run_scale(settings: "ScalePipelineSettings", *, as_json: bool = False) -> None:
    """Carry out ``pipelines/scale.py`` and print its table."""
    from featcache.cli.extract import draw_progress
    from featcache.shipped import load_pipeline

    with bars() as drawn:
        result: dict[str, Any] = load_pipeline("scale").run(
            settings, on_stage=drawn.update, on_progress=lambda progress: draw_progress(drawn, progress)
        )
    if as_json:
        print_json(result)
        return
    print_probes(result["table"])
    loss = [line["loss"] for line in result["predictor"]["seeds"].values()]
    print_facts(
        {
            "pre-training": f"loss {sum(loss) / len(loss):.3f} in the last epoch",
            "predictor": result["predictor"]["folder"],
            "store": result["store"],
            "time": duration(result["seconds"]),
        }
    )


def run_svt(settings: "SvtPipelineSettings", *, as_json: bool = False) -> None:
    """Carry out ``pipelines/svt.py`` and print its table."""
    from featcache.cli.extract import draw_progress
    from featcache.shipped import load_pipeline

    with bars() as drawn:
        result: dict[str, Any] = load_pipeline("svt").run(
            settings, on_stage=drawn.update, on_progress=lambda progress: draw_progress(drawn, progress)
        )
    if as_json:
        print_json(result)
        return
    print_probes(result["table"])
    last = result["pretrained"]["seeds"].values()
    shown = {"loss": "loss", "entropy": "entropy", "feature_deviation": "deviation", "rank": "rank"}
    means = (f"{word} {sum(line[name] for line in last) / len(last):.3g}" for name, word in shown.items())
    print_facts(
        {
            "pre-training": f"{', '.join(means)} in the last epoch",
            "teacher": next(iter(result["pretrained"]["weights"].values())),
            "store": result["store"],
            "time": duration(result["seconds"]),
        }
    )


def print_probes(table: "dict[str, Any]") -> None:
    """A table of probes as JSON."""
    from featcache.report.tables import Cell, cell_text

    print_table(
        f"{table['title']}, percent [95 % interval]",
        ("", *table["columns"]),
        [(row["name"], *(cell_text(Cell(**row[name])) for name in table["columns"])) for row in table["rows"]],
    )


RUNNERS = {
    "pipeline": run_pipeline,
    "sweep": run_sweep,
    "advise": run_advise,
    "scale": run_scale,
    "svt": run_svt,
}
