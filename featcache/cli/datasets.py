"""``datasets``: the public data sets that can be read by their official lists."""

from typing import Annotated

import typer

from featcache.cli.console import print_json, print_table

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's verbs."""
    app.command(epilog="Example: `featcache datasets --json`")(datasets)


def datasets(as_json: Json = False) -> None:
    """List the data sets for `--dataset`, and the folders and lists that each expects."""
    from featcache.data.importers import dataset_entries

    entries = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "layout": entry.layout,
            "split_columns": list(entry.split_columns),
        }
        for entry in dataset_entries()
    ]
    if as_json:
        print_json(entries)
        return
    rows = [(entry["name"], entry["summary"], entry["layout"]) for entry in entries]
    print_table("data sets", ("name", "what it is", "layout below --root"), rows, num_text=3)
