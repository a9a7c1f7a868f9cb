"""The commands by name: the settings class of each, and the function that carries it out.

Each command is a function of its settings. The key ``command`` of a YAML file names it. Settings and functions are
given by their place, as text, so that nothing is imported before it is needed.
"""

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from featcache.commands.places import check_places, with_places
from featcache.config import Settings, apply_overrides, parse, read_mapping
from featcache.errors import ConfigError, unknown_name
from featcache.shipped import load_pipeline

NOWHERE: Mapping[str, str] = MappingProxyType({})
PROBE = "probe-"
"""Prefix of the commands of probes; the name of the probe follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        settings: Place of its settings class: ``module:name``, or ``pipelines/file.py:name`` for a shipped script.
        run: Place of its function ``run(settings, *, on_stage) -> Result``, or of a generator of results; see
            :func:`featcache.commands.run.carry_out`.
        store: The setting that names the store to write; empty: the setting of the store to read is found by its name;
            ``None``: the command has a store of its own.
        plan: Place of its function ``plan(settings, *, on_stage) -> Result``, which says what it would take and writes
            nothing; empty: it has no dry run.
    """

    settings: str
    run: str
    store: str | None = ""
    plan: str = ""


_COMMANDS: dict[str, Command] = {
    "scan": Command(settings="featcache.commands.scan:ScanSettings", run="featcache.commands.scan:scan"),
    "extract": Command(
        settings="featcache.extract.settings:ExtractSettings",
        run="featcache.commands.extract:extract",
        store="out",
        plan="featcache.commands.extract:plan",
    ),
    "train-advise": Command(
        settings="featcache.methods.advise.settings:AdviseSettings", run="featcache.methods.advise.run:pretrain"
    ),
    "train-tmm": Command(
        settings="featcache.methods.advise.settings:TmmFineTuneSettings",
        run="featcache.methods.advise.tmm:run_temporal",
    ),
    "train-r3d50": Command(
        settings="featcache.methods.advise.settings:R3d50Settings",
        run="featcache.methods.advise.run:pretrain_r3d50",
        plan="featcache.methods.advise.plan:plan_r3d50",
    ),
    "cost-advise": Command(
        settings="featcache.methods.advise.settings:AdviseCostSettings",
        run="featcache.methods.advise.cost:measure_cost",
    ),
    "cost-backbone": Command(
        settings="featcache.commands.cost:BackboneCostSettings", run="featcache.commands.cost:count_backbone"
    ),
    "train-scale": Command(
        settings="featcache.methods.scale.settings:ScaleSettings", run="featcache.methods.scale.run:pretrain_scale"
    ),
    "train-svt": Command(
        settings="featcache.methods.svt.settings:SvtSettings",
        run="featcache.methods.svt.run:pretrain_svt",
        plan="featcache.methods.svt.plan:plan_svt",
    ),
    "train-finetune": Command(
        settings="featcache.methods.finetune.settings:FinetuneSettings",
        run="featcache.methods.finetune.run:finetune",
        plan="featcache.methods.finetune.plan:plan_finetune",
    ),
    "train-distill": Command(
        settings="featcache.methods.distill.settings:DistillSettings",
        run="featcache.methods.distill.run:distill",
        plan="featcache.methods.distill.plan:plan_distill",
    ),
    "train-pretext": Command(
        settings="featcache.methods.pretext.settings:PretextSettings",
        run="featcache.methods.pretext.run:pretrain",
        plan="featcache.methods.pretext.run:plan_pretext",
    ),
    "audit-leaks": Command(
        settings="featcache.methods.pretext.leaks.settings:LeakSettings",
        run="featcache.methods.pretext.leaks.audit:audit_leaks",
    ),
    "classify": Command(
        settings="featcache.commands.classify:ClassifySettings", run="featcache.commands.classify:classify"
    ),
    "search": Command(settings="featcache.commands.search:SearchSettings", run="featcache.commands.search:search"),
    "import": Command(
        settings="featcache.exchange.settings:ImportSettings", run="featcache.exchange.importing:import_features"
    ),
    "merge": Command(
        settings="featcache.store.settings:MergeSettings",
        run="featcache.store.copying:merge",
        store="out",
        plan="featcache.store.copying:plan_merge",
    ),
    "convert": Command(
        settings="featcache.store.settings:ConvertSettings",
        run="featcache.store.copying:convert",
        store="out",
        plan="featcache.store.copying:plan_convert",
    ),
    "diff": Command(settings="featcache.store.settings:DiffSettings", run="featcache.store.comparing:diff"),
    "export": Command(settings="featcache.exchange.settings:ExportSettings", run="featcache.exchange.exporting:export"),
    "evaluate-tmm": Command(
        settings="featcache.methods.advise.settings:TmmEvaluationSettings",
        run="featcache.methods.advise.tmm:evaluate_plugged",
    ),
    "evaluate-noise": Command(
        settings="featcache.evaluation.noise_settings:NoiseEvaluationSettings",
        run="featcache.commands.noise:evaluate_noise",
        plan="featcache.evaluation.noise_plan:plan_noise",
    ),
    "evaluate-cka": Command(
        settings="featcache.evaluation.cka_settings:CkaSettings", run="featcache.report.cka:evaluate_cka"
    ),
    "figure-activation": Command(
        settings="featcache.report.figure_settings:ActivationFigureSettings",
        run="featcache.report.activation_maps:draw_activation",
    ),
    "figure-attention": Command(
        settings="featcache.report.figure_settings:AttentionFigureSettings",
        run="featcache.report.attention_maps:draw_attention",
    ),
    "figure-cost": Command(
        settings="featcache.report.figure_settings:CostFigureSettings", run="featcache.report.cost:draw_cost"
    ),
    "pipeline": Command(settings="featcache.commands.steps:PipelineSettings", run="featcache.commands.steps:pipeline"),
    "sweep": Command(settings="featcache.commands.sweeps:SweepSettings", run="featcache.commands.sweeps:sweep"),
    "reproduce": Command(
        settings="featcache.commands.reproduce:ReproduceSettings",
        run="featcache.commands.reproduce:reproduce",
        plan="featcache.commands.reproduce:plan",
    ),
    **{
        name: Command(settings=f"pipelines/{name}.py:{kind}", run=f"pipelines/{name}.py:run", store=None)
        for name, kind in {
            "quickstart": "QuickstartSettings",
            "advise": "AdvisePipelineSettings",
            "pretext_benchmark": "PretextBenchmarkSettings",
            "scale": "ScalePipelineSettings",
            "svt": "SvtPipelineSettings",
        }.items()
    },
}


def command_names(prefix: str = "") -> list[str]:
    """Names of all commands that begin with ``prefix``, including those of registered probes."""
    from featcache.commands.probe import probe_summaries

    probes = [f"{PROBE}{name}" for name in probe_summaries()] if PROBE.startswith(prefix) else []
    return [name for name in [*_COMMANDS, *probes] if name.startswith(prefix)]


def settings_class(command: str) -> type[Settings]:
    """The settings class of a command.

    Raises:
        UnknownNameError: There is no such command; names the closest.
    """
    if command in _COMMANDS:
        kind: type[Settings] = resolve(_COMMANDS[command].settings)
        return kind
    if command.startswith(PROBE):
        from featcache.commands.probe import probe_settings

        return probe_settings(command.removeprefix(PROBE))
    raise unknown_name("command", command, command_names())


def function_of(command: str) -> Callable[..., Any]:
    """The function that carries out a command, which must exist."""
    place = "featcache.commands.probe:probe" if command.startswith(PROBE) else _COMMANDS[command].run
    function: Callable[..., Any] = resolve(place)
    return function


def plan_of(command: str) -> Callable[..., Any]:
    """The function that plans a command, which must exist.

    Raises:
        ConfigError: The command has no dry run.
    """
    known = {name: about.plan for name, about in _COMMANDS.items() if about.plan}
    if command not in known:
        raise ConfigError(
            f"the command {command!r} has no dry run; {', '.join(known)} have one, and for a shipped table there is "
            "`featcache reproduce PAPER TABLE --dry-run`"
        )
    function: Callable[..., Any] = resolve(known[command])
    return function


def command_of(settings: Settings) -> str:
    """The command to which settings belong."""
    name: str = settings.command  # type: ignore[attr-defined]
    return name


@functools.cache
def store_key(command: str) -> str:
    """The dotted setting that names the store of a command, e.g. ``bank.store``; empty if there is none.

    The array of that store is the setting ``feature`` beside it.
    """
    if command in _COMMANDS and (place := _COMMANDS[command].store) != "":
        return place or ""
    fields = settings_class(command).model_fields
    if "store" in fields:
        return "store"
    sections = {name: field.annotation for name, field in fields.items()}
    return next(
        (
            f"{name}.store"
            for name, kind in sections.items()
            if isinstance(kind, type) and issubclass(kind, Settings) and "store" in kind.model_fields
        ),
        "",
    )


def load(
    path: Path,
    *,
    assignments: Sequence[str] = (),
    roots: Mapping[str, str] = NOWHERE,
    weights: Mapping[str, str] = NOWHERE,
) -> Settings:
    """Read the settings of any command from YAML.

    Args:
        path: A file with a key ``command``.
        assignments: ``dotted.key=value`` overrides.
        roots: Folder by data set, wherever the file names one.
        weights: File of weights by backbone, wherever the file names one.

    Raises:
        ConfigError: The file, a key or a value is unusable; the sentence names it.
        UnknownNameError: A data set or backbone was given a place, and the file names no such one.
    """
    data = apply_overrides(read_mapping(path), assignments)
    if "command" not in data:
        raise ConfigError(f"{str(path)!r} has no key 'command'; add one of: {', '.join(command_names())}")
    kind = settings_class(str(data["command"]))
    if "roots" in kind.model_fields:  # a command of several steps, which fills them in for each
        data |= {name: {**(data.get(name) or {}), **given} for name, given in (("roots", roots), ("weights", weights))}
        return parse(kind, data)
    settings = parse(kind, with_places(data, roots=roots, weights=weights))
    check_places([settings], roots=roots, weights=weights)
    return settings


def resolve(place: str) -> Any:
    """Import the object at a place: ``module:name``, or ``pipelines/file.py:name``."""
    where, _, name = place.partition(":")
    if where.endswith(".py"):
        return getattr(load_pipeline(Path(where).stem), name)
    return getattr(importlib.import_module(where), name)
