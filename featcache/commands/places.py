"""Where a machine keeps the videos of data sets and the weights of backbones, put into the settings of a command.

Shipped files name data sets and backbones, and not where they lie. Both are filled in wherever a command names them, so
that one ``roots.ucf101`` serves every step of a table.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from featcache.backbones.registry import JOIN
from featcache.config import Settings, leaves, to_dict
from featcache.errors import ConfigError, WeightsError, unknown_name


def with_places(settings: Any, *, roots: Mapping[str, str], weights: Mapping[str, str]) -> Any:
    """A copy of settings in which the named data sets and backbones have their places.

    A network whose weights are said already keeps them: a file, those of an earlier step, or random ones.

    Args:
        settings: Settings of a command, as a mapping, or any part of them.
        roots: Folder by data set.
        weights: File, ``default`` or ``random``, by backbone.
    """
    if isinstance(settings, list | tuple):
        return [with_places(each, roots=roots, weights=weights) for each in settings]
    if not isinstance(settings, Mapping):
        return settings
    placed = {key: with_places(value, roots=roots, weights=weights) for key, value in settings.items()}
    if (root := roots.get(str(placed.get("dataset")))) is not None:
        placed["root"] = root
    file = _file_of(str(placed.get("backbone")), weights)
    if file is not None and _is_free(placed.get("weights")):
        placed["weights"] = file
    return placed


def _file_of(backbone: str, weights: Mapping[str, str]) -> str | None:
    """The weights of a backbone; of joined ones, those of each member."""
    members = backbone.split(JOIN)
    if backbone in weights or not set(members) & set(weights):
        return weights.get(backbone)
    return JOIN.join(weights.get(member, "default") for member in members)


def _is_free(weights: Any) -> bool:
    """Whether nothing says yet where weights come from."""
    return weights in (None, "default")


def check_places(settings: Iterable[Settings], *, roots: Mapping[str, str], weights: Mapping[str, str]) -> None:
    """Check that each name that was given a place is used by one of the commands, there.

    Args:
        settings: Settings of the commands, with the places filled in.
        roots: Folder by data set.
        weights: File of weights by backbone.

    Raises:
        UnknownNameError: None of them names it; the message has the closest name.
        ConfigError: All of them say themselves which weights they take.
    """
    listed = [to_dict(each) for each in settings]
    for kind, given, used in (
        ("data set", roots, set(named_in(listed, "dataset"))),
        ("backbone", weights, set(backbones_in(listed))),
    ):
        for name in given:
            if name not in used:
                raise unknown_name(f"{kind} of these settings", name, used)
    for name, file in weights.items():
        own = [part["weights"] for part in mappings_in(listed) if name in str(part.get("backbone")).split(JOIN)]
        if not any(file in str(each).split(JOIN) for each in own):
            raise ConfigError(
                f"the settings say themselves that the weights of {name} are {own[0]!r}; leave out its --weights, or "
                "change that setting"
            )


@contextmanager
def telling_keys(settings: Settings) -> Iterator[None]:
    """Name the keys of the settings where weights are lacking, in a ``with`` block that carries the settings out.

    Raises:
        WeightsError: In place of one that knows the backbone, with the keys of its weights.
    """
    try:
        yield
    except WeightsError as error:
        named = [key for key, value in leaves(to_dict(settings), "") if error.backbone in str(value).split(JOIN)]
        keys = [key.removesuffix("backbone") + "weights" for key in named if f".{key}".endswith(".backbone")]
        if not error.backbone or not keys:
            raise
        raise WeightsError(
            f"{error}: here --weights {error.backbone}=FILE, which sets {' and '.join(keys)}", backbone=error.backbone
        ) from error


def backbones_in(settings: Any) -> Iterator[str]:
    """Names of all backbones in settings; of joined ones, the members too."""
    for name in named_in(settings, "backbone"):
        yield name
        yield from name.split(JOIN)


def named_in(settings: Any, key: str) -> Iterator[str]:
    """The values of ``key`` anywhere in settings, e.g. of ``dataset``."""
    return (name for part in mappings_in(settings) if isinstance(name := part.get(key), str))


def mappings_in(settings: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in settings, from the outermost."""
    if isinstance(settings, Mapping):
        yield settings
        settings = tuple(settings.values())
    if isinstance(settings, list | tuple):
        for value in settings:
            yield from mappings_in(value)


def read_places(texts: Iterable[str], *, flag: str, example: str) -> dict[str, str]:
    """Parse words ``NAME=PATH``.

    Raises:
        ConfigError: One has no ``=``, or a name is given twice.
    """
    places: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals or not name or not place:
            raise ConfigError(f"cannot read {flag} {text!r}; write NAME=PATH, e.g. {flag} {example}")
        if name in places:
            raise ConfigError(f"{flag} gives {name!r} twice; give it once")
        places[name] = place
    return places
