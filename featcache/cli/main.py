"""The ``featcache`` command: assembles the verbs and turns user errors into one sentence."""

import sys
import time
from typing import Annotated

import typer

from featcache.cli import classify, compare, datasets, doctor, exchange, extract, pipeline, store
from featcache.cli.audit import audit
from featcache.cli.console import configure_logging, err, print_error
from featcache.cli.figure import figure
from featcache.cli.probe import probe
from featcache.cli.train import evaluate, train
from featcache.cli.verbs import group_of
from featcache.errors import FeatcacheError, NothingUsableError, StoppedError

INTERRUPTED = 130
NOTHING_USABLE = 3
GRACE_SECONDS = 10.0
"""Time for which a process that stops because of another process waits for that process to say why."""

app = typer.Typer(
    name="featcache",
    cls=group_of(lambda: (*pipeline.VERBS, *extract.VERBS, *classify.VERBS, *exchange.VERBS, *store.VERBS)),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Extract video features once into a store that can be trusted; probe it again and again without the videos.",
)
for room in (pipeline, store, compare, datasets, doctor):
    room.register(app)
app.add_typer(probe, name="probe")
app.add_typer(train, name="train")
app.add_typer(evaluate, name="evaluate")
app.add_typer(figure, name="figure")
app.add_typer(audit, name="audit")


Use = Annotated[
    list[str],
    typer.Option(
        "--use",
        help="A backbone of a Python file, `path/to/net.py:build`, for the command that follows. The file is run.",
    ),
]


@app.callback()
def _configure(use: Use = []) -> None:
    configure_logging()
    if use:
        from featcache.backbones.from_file import use_file

        for given in use:
            use_file(given)


def main() -> None:
    """Entry point.

    Exit codes: 0 done, 1 a user or system error, 2 unusable arguments, 3 every video failed, 130 interrupted.
    """
    try:
        app()
    except (FeatcacheError, OSError) as error:  # the system's own errors say what and where too
        if isinstance(error, StoppedError):
            # Once the process that says why has ended, torchrun ends this one; the other way round nobody would speak.
            time.sleep(GRACE_SECONDS)
        print_error(error)
        sys.exit(NOTHING_USABLE if isinstance(error, NothingUsableError) else 1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # what Typer makes of Ctrl-C, without a word
            err.print("interrupted; what was committed is safe, run the same command again to go on")
        raise


if __name__ == "__main__":
    main()
