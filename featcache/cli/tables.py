"""Rows of the tables that say which setting has which flag."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of a command.

    Attributes:
        key: Dotted key of the setting; ``features.*.grid`` is that of every entry of a list. A word without a setting
            of its own has ``kind``.
        names: Names of the flag, e.g. ``--label`` and ``-l``; if only short names are given, they are added to the
            setting's; ``argument``: a positional argument.
        help: Help text, if the setting's description does not suit.
        kind: Type of a word that has no setting; the command's ``shorthand`` translates it to settings.
    """

    key: str
    names: tuple[str, ...] = ()
    help: str = ""
    kind: Any = None

    @property
    def metavar(self) -> str:
        """How a positional argument is shown: the last part of its key."""
        return self.key.rpartition(".")[2].upper()

    @property
    def is_word(self) -> bool:
        """Whether it is a word that ``shorthand`` translates, instead of a setting."""
        return self.kind is not None or "*" in self.key

    @property
    def is_argument(self) -> bool:
        """Whether it is a positional argument."""
        return "argument" in self.names

    @property
    def name(self) -> str:
        """Name of the Python parameter."""
        return self.key.rpartition("*.")[2].replace(".", "_")


def flag(key: str, *names: str, help: str = "", kind: Any = None) -> Flag:  # noqa: A002  the name that Typer gives it
    """A row of a table; see :class:`Flag`."""
    return Flag(key, names, help, kind)
