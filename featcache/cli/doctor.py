"""``backbones`` and ``doctor``: list the backbones, and check what works on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featcache.cli.console import print_json, print_table
from featcache.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: `featcache backbones --json`")(backbones)
    app.command(epilog="Example: `featcache doctor`, or with the disk of a cluster: `featcache doctor /scratch`")(
        doctor
    )


def backbones(as_json: Json = False) -> None:
    """List the backbones, their weights and the pixels they expect."""
    from featcache.backbones.registry import BACKBONES, card_of

    entries: list[dict[str, Any]] = []
    for place in BACKBONES.places():
        card = card_of(place)
        entries.append(
            {
                "name": place.title,
                "summary": place.summary,
                "input_size": card.input_size if card else None,
                "num_frames": card.num_frames if card else None,
                "license": card.license if card else None,
                "source": card.source if card else None,
                "origin": place.origin,
            }
        )
    if as_json:
        print_json(entries)
        return
    rows = [
        (
            entry["name"],
            entry["summary"],
            entry["origin"],
            entry["input_size"] or "by name",
            entry["num_frames"] or "by name",
        )
        for entry in entries
    ]
    print_table("backbones", ("name", "what it is", "from", "pixels", "frames"), rows, num_text=3)


def doctor(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder, whose disk is tried for what stores need: links and locks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check what works on this machine, one line per part, and say how to fix what does not."""
    from featcache.doctor import examine

    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name one on the disk that the stores will be on")
    findings = examine(folder=folder)
    if as_json:
        print_json([finding.to_dict() for finding in findings])
        return
    rows = [
        (finding.part, finding.state, finding.note + (f"; fix: {finding.fix}" if finding.fix else ""))
        for finding in findings
    ]
    print_table("doctor", ("part", "state", "version, and the fix"), rows, num_text=3)
