"""``datasets``: the public data sets that can be read by their official lists."""

from typing import Annotated, Any

import typer

from featcache.cli.console import print_json, print_table

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: `featcache datasets --json`")(datasets)


def datasets(as_json: Json = False) -> None:
    """List the data sets for `--dataset`, and the folders and lists that each expects."""
    from featcache.data.importers import DATASETS
    from featcache.errors import PluginError

    entries: list[dict[str, Any]] = []
    for place in DATASETS.places():
        try:
            entry = DATASETS.load(place.name)
            layout, columns = entry.layout, list(entry.split_columns)
        except PluginError as error:  # the others are listed all the same
            layout, columns = str(error), []
        entries.append(
            {
                "name": place.title,
                "summary": place.summary,
                "layout": layout,
                "split_columns": columns,
                "origin": place.origin,
            }
        )
    if as_json:
        print_json(entries)
        return
    rows = [(entry["name"], entry["summary"], entry["layout"], entry["origin"]) for entry in entries]
    print_table("data sets", ("name", "what it is", "layout below --root", "from"), rows, num_text=4)
