"""How backbones, data sets, probes, decoders and pretext tasks are found, inside featcache and outside of it.

Each of these kinds has a :class:`Registry`: a table of featcache's own entries, with the name, a one-line description
and the place of each as text. A package adds entries, without a change to featcache, by entry points of the registry's
group::

    [project.entry-points."featcache.probes"]
    nearest-mean = "labprobes:PROBE"

Names are known without importing anything, so that a misspelt one is reported at once; a module is imported when its
entry is needed. A package whose module cannot be imported is named, and stops only the commands that need its entry.
"""

import importlib
import importlib.metadata
import importlib.util
import itertools
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from featcache.errors import ConfigError, PluginError, UnknownNameError, unknown_name

E = TypeVar("E")

log = logging.getLogger(__name__)

BUILT_IN = "built in"
_PREFIX = "featcache."
_TARGET = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Place of an entry; nothing of it is imported.

    Attributes:
        name: Name of the entry. A name that ends in ``/`` stands for all names that begin with it, e.g. ``timm/``.
        target: Place of the entry, as ``module:attribute``.
        summary: One line for lists; for another package, the package's own summary.
        origin: Where the entry comes from: ``built in``, or the package and its version.
        library: Module of an optional library that the entry needs; empty if none.
        extra: The extra of featcache that installs the library.
        pattern: How a family of names is written in lists, e.g. ``timm/<name>``; empty for a single name.
        example: A full name from the family.
    """

    name: str
    target: str
    summary: str
    origin: str = BUILT_IN
    library: str = ""
    extra: str = ""
    pattern: str = ""
    example: str = ""

    @property
    def title(self) -> str:
        """The name that lists show."""
        return self.pattern or self.name

    @property
    def line(self) -> str:
        """The summary, with the package that the entry comes from, where it is not built in."""
        return self.summary if self.origin == BUILT_IN else f"{self.summary} ({self.origin})"

    def covers(self, name: str) -> bool:
        """Whether this is a family that ``name`` belongs to."""
        if not self.pattern:
            return False
        return name.startswith(self.name) if self.name.endswith("/") else self.name in name


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry(Generic[E]):
    """The entries of one kind.

    Attributes:
        kind: What an entry is called, e.g. ``backbone``.
        group: Entry-point group by which packages add entries.
        entry: Type of an entry; the abstract ``Callable`` for functions.
        built_in: featcache's own entries.
        hint: A sentence for the message about an unknown name, e.g. the command that lists the names.
    """

    kind: str
    group: str
    entry: Any
    built_in: tuple[Place, ...]
    hint: str = ""

    def places(self) -> list[Place]:
        """All entries by name, families last."""
        found = [*self.built_in, *offered(self.group)]
        return sorted(found, key=lambda place: (bool(place.pattern), place.name))

    def names(self) -> list[str]:
        """All names, without families."""
        return list(dict.fromkeys(place.name for place in self.places() if not place.pattern))

    def find(self, name: str) -> Place:
        """Place of the entry ``name``.

        Raises:
            UnknownNameError: There is no such entry; names the closest.
            PluginError: Two packages, or a package and featcache itself, offer the same name.
        """
        places = self.places()
        found = [place for place in places if place.name == name and not place.pattern]
        if not found:
            covering = [place for place in places if place.covers(name)]
            # ``a/x+b/y`` is joined by ``+`` before it begins with ``a/``.
            found = [place for place in covering if not place.name.endswith("/")] or covering
        if not found:
            raise self._unknown(name, places)
        if len(found) > 1:
            one, other = found[0], found[1]
            raise PluginError(
                f"{self.kind} {name!r} is offered twice, {_by(one.origin)} and {_by(other.origin)}; "
                "rename one of them in its package, or uninstall that"
            )
        return found[0]

    def load(self, name: str) -> E:
        """Import the entry ``name``.

        Raises:
            UnknownNameError: There is no such entry; names the closest.
            PluginError: The package that offers it is broken, offers something else, or is not the only one.
            ConfigError: It needs a library that is not installed; says how to install it.
        """
        place = self.find(name)
        if place.library and importlib.util.find_spec(place.library) is None:
            raise ConfigError(
                f"{self.kind} {name!r} needs the library {place.library}; run: pip install 'featcache[{place.extra}]'"
            )
        if place.origin == BUILT_IN:
            entry: E = import_target(place.target)
            return entry
        try:
            entry = import_target(place.target)
        except (Exception, SystemExit) as error:  # whatever the code of others does stops only what asks for it
            raise PluginError(
                f"{self.kind} {name!r} of package {place.origin} cannot be loaded from {place.target} "
                f"({type(error).__name__}: {error}); fix or uninstall the package"
            ) from error
        if not isinstance(entry, self.entry):
            raise PluginError(
                f"{self.kind} {name!r} of package {place.origin} is no {self.entry.__name__}: {place.target} is of "
                f"type {type(entry).__name__}; fix or uninstall the package"
            )
        return entry

    def _unknown(self, name: str, places: Sequence[Place]) -> UnknownNameError:
        known = [place.example or place.name for place in places if not place.pattern or place.name.endswith("/")]
        return unknown_name(self.kind, name, known, hint=self.hint)


def _by(origin: str) -> str:
    return "by featcache itself" if origin == BUILT_IN else f"by package {origin}"


def offered(group: str) -> tuple[Place, ...]:
    """Entries that packages on the import path offer under an entry-point group; no package is imported."""
    return tuple(place for found, place in _offered(tuple(sys.path)) if found == group)


@cache
def _offered(path: tuple[str, ...]) -> tuple[tuple[str, Place], ...]:
    """Groups and their entries; ``path`` is only a key of the cache."""
    found: dict[str, list[tuple[str, Place]]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            points = [point for point in distribution.entry_points if point.group.startswith(_PREFIX)]
        except Exception as error:  # of a package that may have nothing to do with this one
            log.warning(
                "the entry points of package %s cannot be read (%s: %s), and what it offers is left out; "
                "fix or uninstall it",
                distribution.metadata["Name"], type(error).__name__, error,
            )  # fmt: skip
            continue
        if points:  # of a package that is on the path twice the first counts, as it does for imports
            found.setdefault(distribution.name, [(point.group, _place(point, distribution)) for point in points])
    return tuple(itertools.chain.from_iterable(found.values()))


def _place(point: importlib.metadata.EntryPoint, distribution: importlib.metadata.Distribution) -> Place:
    facts = distribution.metadata
    about = facts["Summary"] if "Summary" in facts else ""  # noqa: SIM401  not every version of Python has get
    is_family = point.name.endswith("/")
    return Place(
        name=point.name,
        target=point.value,
        summary=about if about and about != "UNKNOWN" else f"from package {distribution.name}",
        origin=f"{distribution.name} {distribution.version}",
        pattern=f"{point.name}<name>" if is_family else "",
        example=f"{point.name}name" if is_family else "",
    )


def import_target(target: str) -> Any:
    """Import the object at ``target``, written ``module:attribute``.

    Raises:
        ValueError: ``target`` is not written like this.
    """
    found = _TARGET.fullmatch(target)
    if found is None:
        raise ValueError(f"{target!r} is not written as module:attribute")
    value: Any = importlib.import_module(found[1])
    for attribute in found[2].split("."):
        value = getattr(value, attribute)
    return value
