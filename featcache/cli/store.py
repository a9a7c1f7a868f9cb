"""``info``, ``verify``, ``gc``, ``relabel``, ``remove``, ``merge``, ``convert`` and ``diff``: manage stores."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featcache.cli.console import Quiet, bars, print_result
from featcache.cli.tables import Json, flag
from featcache.cli.verbs import Verb, perform_or_plan
from featcache.errors import ConfigError

if TYPE_CHECKING:
    from featcache.data.manifest import Manifest
    from featcache.data.selection import Selection

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be copied.")]
FEATURES = flag("features", "--feature", "-f", help="Only the array with this name; repeat for several.")

VERBS = (
    Verb(
        name="merge",
        command="merge",
        help="Copy a store of many generations, or several stores, into a new store of one, without the videos.",
        example="`featcache merge stores/mine --out stores/compact`  \n"
        "What two clusters extracted: `featcache merge stores/one stores/two --out stores/both`",
        flags=(flag("stores", "argument"), flag("out", "-o"), FEATURES),
        act=perform_or_plan(),
        extra={"dry_run": DryRun},
        sets="features=[clip]",
    ),
    Verb(
        name="convert",
        command="convert",
        help="Copy a store into a new one of the other file format, bit for bit.",
        example="`featcache convert stores/mine --to hdf5 --out stores/mine-hdf5`",
        flags=(flag("store", "argument"), flag("to"), flag("out", "-o"), FEATURES),
        act=perform_or_plan(),
        extra={"dry_run": DryRun},
        sets="features=[clip]",
    ),
    Verb(
        name="diff",
        command="diff",
        help="Say in what two stores differ, video by video and row by row; exit code 1 if they differ.",
        example="`featcache diff stores/mine stores/theirs`",
        flags=(
            flag("store", "argument"),
            flag("other_store", "argument"),
            flag("features", "--feature", "-f", help="Only rows of the array with this name; repeat for several."),
        ),
        sets="features=[clip]",
    ),
)

StorePath = Annotated[Path, typer.Argument(help="A store, also in a bucket (`s3://…`).")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: `featcache info stores/mine`")(info)
    app.command(epilog="Example: `featcache verify stores/mine`")(verify)
    app.command(epilog="Example: `featcache gc stores/mine`")(gc)
    app.command(
        epilog="Example: `featcache relabel stores/mine labels.csv`  \n"
        "A CSV has the column `id` (or `path`), and optionally `label`, `label.<name>`, `group` and `split`."
    )(relabel)
    app.command(
        epilog="Example: `featcache remove stores/mine wave/a.mp4`  \n"
        "What is no longer there: `featcache remove stores/mine --not-in videos/`"
    )(remove)


def info(store: StorePath, as_json: Json = False) -> None:
    """Say what a store holds: recipes, features, videos, coverage."""
    from featcache.store.info import StoreInfo
    from featcache.store.reader import open_store

    print_result(StoreInfo(facts=open_store(store).info()), as_json=as_json)


def verify(
    store: StorePath,
    quick: Annotated[bool, typer.Option("--quick", help="Check names, sizes and records, not every byte.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every file of a store against its checksums; exit code 1 if anything is wrong."""
    from featcache.store.verify import count_files
    from featcache.store.verify import verify as check

    total = count_files(store)
    seen = itertools.count(1)
    with bars() as drawn:
        report = check(store, deep=not quick, progress=lambda name: drawn.update("verify", next(seen), total, name))
    print_result(report, as_json=as_json)
    if not report.ok:
        raise typer.Exit(1)


def gc(
    store: StorePath,
    alone: Annotated[
        bool, typer.Option("--alone", help="No process on any host writes there; needed on disks without locks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove temporary files that killed writers left; waits for no one, and refuses while a writer is at work."""
    from featcache.store.gc import gc as collect

    print_result(collect(store, alone=alone), as_json=as_json)


def relabel(
    store: StorePath,
    source: Annotated[
        str | None, typer.Argument(help="A folder, or a CSV, JSONL or Parquet listing; or give --dataset.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A public data set by its lists; `featcache datasets` names them.")
    ] = None,
    root: Annotated[str | None, typer.Option(help="Folder with the videos and the lists of --dataset.")] = None,
    split_column: Annotated[
        str | None, typer.Option(help="Label column with the split, e.g. `split2`.  [default: the first]")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Split a source that has no splits, e.g. 0.3; see --group-by.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Label column; videos with the same value stay in the same split.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give stored videos the labels and splits of a list; columns that it does not have stay as they are."""
    from featcache.data.selection import Selection
    from featcache.extract.amending import relabel as carry_out

    selection = Selection(split_column=split_column, test_fraction=test_fraction, group_by=group_by)
    print_result(carry_out(store, _listed(source, dataset, root, selection)), as_json=as_json)


def remove(
    store: StorePath,
    ids: Annotated[list[str], typer.Argument(help="Ids of the videos; `featcache export` lists them.")] = [],
    not_in: Annotated[
        str | None, typer.Option("--not-in", help="Remove the videos that this folder or listing does not have.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring removed videos back.")] = False,
    as_json: Json = False,
) -> None:
    """Take videos out of a store; their features stay on the disk, and a later extraction leaves them out."""
    from featcache.data.selection import Selection
    from featcache.extract.amending import ids_not_in
    from featcache.extract.amending import remove as carry_out

    if bool(ids) == (not_in is not None):
        raise ConfigError("name the videos to remove, or give --not-in SOURCE" + (", not both" if ids else ""))
    if undo and not_in is not None:
        raise ConfigError("--undo takes in the videos that are named; give their ids in place of --not-in")
    chosen = ids if not_in is None else ids_not_in(store, _listed(not_in, None, None, Selection()))
    print_result(carry_out(store, chosen, undo=undo), as_json=as_json)


def _listed(source: str | None, dataset: str | None, root: str | None, selection: "Selection") -> "Manifest":
    from featcache.data.listing import list_videos
    from featcache.data.selection import check_source
    from featcache.files.places import check_local
    from featcache.files.urls import url_of

    check_source(source, dataset, root)
    if url_of(place := source or root or "") is None:
        check_local(place)
    return list_videos(source=source, dataset=dataset, root=root, selection=selection, needs_paths=False)
