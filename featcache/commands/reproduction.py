"""Which shipped files make what the tables of a paper read, and what these need. Pure functions of settings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.backbones.registry import JOIN
from featcache.commands.places import backbones_in, check_places, mappings_in, named_in, with_places
from featcache.commands.registry import command_of, load
from featcache.commands.steps import PipelineSettings, parse_steps, pipeline_steps
from featcache.commands.sweeps import SweepSettings, points_of, sweep_steps
from featcache.config import Settings, parse, to_dict
from featcache.errors import unknown_name
from featcache.extract.settings import ExtractSettings, FeatureSettings
from featcache.files.places import folders_of, is_under
from featcache.shipped import configs_by_paper

ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """Tables of a paper, and what is to be made before them.

    Attributes:
        before: Extractions and trainings whose output the tables read and no step of them makes, in order.
        sweeps: The tables.
        steps: Every step of every row of the tables.
    """

    before: tuple[Settings, ...]
    sweeps: tuple[SweepSettings, ...]
    steps: tuple[Settings, ...]

    @property
    def extractions(self) -> tuple[ExtractSettings, ...]:
        """Every extraction; those that differ in their store alone count once, since one can be read for all."""
        found: dict[str, ExtractSettings] = {}
        for step in (*self.before, *self.steps):
            if isinstance(step, ExtractSettings):
                found.setdefault(repr(to_dict(step) | {"out": ""}), step)
        return tuple(found.values())

    @property
    def datasets(self) -> tuple[tuple[str, str], ...]:
        """Each data set with its folder."""
        pairs = ((part["dataset"], part.get("root")) for part in self._parts() if isinstance(part.get("dataset"), str))
        return tuple(dict.fromkeys((name, root or f"videos/{name}") for name, root in pairs))

    @property
    def backbones(self) -> tuple[tuple[str, str], ...]:
        """Each backbone with its weights, except for those that a step trains."""
        pairs = (
            (part["backbone"], part.get("weights") or "default")
            for part in self._parts()
            if isinstance(part.get("backbone"), str)
        )
        return tuple(pair for pair in dict.fromkeys(pairs) if not self._is_made(pair[1]))

    @property
    def unmade(self) -> tuple[str, ...]:
        """A sentence for each store and array that is read, and that no shipped file makes."""
        every = (*self.before, *self.steps)
        outs = {out for step in every if (out := _out_of(step))}
        read = {part["store"] for part in self._parts() if isinstance(part.get("store"), str)}
        sentences = [f"no shipped file makes {store!r}, which the tables read" for store in sorted(read - outs)]
        wanted = _features_read(every)
        for step in every:
            if isinstance(step, ExtractSettings):
                lacking = (wanted.get(step.out) or set()) - {name_of(each) for each in step.features}
                sentences += [f"no shipped file extracts {name!r} into {step.out!r}" for name in sorted(lacking)]
        return tuple(dict.fromkeys(sentences))

    @property
    def teacher_files(self) -> tuple[str, ...]:
        """Files of teachers of students: logits, and weights of foundation models; none that a step makes."""
        teachers = [str(text) for part in self._parts() for text in part.get("teachers") or ()]
        files = [text.partition("=")[2] if "=" in text else text for text in teachers if "=" in text or ".npz" in text]
        return tuple(dict.fromkeys(file for file in files if not self._is_made(file)))

    @property
    def counts(self) -> tuple[tuple[str, int, int, int], ...]:
        """Title, rows, trainings and other steps of each table; a step that rows share is counted once."""
        counts = []
        for sweep in self.sweeps:
            commands = dict(self._run(step) for row in sweep_steps(sweep) for step in parse_steps(row))
            trainings = sum(name.startswith("train-") for name in commands.values())
            rows = {point.row for point in points_of(sweep)}
            counts.append((sweep.title, len(rows), trainings, len(commands) - trainings))
        return tuple(counts)

    def _run(self, step: Settings) -> tuple[str, str]:
        return str(_out_of(step)), command_of(step)

    def _is_made(self, weights: str) -> bool:
        return any(is_under(weights, out) for step in (*self.before, *self.steps) if (out := _out_of(step)))

    def _parts(self) -> Iterator[Mapping[str, Any]]:
        for step in (*self.before, *self.steps):
            yield from mappings_in(to_dict(step))


def needed(
    paper: str,
    tables: Sequence[str],
    *,
    roots: Mapping[str, str],
    weights: Mapping[str, str],
    changes: Sequence[str] = (),
) -> Reproduction:
    """Find the shipped files of tables, and those that make what the tables read.

    Args:
        paper: ``advise``, ``scale``, ``svt`` or ``pretext``.
        tables: Names of tables or figures, e.g. ``table5``, of which a paper may have several files; or ``all``.
        roots: Folder by data set.
        weights: File of weights by backbone.
        changes: ``KEY=VALUE`` for the settings of each table.

    Raises:
        UnknownNameError: There is no such paper or table, or no step names a data set or backbone that was given a
            place; names the closest.
        ConfigError: A change does not fit.
    """
    papers = {name: files for name, files in configs_by_paper().items() if table_names(files)}
    if paper not in papers:
        raise unknown_name("paper", paper, papers)
    files = papers[paper]
    sweeps = []
    for path in _chosen(files, tables, paper=paper):
        sweep = load(path, assignments=changes)
        assert isinstance(sweep, SweepSettings), f"{path} is a table"
        sweeps.append(_with_own_places(sweep, roots, weights))
    steps = [step for sweep in sweeps for row in sweep_steps(sweep) for step in parse_steps(row)]
    makers = [_placed(step, roots, weights) for path in files.values() for step in _single_steps(load(path))]
    before: list[Settings] = []
    while made := _lacking([*before, *steps], makers):
        before = [*made, *before]
    check_places([*before, *steps], roots=roots, weights=weights)
    return Reproduction(before=tuple(before), sweeps=tuple(sweeps), steps=tuple(steps))


_NUMBERED = re.compile(r"(table|fig)([0-9]+)([a-z]?)")  # what follows tells files of one table apart


def table_names(files: Mapping[str, Path]) -> list[str]:
    """Names of the tables and figures among the files of a paper, each once, in the paper's order."""
    found = {parts[0]: parts for stem in files if (parts := _NUMBERED.match(stem))}
    return sorted(found, key=lambda name: (found[name][1], int(found[name][2]), found[name][3]))


def _chosen(files: Mapping[str, Path], tables: Sequence[str], *, paper: str) -> list[Path]:
    """The files of the tables that were asked for, in the order of the paper."""
    known = table_names(files)
    for name in tables:
        if name not in (ALL, *known):
            raise unknown_name(f"table of {paper}", name, [*known, ALL])
    wanted = [name for name in known if name in tables or ALL in tables]
    return [files[stem] for name in wanted for stem in sorted(files) if stem.partition("_")[0] == name]


def _single_steps(settings: Settings) -> list[Settings]:
    """The commands of a shipped file that makes something: itself, or the steps of a pipeline."""
    if isinstance(settings, PipelineSettings):
        return parse_steps(pipeline_steps(settings))
    return [] if isinstance(settings, SweepSettings) else [settings]


def _with_own_places(sweep: SweepSettings, roots: Mapping[str, str], weights: Mapping[str, str]) -> SweepSettings:
    """A table with the places of the names that its own steps use."""
    steps = sweep_steps(sweep)
    named = {"roots": (roots, set(named_in(steps, "dataset"))), "weights": (weights, set(backbones_in(steps)))}
    own = {key: {name: at for name, at in given.items() if name in used} for key, (given, used) in named.items()}
    return sweep.model_copy(update={key: {**getattr(sweep, key), **places} for key, places in own.items()})


def _placed(step: Settings, roots: Mapping[str, str], weights: Mapping[str, str]) -> Settings:
    return parse(type(step), with_places(to_dict(step), roots=roots, weights=weights))


def _lacking(steps: Sequence[Settings], makers: Sequence[Settings]) -> list[Settings]:
    """Those of the makers whose output is read by steps, and made by none of them."""
    outs = {out for step in steps if (out := _out_of(step))}
    read = {path for step in steps for path in _paths(step) if outs.isdisjoint(folders_of(path))}
    folders = {folder for path in read for folder in folders_of(path)}
    found: list[Settings] = []
    for maker in makers:
        out = _out_of(maker)
        if out and out in folders and not isinstance(maker, ExtractSettings):
            found.append(maker)
    extractions = [maker for maker in makers if isinstance(maker, ExtractSettings)]
    wanted = _features_read(steps)
    for store in dict.fromkeys(maker.out for maker in extractions if maker.out in read):
        found += _merged([maker for maker in extractions if maker.out == store], wanted.get(store, set()))
    return found


def _merged(extractions: Sequence[ExtractSettings], names: set[str] | None) -> list[ExtractSettings]:
    """Extractions into one store as one, with the arrays of these names only.

    Files that sample differently stay apart, and the store refuses the second.
    """
    groups: dict[str, list[ExtractSettings]] = {}
    for one in extractions:
        groups.setdefault(repr(to_dict(one) | {"features": ""}), []).append(one)
    merged = []
    for group in groups.values():
        features: dict[str, FeatureSettings] = {}
        for feature in (feature for one in group for feature in one.features):
            features.setdefault(name_of(feature), feature)
        kept = [feature for name, feature in features.items() if names is None or name in names]
        if kept:
            merged.append(group[0].model_copy(update={"features": tuple(kept)}))
    return merged


def name_of(feature: FeatureSettings) -> str:
    """The name by which shipped files read an array."""
    return feature.name or feature.backbone


def _features_read(steps: Sequence[Settings]) -> dict[str, set[str] | None]:
    """Names of the arrays that steps read, by store; ``None``: all, since a step names none."""
    read: dict[str, set[str] | None] = {}
    for step in steps:
        for part in mappings_in(to_dict(step)):
            store = part.get("store")
            if isinstance(store, str) and "feature" in part:
                given, names = part["feature"], read.setdefault(store, set())
                if given is None:
                    read[store] = None
                elif names is not None:
                    names.update(given.split(JOIN) if isinstance(given, str) else given)  # joined when they are read
    return read


def _out_of(step: Settings) -> str | None:
    out = getattr(step, "out", None)
    return out if isinstance(out, str) else None


def _paths(step: Settings) -> Iterator[str]:
    """Every text of a step's settings but the place of its output."""
    for part in mappings_in(to_dict(step)):
        for key, value in part.items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and key != "out":
                    yield text
