"""``quickstart`` and ``run``: whole pipelines, from flags or from one YAML."""

from pathlib import Path
from typing import Annotated

import typer

from featcache.cli.console import Quiet
from featcache.cli.tables import Json, flag
from featcache.cli.verbs import Verb, perform

VERBS = (
    Verb(
        name="quickstart",
        command="quickstart",
        help="Make short clips of known motion, extract real features, delete the clips, probe the store.",
        example="`featcache quickstart --out quickstart`",
        flags=(flag("out", "-o"), flag("keep_videos")),
        sets="motion.num_frames=16",
    ),
)


def register(app: typer.Typer) -> None:
    """Add the command ``run``."""
    app.command(epilog="Example: `featcache run configs/quickstart.yaml --set motion.num_frames=16`")(run)


def run(
    config: Annotated[Path, typer.Argument(help="A YAML file with a key `command`.")],
    set_: Annotated[list[str], typer.Option("--set", help="A setting by its key, e.g. `motion.num_frames=16`.")] = [],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Carry out what a YAML file says; every command writes such a file beside its output."""
    from featcache.commands.registry import load
    from featcache.shipped import find_config

    perform(load(find_config(config), assignments=set_), as_json=as_json)
