"""Rows of the tables that say which setting has which flag."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of a command.

    Attributes:
        key: The setting by its dotted key; in ``features.*.grid`` it is that of every entry of a list. A word without
            a setting of its own has ``kind``.
        names: Its names, e.g. ``--label`` and ``-l``; short ones alone are added to the setting's; ``argument``: it is
            one.
        help: What it does, where the setting does not say it.
        kind: Type of a word that has no setting; the command's ``shorthand`` says what it stands for.
    """

    key: str
    names: tuple[str, ...] = ()
    help: str = ""
    kind: Any = None

    @property
    def is_word(self) -> bool:
        """Whether it stands for something else than one setting."""
        return self.kind is not None or "*" in self.key

    @property
    def is_argument(self) -> bool:
        """Whether it has no name on the command line."""
        return "argument" in self.names

    @property
    def name(self) -> str:
        """Name in Python."""
        return self.key.rpartition("*.")[2].replace(".", "_")


def flag(key: str, *names: str, help: str = "", kind: Any = None) -> Flag:  # noqa: A002  the name that Typer gives it
    """A row of a table; see :class:`Flag`."""
    return Flag(key, names, help, kind)
