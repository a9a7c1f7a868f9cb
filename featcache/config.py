"""Settings to and from literal YAML: complete, typed, without references or inheritance; an unknown key is an error.

The settings of each command are listed in :mod:`featcache.commands.registry`; this module holds what they share.
"""

import copy
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from featcache.errors import ConfigError, unknown_name
from featcache.files.places import check_local
from featcache.files.urls import url_of

PATH_NAMES = frozenset(
    {
        "init",
        "listing",
        "model",
        "other_store",
        "out",
        "root",
        "run",
        "sheet",
        "source",
        "sources",
        "store",
        "stores",
        "tables",
        "test_store",
        "video",
        "videos",
    }
    | {"weights"}
)
"""A setting with one of these names is a path, or a list of paths."""


class Role(Enum):
    """The role of a setting in the identity of a run, unless it is an ordinary one.

    An ordinary setting is part of the run's identity: a checkpoint that was made with another value is refused.
    """

    ASIDE = "aside"
    INPUT = "input"


A = TypeVar("A")
Aside = Annotated[A, Role.ASIDE]
"""A setting on which the trained weights do not depend: where the run is written, what is tested, how the machine is
used; or one whose effect is already part of the run's inputs, such as the split that selects its videos."""
Input = Annotated[A, Role.INPUT]
"""A setting that names something to read; its content counts for the identity, not its path."""


def role_of(about: FieldInfo) -> Role | None:
    """The role of a field, or ``None`` for an ordinary one."""
    return next((each for each in about.metadata if isinstance(each, Role)), None)


class Settings(BaseModel):
    """Base of every settings class: frozen and validated, without unknown keys, documented by attribute docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)

    BUCKET_NAMES: ClassVar[frozenset[str]] = frozenset(
        {"root", "source", "sources", "video", "videos", "store", "stores", "other_store", "test_store"}
    )
    """Those of :data:`PATH_NAMES` that may also be URLs of buckets: videos, their lists, and stores that are read."""

    @model_validator(mode="before")
    @classmethod
    def _lay_over_defaults(cls, data: Any) -> Any:
        """Complete a section that is given in part with this class's own default of that section."""
        if not isinstance(data, Mapping):
            return data
        return {
            name: laid_over(cls.model_fields[name].default, value) if name in cls.model_fields else value
            for name, value in data.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _check_paths(cls, data: Any) -> Any:
        """Refuse a URL in every setting whose name marks it as a path, also in nested settings."""
        for key, value in _named(data):
            if key in PATH_NAMES and isinstance(value, str) and not (key in cls.BUCKET_NAMES and url_of(value)):
                check_local(value)
        return data


def laid_over(default: Any, given: Any) -> Any:
    """``given``, completed with the keys of ``default`` that it lacks, if both are sections of settings."""
    if not isinstance(given, Mapping):
        return given
    if isinstance(default, BaseModel):
        names = list(type(default).model_fields)
    elif dataclasses.is_dataclass(default):
        names = [each.name for each in dataclasses.fields(default) if each.init]
    else:
        return given
    own = {name: getattr(default, name) for name in names}
    return own | {name: laid_over(own.get(name), value) for name, value in given.items()}


T = TypeVar("T", bound=Settings)

_MAX_DEPTH = 50
_MAX_VALUES = 1_000_000
_MAX_INT = (1 << 63) - 1


def to_dict(settings: Settings) -> dict[str, Any]:
    """The complete settings as JSON-ready values, in declaration order."""
    return settings.model_dump(mode="json")


def to_yaml(settings: Settings) -> str:
    """The complete settings as YAML; :func:`parse` of the result gives equal settings."""
    text: str = yaml.safe_dump(to_dict(settings), sort_keys=False, allow_unicode=True, width=100)
    return text


class _Loader(yaml.SafeLoader):
    """YAML loader that runs no code and refuses a key that is given twice (plain YAML takes the last)."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number of at most 64 bits."""
        value: int = super().construct_yaml_int(node)
        if not -_MAX_INT <= value <= _MAX_INT:
            raise ConfigError(f"the whole number {node.value!r:.40} has more than 64 bits")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping of distinct keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused when the mapping is made
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"key {key.value!r} is given twice, the second time in line {line}; remove one")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(text: str) -> Any:
    """The value that YAML stands for.

    Raises:
        ConfigError: It is not YAML, or its values are not plain or too many; the message says why.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ConfigError("it is nested deeper than settings can be") from error
    except (ValueError, OverflowError, TypeError, LookupError, AttributeError) as error:  # e.g. 2001-13-45, or 0b
        raise ConfigError(f"it holds a number or date that cannot be read ({str(error).partition(';')[0]})") from error


def _count_values(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Number of values and depth of a node with its references expanded, since a few lines may stand for many values.

    Args:
        node: The node.
        known: Counts of nodes by identity; (0, 0) while a node is being counted.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    line = node.start_mark.line + 1 if node.start_mark is not None else 0
    if id(node) not in known:
        known[id(node)] = (0, 0)
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        counts = [_count_values(part, known) for part in parts]
        known[id(node)] = 1 + sum(num for num, _ in counts), 1 + max((depth for _, depth in counts), default=0)
    num_values, depth = known[id(node)]
    if not num_values:
        raise ConfigError(f"the value in line {line} refers to itself")
    if num_values > _MAX_VALUES or depth > _MAX_DEPTH:
        what = f"nested more than {_MAX_DEPTH} deep" if depth > _MAX_DEPTH else f"more than {_MAX_VALUES} values"
        raise ConfigError(f"the value in line {line} is {what}; settings are not")
    return num_values, depth


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """Read a JSON file that holds one object, e.g. the result of a run.

    Args:
        path: The file.
        what: What the file is and which command writes it, for the message, e.g. ``"result of `featcache train`"``.

    Raises:
        ConfigError: The file is missing, is not JSON, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no {what} ({str(error).partition(';')[0]}); make it anew") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is no {what}, it holds {type(data).__name__}; make it anew")
    return data


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: The file is missing, is not YAML, gives a key twice, or holds something else.
    """
    check_local(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file {str(path)!r}; see configs/ for the shipped ones") from error
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read as YAML: {' '.join(str(error).split())}") from error
    return mapping_in(text, where=str(path))


def mapping_in(text: str, *, where: str) -> dict[str, Any]:
    """Read YAML that holds one mapping.

    Raises:
        ConfigError: It is not YAML, gives a key twice, or holds something else.
    """
    try:
        data = read_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{where!r} cannot be read as YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where!r} holds {type(data).__name__}, not a mapping of settings")
    return data


def parse(kind: type[T], data: Mapping[str, Any]) -> T:
    """Validate ``data`` as settings of ``kind``.

    Raises:
        ConfigError: Names the key, what was wrong, and the closest known key.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(data))
    except ValidationError as error:
        raise ConfigError(_sentence(kind, error)) from error


def apply_overrides(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Set dotted keys, e.g. ``sampling.num_clips=8`` or ``features.0.grid=7``; values are YAML scalars or lists.

    Raises:
        ConfigError: An assignment without ``=``, or a path through something that has no keys.
    """
    result: dict[str, Any] = copy.deepcopy(dict(data))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"cannot set {assignment!r}; write KEY=VALUE, e.g. sampling.num_clips=8")
        try:
            value = read_yaml(text)
        except ConfigError as error:
            raise ConfigError(f"the value of {assignment!r} is no YAML value; quote it") from error
        _assign(result, key, value)
    return result


def with_values(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` with the values of dotted keys, e.g. ``{"sampling.num_clips": 8}``."""
    result: dict[str, Any] = copy.deepcopy(dict(data))
    for key, value in values.items():
        _assign(result, key, value)
    return result


def to_assignments(settings: Settings) -> list[str]:
    """Every leaf as ``dotted.key=value``; applying them all to ``{}`` gives the same settings again."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in leaves(to_dict(settings), "")]


def _named(data: Any, key: str = "", *, depth: int = 8) -> Iterator[tuple[str, Any]]:
    """Every value inside mappings and lists, with the nearest key; a YAML list may contain itself."""
    if depth and isinstance(data, Mapping):
        for name, value in data.items():
            yield from _named(value, str(name), depth=depth - 1)
    elif depth and isinstance(data, list | tuple):
        for value in data:
            yield from _named(value, key, depth=depth - 1)
    else:
        yield key, data


def leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of JSON-ready settings; ``prefix`` ends in a dot or is empty."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{prefix}{key}.")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield from leaves(item, f"{prefix}{index}.")
    else:
        yield prefix[:-1], value


def _assign(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node: Any = data
    for depth, part in enumerate([*parents, last]):
        is_last = depth == len(parents)
        following = value if is_last else ([] if _is_position([*parents, last][depth + 1]) else {})
        if isinstance(node, list):
            if not _is_position(part) or int(part) > len(node):
                raise ConfigError(f"cannot set {key!r}: {part!r} is not a position in a list of {len(node)}")
            if int(part) == len(node):
                node.append(following)
            elif is_last:
                node[int(part)] = value
            node = node[int(part)]
        elif isinstance(node, dict):
            if is_last or node.get(part) is None:
                node[part] = following
            node = node[part]
        else:
            raise ConfigError(f"cannot set {key!r}: {part!r} lies inside a single value")


def _is_position(part: str) -> bool:
    """Whether a part of a key is a position in a list; a number with too many digits for a position is a name."""
    return part.isascii() and part.isdigit() and len(part) < 10


def _sentence(kind: type[Settings], error: ValidationError) -> str:
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    errors = error.errors()
    first = next((item for item in errors if item["type"] in unknown), errors[0])  # a typo explains what is "missing"
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] in unknown:
        parent = _fields_at(kind, first["loc"][:-1])
        where = ".".join(str(part) for part in first["loc"][:-1]) or "the configuration"
        return f"{unknown_name('key', str(first['loc'][-1]), parent)} (in {where})"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] in ("missing", "value_error") else f" (got {first['input']!r:.200})"
    return f"{place or kind.__name__}: {message}{got}" if place else f"{message}{got}"


def _fields_at(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """Known keys of the settings found by following ``location`` from ``kind``."""
    candidates = [kind]
    for part in location:
        if isinstance(part, int):
            continue  # the annotation of a list is unwrapped below, when its field is found
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel) and part in candidate.model_fields:
                following.append(candidate.model_fields[part].annotation)
            elif dataclasses.is_dataclass(candidate):
                following += [field.type for field in dataclasses.fields(candidate) if field.name == part]
        candidates = [inner for outer in following for inner in (get_args(outer) or (outer,))]
    names: list[str] = []
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            names += candidate.model_fields
        elif dataclasses.is_dataclass(candidate):
            names += [field.name for field in dataclasses.fields(candidate)]
    return names
