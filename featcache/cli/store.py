"""``info``, ``verify`` and ``gc``: look at a store and check it."""

import itertools
from pathlib import Path
from typing import Annotated

import typer

from featcache.cli.console import Quiet, bars, out, print_facts, print_json, print_line, print_table
from featcache.units import readable_bytes

StorePath = Annotated[Path, typer.Argument(help="A store.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's verbs."""
    app.command(epilog="Example: `featcache info stores/mine`")(info)
    app.command(epilog="Example: `featcache verify stores/mine`")(verify)
    app.command(epilog="Example: `featcache gc stores/mine`")(gc)


def info(store: StorePath, as_json: Json = False) -> None:
    """Say what a store holds: recipes, features, videos, coverage."""
    from featcache.store.reader import open_store

    summary = open_store(store).info()
    if as_json:
        print_json(summary)
        return
    print_facts({key: value for key, value in summary.items() if not isinstance(value, dict | list)})
    rows = [
        (name, "x".join(map(str, feature["record_shape"])), feature["dtype"], feature["num_rows"],
         feature["coverage"]["ok"],
         feature["coverage"]["failed"], feature["coverage"]["pending"], readable_bytes(feature["num_bytes"]))
        for name, feature in summary["features"].items()
    ]  # fmt: skip
    print_table("features", ("name", "row", "dtype", "rows", "videos ok", "failed", "pending", "size"), rows)
    print_table("sampling", ("setting", "value"), list(summary["sampling"].items()))


def verify(
    store: StorePath,
    quick: Annotated[bool, typer.Option("--quick", help="Check names, sizes and records, not every byte.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every file of a store against its checksums; exit code 1 if anything is wrong."""
    from featcache.store.verify import verify as check

    total = sum(path.is_file() for path in store.rglob("*"))
    seen = itertools.count(1)
    with bars() as drawn:
        report = check(store, deep=not quick, progress=lambda name: drawn.update("verify", next(seen), total, name))
    if as_json:
        print_json(report.to_json())
    else:
        for problem in report.problems:
            print_line(f"{problem.path}: {problem.what}")
        for note in report.notes:
            print_line(note, dim=True)
        pending = sum(report.num_pending.values())
        out.print(
            f"{len(report.problems)} problems in {report.num_files} files, {readable_bytes(report.num_bytes)}"
            f"{f'; {pending} shards still to be extracted' if pending else ''}"
        )
    if not report.ok:
        raise typer.Exit(1)


def gc(store: StorePath, as_json: Json = False) -> None:
    """Remove temporary files that killed writers left; waits for no one, and refuses while a writer is at work."""
    from featcache.store.gc import gc as collect

    collected = collect(store)
    if as_json:
        print_json({"removed": collected.removed, "num_bytes": collected.num_bytes})
    else:
        out.print(f"removed {len(collected.removed)} files, {readable_bytes(collected.num_bytes)}")
