"""``compare``: runs against each other, video by video."""

from pathlib import Path
from typing import Annotated

import typer

from featcache.cli.console import print_result
from featcache.cli.tables import Json
from featcache.metrics.settings import IntervalSettings

DEFAULTS = IntervalSettings()


def register(app: typer.Typer) -> None:
    """Add the command ``compare``."""
    app.command(
        epilog="Example: `featcache compare runs/mine/linear-0123456789ab runs/mine/scale-linear-0123456789ab`"
    )(compare)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of `probe`, `train finetune` or `train tmm`; two or more.")
    ],
    num_resamples: Annotated[int, typer.Option(help="Number of bootstrap resamples.")] = DEFAULTS.num_resamples,
    confidence: Annotated[float, typer.Option(help="Share of the resamples in an interval.")] = DEFAULTS.confidence,
    as_json: Json = False,
) -> None:
    """Compare runs with the first one on the videos that all of them scored, with paired intervals."""
    from featcache.metrics.comparison import compare as carry_out

    intervals = IntervalSettings(num_resamples=num_resamples, confidence=confidence)
    print_result(carry_out(runs, intervals=intervals), as_json=as_json)
