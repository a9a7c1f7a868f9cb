"""``reproduce``: tables of a paper in one command, from the videos to our numbers beside the printed ones.

A table is a shipped sweep. What it reads and no step of its own makes (stores, pre-trained networks) is made first by
the shipped file that writes there: one extraction per store, with the arrays of all its backbones that are needed.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from featcache.commands.registry import command_of
from featcache.commands.reproduction import Reproduction, needed
from featcache.commands.run import Watching, carry_out, unwatched
from featcache.config import Settings, to_dict
from featcache.errors import ConfigError, FeatcacheError, ManifestError, WeightsError
from featcache.machine import using_weights_folder, weights_folder
from featcache.stages import OnStage, ignore
from featcache.summary import Result, Summary, SummaryTable
from featcache.units import duration, readable_bytes

if TYPE_CHECKING:
    from featcache.extract.settings import ExtractSettings

Unusable = dict[tuple[str, str], FeatcacheError]
"""The error of each backbone with its weights that cannot be built."""


class ReproduceSettings(Settings):
    """Settings of ``featcache reproduce``: tables of a paper, from the videos to the table."""

    command: Literal["reproduce"] = "reproduce"
    """The command this file repeats."""
    paper: str
    """The paper: ``advise``, ``scale``, ``svt`` or ``pretext``."""
    tables: tuple[str, ...] = Field(min_length=1)
    """Tables and figures, e.g. ``table5``, or ``all``."""
    roots: dict[str, str] = Field(default_factory=dict)
    """Folder with the videos and lists of each data set, e.g. ``{hmdb51: /data/hmdb51}``."""
    weights: dict[str, str] = Field(default_factory=dict)
    """File of weights of each backbone whose file is not where featcache looks by itself."""
    weights_folder: str | None = None
    """Folder with the published files of weights under their own names; null: ``$FEATCACHE_WEIGHTS``."""
    changes: tuple[str, ...] = ()
    """Settings of the tables, as ``KEY=VALUE``, e.g. ``steps.0.training.epochs=5``: not what the paper did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedExtraction:
    """What one extraction takes.

    Attributes:
        out: The store.
        dataset: The data set.
        features: Names of the arrays.
        num_videos: Number of videos still to be encoded; ``None`` if the videos are not at hand.
        num_bytes: Size of what is still to be written; ``None`` likewise.
        seconds: Predicted time; ``None`` likewise, NaN if no video could be decoded.
    """

    out: str
    dataset: str
    features: tuple[str, ...]
    num_videos: int | None = None
    num_bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproductionPlan:
    """What it takes to reproduce tables, and what is missing.

    Attributes:
        paper: The paper.
        tables: ``(title, rows, trainings, probes and other steps)`` of each table; what rows share is counted once.
        extractions: The extractions, in order.
        missing: What is not at hand, a sentence each.
    """

    paper: str
    tables: tuple[tuple[str, int, int, int], ...]
    extractions: tuple[PlannedExtraction, ...]
    missing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        names = ("title", "num_rows", "num_trainings", "num_other_steps")
        return {
            "paper": self.paper,
            "tables": [dict(zip(names, table, strict=True)) for table in self.tables],
            "extractions": [dataclasses.asdict(one) for one in self.extractions],
            "missing": list(self.missing),
        }

    def summary(self) -> Summary:
        """The summary to print."""
        known = [one for one in self.extractions if one.num_bytes is not None]
        facts: dict[str, object] = {}
        if known:
            seconds = sum(one.seconds or 0.0 for one in known)
            facts["disk"] = readable_bytes(sum(one.num_bytes or 0 for one in known))
            facts["extraction"] = f"about {duration(seconds)} on this machine"
        lines = [f"missing: {sentence}" for sentence in self.missing]
        lines.append("nothing is missing" if not self.missing else f"{len(self.missing)} things are missing")
        return Summary(
            tables=(
                SummaryTable(title="tables", columns=("title", "rows", "trainings", "other steps"), rows=self.tables),
                SummaryTable(
                    title="extractions",
                    columns=("store", "data set", "arrays", "videos", "size", "time"),
                    rows=tuple(_cells(one) for one in self.extractions),
                    num_text=3,
                ),
            ),
            facts=facts,
            lines=tuple(lines),
        )


def _cells(one: PlannedExtraction) -> tuple[object, ...]:
    if one.num_videos is None or one.num_bytes is None or one.seconds is None:
        figures: tuple[object, ...] = ("-", "-", "-")
    else:
        figures = (one.num_videos, readable_bytes(one.num_bytes), duration(one.seconds))
    return (one.out, one.dataset, " ".join(one.features), *figures)


def reproduce(settings: ReproduceSettings, *, watching: Watching = unwatched) -> Iterator[str | Result]:
    """Extract what the tables need, train what they share, carry out every row, and write the tables.

    Each step goes on where a former call has stopped.

    Args:
        settings: Paper, tables, and where videos and weights are.
        watching: As in :func:`featcache.commands.run.carry_out`.

    Yields:
        A heading before each step, the result of each step, and the tables.

    Raises:
        ConfigError: Videos, lists or weights are missing; names the first, and how many.
    """
    with _weights_of(settings):
        wanted = _needed(settings)
        with watching() as on_stage:
            missing = _missing(wanted, _unusable(wanted, on_stage))
        if missing:
            others = f" (and {len(missing) - 1} more, which --dry-run lists)" if len(missing) > 1 else ""
            raise ConfigError(f"{missing[0]}{others}")
        for step in wanted.before:
            yield f"{command_of(step)} into {getattr(step, 'out', '')}"
            yield from carry_out(step, watching=watching)
        for sweep in wanted.sweeps:
            yield from carry_out(sweep, watching=watching)


def plan(settings: ReproduceSettings, *, on_stage: OnStage = ignore) -> ReproductionPlan:
    """Say what reproducing takes and what is missing; nothing is written, and nothing is downloaded.

    Time and size of an extraction are those of ``featcache plan``. Where weights are missing, random ones take their
    place in it, since neither depends on the values.

    Args:
        settings: Paper, tables, and where videos and weights are.
        on_stage: Progress.
    """
    from featcache.backbones.weights import without_downloads

    with _weights_of(settings), without_downloads():
        wanted = _needed(settings)
        unusable = _unusable(wanted, on_stage)
        extractions = tuple(_estimated(one, wanted, unusable, on_stage) for one in wanted.extractions)
        return ReproductionPlan(
            paper=settings.paper,
            tables=wanted.counts,
            extractions=extractions,
            missing=tuple(_missing(wanted, unusable)),
        )


def _needed(settings: ReproduceSettings) -> Reproduction:
    wanted = needed(
        settings.paper, settings.tables, roots=settings.roots, weights=settings.weights, changes=settings.changes
    )
    return dataclasses.replace(wanted, before=tuple(_begun(step) for step in wanted.before))


def _begun(step: Settings) -> Settings:
    """A training with its initial weights out of the folder of weights, unless they are where it says."""
    init = getattr(step, "init", None)
    if not isinstance(init, Settings) or (given := getattr(init, "weights", None)) is None:
        return step
    found = weights_folder() / given
    if Path(given).is_file() or not found.is_file():
        return step
    return step.model_copy(update={"init": init.model_copy(update={"weights": str(found)})})


def _weights_of(settings: ReproduceSettings) -> AbstractContextManager[None]:
    if settings.weights_folder is None:
        return nullcontext()
    return using_weights_folder(Path(settings.weights_folder))


def _missing_videos(wanted: Reproduction) -> list[str]:
    """A sentence for each data set whose videos or lists are not at hand."""
    from featcache.data.importers import DATASETS, read_listing

    missing = []
    for dataset, root in wanted.datasets:
        if not Path(root).is_dir():
            layout = DATASETS.load(dataset).layout
            missing.append(f"the videos of {dataset} are not in {root!r}; give --root {dataset}=DIR ({layout})")
            continue
        try:
            read_listing(dataset, root=Path(root))
        except ManifestError as error:
            missing.append(str(error))
    return missing


def _missing(wanted: Reproduction, unusable: Unusable) -> list[str]:
    """A sentence for everything that is not at hand."""
    beginnings = [
        f"{init['weights']!r}, with which a training begins, is no file; put it into {weights_folder()}"
        for step in wanted.before
        if isinstance(init := to_dict(step).get("init"), dict)
        and init.get("weights") is not None
        and not Path(init["weights"]).is_file()
    ]
    teachers = [
        f"there is no {file!r}, which a teacher is; docs/distillation.md says what it holds"
        for file in wanted.teacher_files
        if not Path(file).expanduser().is_file()
    ]
    return [*wanted.unmade, *_missing_videos(wanted), *teachers, *beginnings, *map(str, unusable.values())]


def _unusable(wanted: Reproduction, on_stage: OnStage) -> Unusable:
    """Why each backbone that cannot be built with its weights cannot."""
    from featcache.backbones import build_backbone

    found: Unusable = {}
    for number, (backbone, weights) in enumerate(wanted.backbones):
        on_stage("weights", number, len(wanted.backbones), backbone)
        try:
            build_backbone(backbone, weights=weights)
        except (WeightsError, ConfigError) as error:
            found[backbone, weights] = error
    on_stage("weights", len(wanted.backbones), len(wanted.backbones))
    return found


def _estimated(
    settings: "ExtractSettings", wanted: Reproduction, unusable: Unusable, on_stage: OnStage
) -> PlannedExtraction:
    """What an extraction takes, with random weights in place of those that are missing or still to be trained."""
    from featcache.commands.extract import plan as plan_extraction

    bare = PlannedExtraction(
        out=settings.out,
        dataset=settings.dataset or str(settings.source),
        features=tuple(feature.name or feature.backbone for feature in settings.features),
    )
    features = []
    for feature in settings.features:
        pair = (feature.backbone, feature.weights)
        if isinstance(unusable.get(pair), ConfigError):  # e.g. its library is not installed; told with what is missing
            return bare
        is_there = pair in wanted.backbones and pair not in unusable
        features.append(feature if is_there else feature.model_copy(update={"weights": "random"}))
    try:
        estimate = plan_extraction(settings.model_copy(update={"features": tuple(features)}), on_stage=on_stage)
    except ManifestError:  # told with what is missing
        return bare
    return dataclasses.replace(
        bare,
        num_videos=estimate.videos_to_do,
        num_bytes=estimate.num_bytes,
        seconds=estimate.seconds,
    )
