"""Pipelines: several commands in one file, one after another; and what steps are, there and in sweeps."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from featcache.commands.places import check_places, with_places
from featcache.commands.registry import command_of, settings_class, store_key
from featcache.commands.run import Watching, carry_out, unwatched
from featcache.config import Settings, parse
from featcache.errors import ConfigError, UnknownNameError
from featcache.summary import Result

_FOLDER_OF_STEP = re.compile(r"@(?P<step>\d+)(?P<file>(/.+)?)")


class PipelineSettings(Settings):
    """Settings of a pipeline: commands one after another. Each command can be resumed, and so can the pipeline."""

    command: Literal["pipeline"] = "pipeline"
    """The command this file repeats."""
    title: str = ""
    """What it reproduces, e.g. a table of a paper."""
    store: str | None = None
    """Store of every step that names none: where ``extract`` writes, and what the others read."""
    feature: str | None = None
    """Array of every step after it that names none."""
    roots: dict[str, str] = Field(default_factory=dict)
    """Folder of each data set by its name, for every step that names it, e.g. ``{ucf101: /data/ucf101}``."""
    weights: dict[str, str] = Field(default_factory=dict)
    """File of weights of each backbone by its name, for every step that names it."""
    steps: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Settings of commands, each with its key ``command``. The value ``@N`` of a key is the ``out`` of step N, and
    ``@N/FILE`` a file in it."""


def pipeline_steps(settings: PipelineSettings) -> list[dict[str, Any]]:
    """The steps of a pipeline with store and places put in, and ``@N`` replaced by the folder of step N."""
    steps = [
        with_places(
            with_store(step, store=settings.store, feature=settings.feature),
            roots=settings.roots,
            weights=settings.weights,
        )
        for step in settings.steps
    ]
    return [
        {key: with_folders(value, [step.get("out") for step in steps]) for key, value in step.items()} for step in steps
    ]


def with_store(step: Mapping[str, Any], *, store: str | None, feature: str | None) -> dict[str, Any]:
    """A step with ``store`` and ``feature`` where it names none."""
    filled = dict(step)
    place = _store_key(step)
    if not place:
        return filled
    section, _, name = place.rpartition(".")
    own = dict(filled.get(section) or {}) if section else filled
    # A command that makes its arrays, such as `extract`, names none.
    for key, value in ((name, store), ("feature" if name == "store" else "", feature)):
        if key and value is not None and own.get(key) is None:
            own[key] = value
    return {**filled, section: own} if section else own


def _store_key(step: Mapping[str, Any]) -> str:
    """The setting of a step's store; empty if it has none, or if its command is unknown."""
    try:
        return store_key(str(step.get("command")))
    except UnknownNameError:
        return ""  # said with the number of the step by `parse_steps`


def with_folders(value: Any, folders: Sequence[str | None]) -> Any:
    """``value`` with every ``@N`` and ``@N/file`` in it as a path."""
    if isinstance(value, Mapping):
        return {key: with_folders(item, folders) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_folders(item, folders) for item in value]
    if isinstance(value, str) and (found := _FOLDER_OF_STEP.fullmatch(value)):
        number = int(found["step"])
        if number >= len(folders) or folders[number] is None:
            raise ConfigError(
                f"{value!r} is the folder of a step that is not there, comes later or has no 'out'; name an earlier "
                "step, or give it an 'out'"
            )
        return f"{folders[number]}{found['file']}"
    return value


def parse_steps(steps: Sequence[Mapping[str, Any]] | Mapping[int, Mapping[str, Any]]) -> list[Settings]:
    """Settings of each step.

    Args:
        steps: The steps, in order or by their number.

    Raises:
        ConfigError: A step without a known command, or with an unusable setting; names the step.
    """
    parsed = []
    for number, step in steps.items() if isinstance(steps, Mapping) else enumerate(steps):
        name = str(step.get("command"))
        try:
            parsed.append(parse(settings_class(name), step))
        except UnknownNameError as error:
            raise UnknownNameError(f"step {number}: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"step {number} ({name}): {error}") from error
    return parsed


def pipeline(settings: PipelineSettings, *, watching: Watching = unwatched) -> Iterator[str | Result]:
    """Carry out the steps one after another; every step is checked before the first begins.

    Args:
        settings: The steps.
        watching: As in :func:`featcache.commands.run.carry_out`.

    Yields:
        A heading before each step, and its result after it.
    """
    steps = parse_steps(pipeline_steps(settings))
    check_places(steps, roots=settings.roots, weights=settings.weights)
    for number, step in enumerate(steps):
        yield f"{number + 1}/{len(steps)} {command_of(step)}"
        yield from carry_out(step, watching=watching)
