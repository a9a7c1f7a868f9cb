"""What the shipped pipelines share: settings of steps, the folder, the videos, the probes and the result."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, SerializerFunctionWrapHandler, model_serializer, model_validator

from featcache.commands.extract import extract
from featcache.commands.probe import ProbeTarget, probe, with_own
from featcache.config import Settings, laid_over, leaves, parse, read_mapping, to_yaml, with_values
from featcache.data.motion import MotionSettings, make_motion_set, remove_motion_set
from featcache.data.selection import Selection
from featcache.errors import ConfigError
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.report.tables import Table
from featcache.stages import OnStage
from featcache.summary import Summary
from featcache.units import duration

if TYPE_CHECKING:
    from featcache.extract.result import Extraction

T = TypeVar("T", bound=Settings)

DECIDED = "decided by the pipeline"
"""Value of a setting that a pipeline decides, until the step begins."""
VIDEOS = ("source", "dataset", "root", "selection")
"""Settings of a step that reads videos; the pipeline has ``source`` and ``selection`` for all steps."""
PROBED = ("command", "store", "feature", "label", "numbers", "out")
"""Settings of probes that the pipeline decides."""
_FIXED = (
    *("source", "selection", "motion", "feature", "num_frames", "input_size"),
    *("extraction.sampling", "extraction.file_format"),
)
"""Settings that a second run in a folder may not change, because its store would not fit."""


def keys(section: str, *names: str) -> tuple[str, ...]:
    """Dotted keys of a section."""
    return tuple(f"{section}.{name}" for name in names)


def extraction_with(sampling: SamplingSettings, *, runtime: RuntimeSettings | None = None) -> ExtractSettings:
    """The extraction of a pipeline, of which it decides the rest."""
    feature = FeatureSettings(backbone=DECIDED)
    runtime = runtime or RuntimeSettings()
    return ExtractSettings(source=DECIDED, out=DECIDED, features=(feature,), sampling=sampling, runtime=runtime)


def optional(section: Settings) -> BeforeValidator:
    """For the annotation of a section that is left out by default: given in part, it is completed with ``section``."""
    return BeforeValidator(lambda given: laid_over(section, given))


class ShippedSettings(Settings):
    """Settings that all shipped pipelines have; each step has a section with the settings of the command it repeats.

    Some settings of a step are decided by the pipeline: its input, its folder, and what the step before it has made.
    They are left out of files, and giving one is an error. A pipeline lists them in its docstring and in ``decided``.
    """

    decided: ClassVar[tuple[str, ...]] = ()
    """Dotted keys of the pipeline's own sections that it decides."""

    command: str
    """The command this file repeats."""
    out: str
    """Folder for everything that the pipeline writes."""
    source: str | None = None
    """A folder of videos or a listing; null: the motion set, which is made first and deleted when it is not needed any
    more."""
    selection: Selection = Selection()
    """Which column holds the split, and which of the listed videos are used, in every step that reads videos."""
    motion: MotionSettings = MotionSettings()
    """The clips to make if no source is given."""
    keep_videos: bool = False
    """Keep the clips of the motion set."""
    extraction: ExtractSettings
    """The extraction. The pipeline decides its videos, features and store."""

    @classmethod
    def all_decided(cls) -> tuple[str, ...]:
        """Dotted keys of everything that the pipeline decides."""
        return (*keys("extraction", *VIDEOS, "features", "out"), *cls.decided)

    @model_validator(mode="before")
    @classmethod
    def _refuse_decided(cls, data: Any) -> Any:
        """Refuse a setting that the pipeline decides, before a step complains about it.

        Raises:
            ConfigError: One is given; names it, and the setting to give instead if there is one.
        """
        for key in cls.all_decided():
            section, _, rest = key.partition(".")
            default = _at(cls.model_fields[section].default, rest)
            if rest and isinstance(_at(data, section), BaseModel) and cls.model_fields[section].default is None:
                continue  # a section that is left out by default, as a whole
            if _at(data, key, absent=default) != default:
                name = key.rpartition(".")[2]
                words = [word for word in (name, f"{name}s", name.removesuffix("s")) if word in cls.model_fields]
                advice = f"give {words[0]} instead" if words and words[0] != key else "leave it out"
                raise ConfigError(f"{key} is decided by the pipeline itself; {advice}")
        return data

    @model_serializer(mode="wrap")
    def _without_decided(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The settings without those that the pipeline decides."""
        data: dict[str, Any] = handler(self)
        for key in self.all_decided():
            *sections, name = key.split(".")
            if not sections or data[sections[0]] is not None:
                functools.reduce(lambda node, section: node[section], sections, data).pop(name)
        return data


def _at(settings: Any, key: str, *, absent: Any = None) -> Any:
    """The value of a dotted key of settings or of a mapping, or ``absent``; an empty key gives the settings."""
    for name in key.split(".") if key else ():
        settings = settings.get(name, absent) if isinstance(settings, Mapping) else getattr(settings, name, absent)
    return settings


def decide(section: T, values: Mapping[str, Any]) -> T:
    """The complete settings of a step.

    Args:
        section: The step's section of the pipeline's settings.
        values: What the pipeline decides, by dotted key.

    Raises:
        ConfigError: The values do not fit the rest of the section.
    """
    made = parse(type(section), with_values(section.model_dump(), values))
    left = [key for key, value in leaves(made.model_dump(), "") if value == DECIDED]
    assert not left, f"the pipeline does not decide {left}"
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """The result of a pipeline.

    Attributes:
        found: JSON-ready results of its steps, as in ``result.json``.
        shown: The summary to print.
    """

    found: dict[str, Any]
    shown: Summary

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return self.found

    def summary(self) -> Summary:
        """The summary to print."""
        return self.shown


class Asked(NamedTuple):
    """One probe of one feature.

    Attributes:
        probe: Registry name of the probe.
        own: The probe's own settings.
        feature: Name of the feature.
    """

    probe: str
    own: Any
    feature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRun:
    """A pipeline that has begun; see :func:`begin`.

    Attributes:
        settings: Settings of the pipeline.
        videos: Source and selection of every step that reads videos, by the names of their settings.
        on_stage: Called with each stage.
        started: Time of the start, in seconds of the monotonic clock.
    """

    settings: ShippedSettings
    videos: Mapping[str, Any]
    on_stage: OnStage
    started: float

    @property
    def store(self) -> str:
        """The store."""
        return self.folder("store")

    def folder(self, name: str) -> str:
        """A folder or file inside the folder of the pipeline."""
        return str(Path(self.settings.out) / name)

    def extract(self, features: Sequence[FeatureSettings]) -> "Extraction":
        """Extract features into the store of the pipeline."""
        values = {**self.videos, "features": tuple(features), "out": self.store}
        return extract(decide(self.settings.extraction, values), on_stage=self.on_stage)

    def remove_videos(self) -> None:
        """Remove the motion set, unless it is to be kept; called when no later step reads a video."""
        if self.settings.source is None and not self.settings.keep_videos:
            remove_motion_set(Path(self.folder("videos")), self.settings.motion)

    def probe(self, target: ProbeTarget, label: str, asked: Mapping[str, Asked]) -> dict[str, dict[str, Any]]:
        """Probe the store for one label column, in folders below ``probes``.

        Args:
            target: Settings that all probes share.
            label: The label column.
            asked: Probes by the names of their results.

        Returns:
            JSON-ready results by name.
        """
        results = {}
        for number, (name, each) in enumerate(asked.items()):
            self.on_stage(f"probes of {label}", number, len(asked))
            where = {"store": self.store, "feature": each.feature, "label": label}
            settings = with_own(target.model_copy(update=where), each.probe, each.own)
            probed = probe(settings, on_stage=self.on_stage, root=Path(self.folder("probes")))
            results[name] = probed.to_dict()
        self.on_stage(f"probes of {label}", len(asked), len(asked))
        return results

    def write(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``result.json``, with the store and the seconds that were taken; returns what it holds."""
        complete = {"store": self.store, **found, "seconds": time.monotonic() - self.started}
        put_replace(Path(self.folder("result.json")), canonical_json(complete))
        return complete

    def finish(self, found: Mapping[str, Any], *, table: Table, facts: Mapping[str, object]) -> PipelineResult:
        """Write the table and ``result.json``, and remove the videos.

        Args:
            found: JSON-ready results of the steps.
            table: The table.
            facts: Names and values to show beside it.
        """
        from featcache.report.plots import write_table

        self.remove_videos()
        write_table(table, Path(self.settings.out))
        complete = self.write({**found, "table": table.to_dict()})
        shown = {**facts, "store": self.store, "time": duration(complete["seconds"])}
        drawn = table.summary_tables(notes=any(note for _, _, note, _ in table.rows))
        return PipelineResult(found=complete, shown=Summary(tables=drawn, facts=shown))


def begin(settings: ShippedSettings, *, on_stage: OnStage) -> PipelineRun:
    """Claim the folder of a pipeline, and find its videos, or make them.

    Args:
        settings: Settings of the pipeline.
        on_stage: Called with (``"clips"``, done, total) while a motion set is made, and with the later stages.

    Raises:
        ConfigError: The folder holds anything but a run of the same pipeline on the same features.
        StoppedError: In other processes than the first, if torchrun started several.
    """
    started = time.monotonic()
    claim_folder(settings)
    videos = {"source": find_videos(settings, on_stage=on_stage), "selection": settings.selection}
    return PipelineRun(settings=settings, videos=videos, on_stage=on_stage, started=started)


def claim_folder(settings: ShippedSettings) -> None:
    """Write ``config.yaml`` into a folder that is new, or holds a run of the same pipeline on the same features.

    Raises:
        ConfigError: The folder holds anything else, or torchrun started several processes.
        StoppedError: In the other processes.
    """
    from featcache.training.runs import refuse_company

    refuse_company("a pipeline runs in one (each of its `train` commands can share its batches)")
    out = Path(settings.out)
    path = out / "config.yaml"
    if path.exists():
        former = read_mapping(path)
        if former.get("command") != settings.command:
            raise ConfigError(f"{out} holds the results of another command; choose another out")
        try:
            before = parse(type(settings), former)
        except ConfigError as error:
            raise ConfigError(f"{path} cannot be continued: {error}; choose another out, or delete {out}") from error
        has = [name for name in _FIXED if name.partition(".")[0] in type(settings).model_fields]
        if changed := [name for name in has if _at(before, name) != _at(settings, name)]:
            raise ConfigError(f"{out} holds a run with another {changed[0]}; choose another out, or delete it")
    put_replace(path, to_yaml(settings).encode())


def find_videos(settings: ShippedSettings, *, on_stage: OnStage) -> str:
    """The source of a pipeline; without one, a motion set is made, and its listing is returned.

    Args:
        settings: The source, and the motion set; the remains of a killed run are removed first.
        on_stage: Called with (``"clips"``, done, total).
    """
    if settings.source is not None:
        return settings.source
    return make_videos(Path(settings.out) / "videos", settings.motion, on_stage=on_stage)


def make_videos(folder: Path, motion: MotionSettings, *, on_stage: OnStage) -> str:
    """Make a motion set in a folder, from which the remains of a killed run are removed; returns its listing.

    Args:
        folder: The folder.
        motion: Settings of the set.
        on_stage: Called with (``"clips"``, done, total).
    """
    remove_motion_set(folder, motion)
    return str(make_motion_set(folder, motion, progress=lambda done, total: on_stage("clips", done, total)))
