"""``quickstart`` and ``run``: whole pipelines, from flags or from one YAML."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from featcache.cli.console import Quiet
from featcache.cli.tables import Json, flag
from featcache.cli.verbs import Verb, perform, perform_or_plan, plan
from featcache.commands.shorthand import EXAMPLE_ROOT, EXAMPLE_WEIGHTS, split_weights

WEIGHTS = f"Weights of a backbone, `{EXAMPLE_WEIGHTS}`, or the folder with the published files"
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it takes and what is missing.")]

VERBS = (
    Verb(
        name="quickstart",
        command="quickstart",
        help="Make short clips of known motion, extract real features, delete the clips, probe the store.",
        example="`featcache quickstart --out quickstart`",
        flags=(flag("out", "-o"), flag("keep_videos")),
        sets="motion.num_frames=16",
    ),
    Verb(
        name="reproduce",
        command="reproduce",
        help="Reproduce tables of a paper: extract what they need, train, probe, and print ours beside the paper's.",
        example="`featcache reproduce scale table5 --root hmdb51=/data/hmdb51 --weights weights/ --dry-run`",
        flags=(
            flag("paper", "argument"),
            flag("tables", "argument"),
            flag("root", kind=list[str], help=f"Folder of a data set's videos and lists, `{EXAMPLE_ROOT}`; repeat."),
            flag("weights", "-w", kind=list[str], help=f"{WEIGHTS}; repeat."),
            flag("changes", "--change", help="A setting of the tables, e.g. `steps.0.training.epochs=5`; repeat."),
        ),
        shorthand="reproduce",
        act=perform_or_plan(),
        extra={"dry_run": DryRun},
        sets="weights_folder=weights",
    ),
)


def register(app: typer.Typer) -> None:
    """Add the command ``run``."""
    app.command(epilog="Example: `featcache run configs/quickstart.yaml --set motion.num_frames=16`")(run)


def run(
    config: Annotated[Path, typer.Argument(help="A YAML file with a key `command`.")],
    root: Annotated[list[str], typer.Option(help=f"Folder of a data set, `{EXAMPLE_ROOT}`, in every step.")] = [],
    weights: Annotated[list[str], typer.Option("--weights", "-w", help=f"{WEIGHTS}, in every step.")] = [],
    set_: Annotated[list[str], typer.Option("--set", help="A setting by its key, e.g. `motion.num_frames=16`.")] = [],
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Carry out what a YAML file says; every command writes such a file beside its output."""
    from featcache.commands.places import read_places, telling_keys
    from featcache.commands.registry import load
    from featcache.machine import using_weights_folder
    from featcache.shipped import find_config

    roots = read_places(root, flag="--root", example=EXAMPLE_ROOT)
    files, folder = split_weights(weights)
    with nullcontext() if folder is None else using_weights_folder(Path(folder)):
        settings = load(find_config(config), assignments=set_, roots=roots, weights=files)
        with telling_keys(settings):
            (plan if dry_run else perform)(settings, as_json=as_json)
