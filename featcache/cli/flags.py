"""Builds command-line flags from settings: a table lists the settings that get a flag.

Type, default and help text of a flag are those of its setting. Values are taken, in descending priority, from ``--set
KEY=VALUE``, from the flags that are given, from ``--config FILE``, and from the command's own defaults.
"""

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel

from featcache.cli.console import Quiet
from featcache.cli.tables import Flag, Json
from featcache.commands.shorthand import Data, Lay, Words
from featcache.config import Settings, apply_overrides, parse, to_dict, with_values
from featcache.errors import ConfigError
from featcache.shipped import find_config


def plain(data: Data, words: Words, lay: Lay) -> Data:
    """Default shorthand, for commands without words of their own."""
    return lay(data)


SET = "Any other setting by its key, e.g. `{}`."
CONFIG = "Settings to start from, e.g. of `--print-config`; flags come on top."
Config = Annotated[Path | None, typer.Option("--config", help=CONFIG)]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the YAML that repeats this, and stop.")]


def build(
    kind: type[Settings],
    flags: Sequence[Flag],
    act: Callable[..., None],
    *,
    shorthand: Callable[[Data, Words, Lay], Data] = plain,
    extra: Mapping[str, Any] | None = None,
    section: str = "",
    example: str = "training.epochs=5",
) -> Callable[..., None]:
    """Build a function whose signature Typer turns into a command.

    Args:
        kind: Settings class of the command.
        flags: Flags of the command; flags of settings that ``kind`` does not have are left out.
        act: Called as ``act(settings, as_json=..., print_config=..., **extra)``.
        shorthand: Translates words to settings, as in :mod:`featcache.commands.shorthand`.
        extra: Annotations for Typer of further options, by name; their default is ``False``.
        section: Section of the settings in which every setting gets a flag.
        example: An assignment for the help of ``--set``.
    """
    table = [each for each in flags if each.kind is not None or _find(kind, each.key) is not None]
    if section:
        taken = {name for each in table if not each.is_argument for name in _names(each)}
        table += _flags_of(kind, section, taken=taken)
    options = {**(extra or {}), "print_config": PrintConfig, "as_json": Json, "quiet": Quiet}

    def command(config: Path | None, set_: list[str], quiet: bool, **given: Any) -> None:
        chosen = {name: given.pop(name) for name in options if name != "quiet"}
        said = {each: given[each.name] for each in table if given[each.name] not in (None, [], ())}
        values = {each.key: value for each, value in said.items() if not each.is_word}
        data = _read(config, command=kind.model_fields["command"].default)
        if "dataset" in kind.model_fields and {"source", "dataset"} & set(values):
            data |= {"source": None, "dataset": None, "root": None}  # other videos than the file's
        words = {each.name: value for each, value in said.items() if each.is_word}
        data = shorthand(data, words, lambda under: apply_overrides(with_values(under, values), set_ or []))
        for each in table:
            if not each.is_word and _is_lacking(kind, each.key, data):
                what = each.metavar if each.is_argument else _names(each)[0]
                raise typer.BadParameter("it is required here", param_hint=what)
        act(parse(kind, data), **chosen)

    set_option = Annotated[list[str], typer.Option("--set", help=SET.format(example))]
    parameters = [
        *(_parameter(each.name, _annotation(kind, each), None) for each in table),
        _parameter("config", Config, None),
        _parameter("set_", set_option, []),
        *(_parameter(name, annotation, False) for name, annotation in options.items()),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _read(config: Path | None, *, command: str) -> Data:
    """Read a YAML file, which must be for this command."""
    from featcache.commands.registry import command_of, load

    if config is None:
        return {}
    settings = load(find_config(config))
    if (name := command_of(settings)) != command:
        raise ConfigError(f"{str(config)!r} is of the command {name!r}; carry it out with `featcache run {config}`")
    return to_dict(settings)


def _is_lacking(kind: type[Settings], key: str, data: Any) -> bool:
    """Whether a required setting is missing."""
    setting = _find(kind, key)
    for part in key.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return setting is not None and setting.is_required
        data = data[part]
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """Type, default and description of a setting; ``default`` is the command's own."""

    annotation: Any
    default: Any
    about: str
    is_required: bool


_MISSING = object()


def _find(kind: Any, key: str) -> _Setting | None:
    """The setting of a dotted key; ``None`` if the class does not have it."""
    default: Any = _MISSING
    found: _Setting | None = None
    for part in key.split("."):
        if part == "*":
            kind, default = get_args(kind)[0], _MISSING
            continue
        own = _field(kind, part)
        if own is None:
            return None
        default = own.default if default is _MISSING or default is None else getattr(default, part)
        kind = _bare(own.annotation)
        found = dataclasses.replace(own, annotation=kind, default=default, is_required=default is _MISSING)
    return found


def _field(kind: Any, name: str) -> _Setting | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(name)
        if field is None:
            return None
        default = _MISSING if field.is_required() else field.get_default(call_default_factory=True)
        return _Setting(
            annotation=field.annotation, default=default, about=field.description or "", is_required=field.is_required()
        )
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        for each in dataclasses.fields(kind):
            if each.name == name:
                made = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
                default = _MISSING if made is dataclasses.MISSING else made
                annotation = get_type_hints(kind, include_extras=True)[name]
                return _Setting(
                    annotation=annotation,
                    default=default,
                    about=_attribute(kind, name),
                    is_required=default is _MISSING,
                )
    return None


def _bare(annotation: Any) -> Any:
    """An annotation without ``None`` and without ``Annotated``."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return _bare(parts[0]) if len(parts) == 1 else Union[tuple(parts)]  # noqa: UP007  made while it runs
    return annotation


def _attribute(kind: type, name: str) -> str:
    """Description of a dataclass field in the docstring's ``Attributes``."""
    found = re.search(rf"^    {name}: (.+(?:\n        .+)*)", inspect.getdoc(kind) or "", re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _annotation(kind: type[Settings], row: Flag) -> Any:
    """Typer's annotation of the flag's parameter."""
    setting = _find(kind, row.key) if row.kind is None else None
    if setting is None:
        value, text = row.kind, row.help
    else:
        value, text = _typed(setting.annotation), _help(setting, row)
    if row.is_argument:
        return Annotated[value | None, typer.Argument(help=text, metavar=row.metavar, show_default=False)]
    names = _names(row)
    if value is bool and setting is not None and setting.default is not False:  # what is on can be turned off
        names = (f"{names[0]}/--no-{names[0].removeprefix('--')}", *names[1:])
    return Annotated[value | None, typer.Option(*names, help=text, show_default=False)]


def _names(row: Flag) -> tuple[str, ...]:
    if any(name.startswith("--") for name in row.names):
        return row.names
    return (f"--{row.key.rpartition('.')[2].replace('_', '-')}", *row.names)


def _typed(annotation: Any) -> Any:
    """The type as which Typer parses a flag; the settings check its value."""
    origin = get_origin(annotation)
    if origin in (tuple, list):
        return list[_typed(_bare(get_args(annotation)[0]))]  # type: ignore[misc]
    return annotation if annotation in (bool, int, float) else str


def _help(setting: _Setting, row: Flag) -> str:
    """Help text from the table or from the setting, with the default."""
    text = row.help or setting.about.replace("``", "`")
    default = setting.default
    if "[default:" in text or setting.is_required or default is False:
        return text + ("  [required]" if setting.is_required else "")
    text = re.sub(r"\bnull (where|if)\b", r"left out \1", text)
    if default is None or default in ((), ""):
        told = re.search(r"[;.] `?(?:[Nn]ull|None)`?: ([^.;]+)", text)
        return f"{text.replace(told[0], '')}  [default: {told[1]}]" if told else text
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"{text}  [default: {shown}]"


SHORT = {"ks": ("-k",)}
"""Short names of flags that are built from a whole section."""


def _flags_of(kind: type[Settings], section: str, *, taken: set[str]) -> list[Flag]:
    """Flags of a section: for settings whose value is one word or a list of words, and for its training epochs."""
    own = _bare(kind.model_fields[section].annotation)
    names = own.model_fields if issubclass(own, BaseModel) else [each.name for each in dataclasses.fields(own)]
    rows = [Flag(f"{section}.{name}", SHORT.get(name, ())) for name in names if _is_plain(_find(own, name))]
    rows += [Flag(f"{section}.training.epochs")] if _find(own, "training.epochs") is not None else []
    return [each for each in rows if not taken & set(_names(each))]


def _is_plain(setting: _Setting | None) -> bool:
    bare = None if setting is None else setting.annotation
    if get_origin(bare) is tuple:
        bare = _bare(get_args(bare)[0])
    return bare in (bool, int, float, str) or get_origin(bare) is Literal
