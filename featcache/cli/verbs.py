"""Verbs: commands with their flags, each built when it is used, so that listing verbs imports none of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from featcache.cli.console import bars, out, print_heading, print_result
from featcache.cli.tables import Flag
from featcache.stages import OnStage


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb of the command line.

    Attributes:
        name: Name within its group.
        help: One sentence.
        example: Example command lines at the end of the help, one per line.
        flags: Flags of the verb, without those that every verb has; see :mod:`featcache.cli.tables`.
        command: Name of the command that it parses and carries out, as in YAML files.
        shorthand: Name of a function of :mod:`featcache.commands.shorthand`; empty: none.
        act: Called with the settings instead of carrying out the command.
        extra: Further options for ``act`` that are not settings.
        section: Section of the settings in which every setting gets a flag whose value is one word or a list.
        sets: An example for ``--set``.
    """

    name: str
    help: str
    example: str
    command: str
    flags: tuple[Flag, ...] = ()
    shorthand: str = ""
    act: Callable[..., None] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    section: str = ""
    sets: str = "training.epochs=5"


def group_of(verbs: Callable[[], Iterable[Verb]]) -> type[TyperGroup]:
    """A group that lists its verbs without building their flags, and builds a verb when it is used."""

    class Verbs(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            self._listed()
            return super().list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            self._listed()
            return super().get_command(ctx, cmd_name)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, command, rest = super().resolve_command(ctx, args)
            verb = self._listed().get(str(name))
            return name, command if verb is None else _command(verb, _function(verb)), rest

        def _listed(self) -> dict[str, Verb]:
            """Names of the verbs, followed by commands that were registered otherwise."""
            listed = {verb.name: verb for verb in verbs()}
            if not listed.keys() <= self.commands.keys():
                stubs = {name: _command(verb, lambda: None) for name, verb in listed.items()}
                self.commands = {**stubs, **self.commands}
            return listed

    return Verbs


def _function(verb: Verb) -> Callable[..., None]:
    from featcache.cli.flags import build, plain
    from featcache.commands import shorthand
    from featcache.commands.registry import settings_class

    return build(
        settings_class(verb.command),
        verb.flags,
        verb.act or perform,
        section=verb.section,
        shorthand=getattr(shorthand, verb.shorthand) if verb.shorthand else plain,
        extra=verb.extra,
        example=verb.sets,
    )


def _command(verb: Verb, function: Callable[..., None]) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command(verb.name, help=verb.help, epilog=f"Example: {verb.example}")(function)
    return get_command(app)


def perform(settings: Any, *, as_json: bool = False, print_config: bool = False) -> None:
    """Carry out a command and print its result."""
    from featcache.commands.run import carry_out
    from featcache.config import to_yaml

    if print_config:
        out.print(to_yaml(settings), end="", markup=False)
        return
    for said in carry_out(settings, watching=watching):
        if not isinstance(said, str):
            print_result(said, as_json=as_json)
        elif not as_json:
            print_heading(said)


@contextmanager
def watching() -> Iterator[OnStage]:
    """Draw the progress of one command."""
    with bars() as drawn:
        yield drawn.update


def plan(settings: Any, *, as_json: bool = False) -> None:
    """Print what a command would take; it writes nothing."""
    from featcache.commands.registry import command_of, plan_of

    function = plan_of(command_of(settings))
    with watching() as on_stage:
        result = function(settings, on_stage=on_stage)
    print_result(result, as_json=as_json)


def perform_or_plan(*, always: bool = False) -> Callable[..., None]:
    """Like :func:`perform`, but :func:`plan` the command instead, always or with the option ``dry_run``."""

    def act(settings: Any, *, as_json: bool, print_config: bool, dry_run: bool = False) -> None:
        if print_config or not (dry_run or always):
            perform(settings, as_json=as_json, print_config=print_config)
        else:
            plan(settings, as_json=as_json)

    return act
