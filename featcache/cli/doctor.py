"""``backbones`` and ``doctor``: what is there, and what works on this machine."""

from typing import Annotated

import typer

from featcache.cli.console import print_json, print_table

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's verbs."""
    app.command(epilog="Example: `featcache backbones --json`")(backbones)
    app.command(epilog="Example: `featcache doctor`")(doctor)


def backbones(as_json: Json = False) -> None:
    """List the backbones, their weights and the pixels they expect."""
    from featcache.backbones import backbone_entries

    entries = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "input_size": entry.card.input_size if entry.card else None,
            "num_frames": entry.card.num_frames if entry.card else None,
            "license": entry.card.license if entry.card else None,
            "source": entry.card.source if entry.card else None,
        }
        for entry in backbone_entries()
    ]
    if as_json:
        print_json(entries)
        return
    rows = [
        (entry["name"], entry["summary"], entry["input_size"] or "by name", entry["num_frames"] or "by name")
        for entry in entries
    ]
    print_table("backbones", ("name", "what it is", "pixels", "frames"), rows, num_text=2)


def doctor(as_json: Json = False) -> None:
    """Say what works on this machine, one line a part, with the fix where something does not."""
    from featcache.doctor import examine

    findings = examine()
    if as_json:
        print_json([finding.to_dict() for finding in findings])
        return
    rows = [
        (finding.part, finding.state, finding.note + (f"; fix: {finding.fix}" if finding.fix else ""))
        for finding in findings
    ]
    print_table("doctor", ("part", "state", "version, and the fix"), rows, num_text=3)
