"""``quickstart`` and ``run``: whole pipelines, from flags or from one YAML."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.console import Quiet, bars, out, print_json, print_line, print_table
from featcache.units import duration

if TYPE_CHECKING:
    from featcache.commands.registry import QuickstartSettings

Set = Annotated[list[str], typer.Option("--set", help="A setting by its key, e.g. `motion.num_frames=16`.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's verbs."""
    app.command(epilog="Example: `featcache quickstart --out quickstart`")(quickstart)
    app.command(epilog="Example: `featcache run configs/quickstart.yaml --set motion.num_frames=16`")(run)


def quickstart(
    folder: Annotated[str, typer.Option("--out", "-o", help="Folder for the store and the results.")] = "quickstart",
    keep_videos: Annotated[bool, typer.Option("--keep-videos", help="Keep the clips.")] = False,
    set_: Set = [],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make short clips of known motion, extract real features, delete the clips, probe the store."""
    from featcache.commands.registry import QuickstartSettings
    from featcache.config import apply_overrides, parse

    data = apply_overrides({"out": folder, "keep_videos": keep_videos}, set_)
    run_quickstart(parse(QuickstartSettings, data), as_json=as_json)


def run(
    config: Annotated[Path, typer.Argument(help="A YAML file with a key `command`.")],
    set_: Set = [],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Carry out what a YAML file says; every command writes such a file beside its output."""
    from featcache.commands.registry import load, runner
    from featcache.shipped import find_config

    settings = load(find_config(config), assignments=set_)
    runner(settings)(settings, as_json=as_json)


def run_quickstart(settings: "QuickstartSettings", *, as_json: bool = False) -> None:
    """Carry out ``quickstart`` and print its table."""
    from featcache.cli.extract import draw_progress
    from featcache.shipped import load_pipeline

    with bars() as drawn:
        result: dict[str, Any] = load_pipeline("quickstart").run(
            settings,
            on_stage=drawn.update,
            on_progress=lambda progress: draw_progress(drawn, progress),
        )
    if as_json:
        print_json(result)
        return
    rows = [
        (
            row["label"], row["feature"], row["probe"], row["split"],
            f"{100 * row['top1']['value']:.1f} [{100 * row['top1']['low']:.1f}, {100 * row['top1']['high']:.1f}]",
            f"{100 * row['chance']:.1f}", f"{row['coverage']['ok']}/{row['coverage']['total']}",
        )
        for row in result["results"]
    ]  # fmt: skip
    print_table(
        "top-1 accuracy in percent [95 % interval]",
        ("label", "feature", "probe", "split", "top-1", "chance", "coverage"),
        rows,
        num_text=4,
    )
    out.print("Averaged frames know the picture, not the motion; a temporal module on the stored maps learns it.")
    print_line(
        f"{result['num_videos']} videos, {result['num_rows']} rows, {duration(result['seconds'])}; "
        f"store: {result['store']}; the clips are {'kept' if settings.keep_videos else 'deleted'}.",
        dim=True,
    )


RUNNERS = {"quickstart": run_quickstart}
