"""``evaluate``: what was trained before, on a store, as it is."""

from typing import TYPE_CHECKING, Annotated

import typer

from featcache.cli.console import print_result

if TYPE_CHECKING:
    from featcache.methods.advise.settings import TmmEvaluationSettings

app = typer.Typer(no_args_is_help=True, help="Score trained modules on a store without training them again.")


@app.callback()
def _group() -> None:
    """Keep ``tmm`` a verb of its own."""


@app.command(epilog="Example: `featcache evaluate tmm stores/ucf101-dinov2 --run runs/ucf101-clip/tmm-…`")
def tmm(
    store: Annotated[str, typer.Argument(help="A store of layout `frames` with maps of the run's width.")],
    run: Annotated[str, typer.Option(help="A run of `train tmm`.")],
    feature: Annotated[str | None, typer.Option("--feature", "-f", help="Array, where there are several.")] = None,
    label: Annotated[str | None, typer.Option("--label", "-l", help="Label column.  [default: the run's]")] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    out: Annotated[str | None, typer.Option("--out", "-o", help="Folder of the result.")] = None,
    set_: Annotated[list[str], typer.Option("--set", help="Any other setting by its key, e.g. `bank.grid=14`.")] = [],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Plug a trained temporal module onto the maps of another image model of the same width, and score it."""
    from featcache.config import apply_overrides, parse
    from featcache.methods.advise.settings import TmmEvaluationSettings

    given = {"bank": {"store": store, "feature": feature}, "run": run, "label": label, "device": device, "out": out}
    run_evaluation(parse(TmmEvaluationSettings, apply_overrides(given, set_)), as_json=as_json)


def run_evaluation(settings: "TmmEvaluationSettings", *, as_json: bool = False) -> None:
    """Carry out ``evaluate tmm`` and print its tables."""
    from featcache.methods.advise.plugged import evaluate_plugged

    print_result(evaluate_plugged(settings), as_json=as_json)


RUNNERS = {"evaluate-tmm": run_evaluation}
