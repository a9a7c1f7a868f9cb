"""The identity of a run: its settings leaf by leaf, its inputs by content, and its seed.

A settings field is marked with :data:`featcache.config.Aside` if it is not part of the identity, and with
:data:`featcache.config.Input` if it names an input, whose content counts instead of its path.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticUndefined, to_jsonable_python

from featcache.config import Role, Settings, leaves, role_of
from featcache.files.sealed import canonical_json, sha256_bytes

_ABSENT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Values with which a checkpoint must have been made.

    Attributes:
        values: JSON-ready values by dotted name.
        defaults: Default values, if there are any. A checkpoint that was written before a setting existed counts as
            having its default, so that a new setting does not change the identity of old runs.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """32 hex digits over all values."""
        return digest(self.values)

    def difference(self, saved: Mapping[str, Any]) -> str | None:
        """The first value in which a saved run differs, as the end of a sentence, or ``None``."""
        for name in sorted({*self.values, *saved}):
            mine = self.values.get(name, _ABSENT)
            theirs = saved.get(name, self.defaults.get(name, _ABSENT))
            if theirs is _ABSENT:
                return f"without {name}, which is {mine!r} here"
            if mine is _ABSENT:
                return f"with {name} {theirs!r}, which is not given here"
            if mine != theirs:
                return f"with {name} {theirs!r}, which is {mine!r} here"
        return None


def identity_of(
    settings: Settings, *, inputs: Mapping[str, str], seed: int, beside: Mapping[str, Any] | None = None
) -> Identity:
    """The identity of a run of these settings.

    Args:
        settings: Settings of a method.
        inputs: Digests of the data that the run reads, by the dotted name of the setting that names them, e.g.
            ``bank.store``, or by a name of their own, e.g. ``labels``.
        seed: Seed of the run.
        beside: Further values on which the run depends.
    """
    found = list(_values(settings, ""))
    values = {name: value for name, value, _, role in found if role is None}
    for name, value, _, role in found:
        assert role is None or value is None or name in inputs, f"the content of {name} is not among the inputs"
    content = {f"content of {name}": digest for name, digest in inputs.items()}
    return Identity(
        values={**values, **content, "seed": seed, **(beside or {})},
        defaults={name: default for name, _, default, role in found if role is None and default is not _ABSENT},
    )


def digest(value: Any) -> str:
    """32 hex digits over the canonical JSON of a value."""
    return sha256_bytes(canonical_json(value))[:32]


def _values(settings: Settings, prefix: str) -> Iterator[tuple[str, Any, Any, Role | None]]:
    """Name, value, default and role of each leaf that is part of the identity."""
    for name, about in type(settings).model_fields.items():
        role = role_of(about)
        value = getattr(settings, name)
        if role is Role.ASIDE:
            continue
        if isinstance(value, Settings):
            yield from _values(value, f"{prefix}{name}.")
            continue
        default = about.get_default(call_default_factory=True)
        if default is None and dataclasses.is_dataclass(
            value
        ):  # a setting that is newer than a run has its own default
            own = dataclasses.fields(value)
            default = {each.name: each.default for each in own if each.default is not dataclasses.MISSING}
        known = {} if default is PydanticUndefined else dict(leaves(to_jsonable_python(default), f"{prefix}{name}."))
        for key, leaf in leaves(to_jsonable_python(value), f"{prefix}{name}."):
            yield key, leaf, known.get(key, _ABSENT), role
