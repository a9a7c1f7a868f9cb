"""``relabel`` and ``remove``: say something else of stored videos, or take them out; nothing is computed again."""

from typing import TYPE_CHECKING, Annotated

import typer

from featcache.cli.console import out, print_facts, print_json
from featcache.cli.source import Dataset, GroupBy, Root, SplitColumn, TestFraction, selected
from featcache.errors import ConfigError

if TYPE_CHECKING:
    from featcache.data.manifest import Manifest
    from featcache.extract.amending import Amended

StorePath = Annotated[str, typer.Argument(help="A store.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's verbs."""
    app.command(
        epilog="Example: `featcache relabel stores/mine labels.csv`  \n"
        "A CSV has the column `id` (or `path`) and, if wanted, `label`, `label.<name>`, `group` and `split`."
    )(relabel)
    app.command(
        epilog="Example: `featcache remove stores/mine wave/a.mp4`  \n"
        "What is no longer there: `featcache remove stores/mine --not-in videos/`"
    )(remove)


def relabel(
    store: StorePath,
    source: Annotated[
        str | None, typer.Argument(help="A folder, or a CSV, JSONL or Parquet listing; or give --dataset.")
    ] = None,
    dataset: Dataset = None,
    root: Root = None,
    split_column: SplitColumn = None,
    test_fraction: TestFraction = None,
    group_by: GroupBy = None,
    as_json: Json = False,
) -> None:
    """Give stored videos the labels and splits of a list; columns that it does not have stay as they are."""
    from featcache.extract.amending import relabel as carry_out

    listed = _listed(source, dataset, root, split_column, test_fraction, group_by)
    _print(carry_out(store, listed), "relabelled", as_json=as_json)


def remove(
    store: StorePath,
    ids: Annotated[list[str], typer.Argument(help="Ids of the videos; `featcache export` lists them.")] = [],
    not_in: Annotated[
        str | None, typer.Option("--not-in", help="Take out what this folder or listing does not have.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take them in again.")] = False,
    as_json: Json = False,
) -> None:
    """Take videos out of a store; their features stay on the disk, and a later extraction leaves them out."""
    from featcache.extract.amending import ids_not_in
    from featcache.extract.amending import remove as carry_out

    if bool(ids) == (not_in is not None):
        raise ConfigError("name the videos to remove, or give --not-in SOURCE" + (", not both" if ids else ""))
    if undo and not_in is not None:
        raise ConfigError("--undo takes in the videos that are named; give their ids in place of --not-in")
    chosen = ids if not_in is None else ids_not_in(store, _listed(not_in, None, None, None, None, None))
    _print(carry_out(store, chosen, undo=undo), "taken in again" if undo else "removed", as_json=as_json)


def _listed(
    source: str | None,
    dataset: str | None,
    root: str | None,
    split_column: str | None,
    test_fraction: float | None,
    group_by: str | None,
) -> "Manifest":
    from featcache.data.listing import list_videos
    from featcache.data.selection import Selection, check_source
    from featcache.files.places import check_local

    check_source(source, dataset, root)
    check_local(source or root or "")
    where = selected(source, dataset, root, split_column, test_fraction, group_by, None, None)
    return list_videos(**{**where, "selection": Selection(**where["selection"])}, needs_paths=False)


def _print(result: "Amended", what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(result.to_dict())
        return
    print_facts({"store": result.store, what: f"{len(result.changed)} videos, {result.unchanged} were so already"})
    if result.not_stored:
        out.print(f"{result.not_stored} videos of the source are not in the store", style="dim")
    if result.kept_split:
        out.print(
            f"{result.kept_split} videos keep their split: the store samples the other one otherwise, so that they "
            "would need other rows; extract to a new store for that"
        )
