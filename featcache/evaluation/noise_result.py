"""Accuracy of fine-tuned models under noise, as a result."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from featcache.metrics.intervals import Metric
from featcache.metrics.result import Coverage
from featcache.metrics.robustness import Robustness
from featcache.noise import Kind, Place, Table
from featcache.summary import Summary, SummaryTable, percent
from featcache.units import duration


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyCell:
    """One kind of noise at one severity.

    Attributes:
        kind: Kind of noise.
        severity: Severity.
        amount: The constant of the severity.
        metrics: Accuracies with this noise.
        robustness: Against the accuracy without noise, on the same videos.
    """

    kind: Kind
    severity: int
    amount: float
    metrics: Mapping[str, Metric]
    robustness: Robustness


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyMean:
    """The mean over several cells.

    Attributes:
        top1: Mean accuracy.
        robustness: Mean robustness.
    """

    top1: Metric
    robustness: Robustness


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisySplit:
    """A split of a run with and without noise.

    Attributes:
        clean: Accuracies without noise.
        noisy: Each kind and severity, by name, e.g. ``gaussian-3``.
        by_severity: Mean over the kinds at each severity.
        mean: Mean over all kinds and severities.
        coverage: Coverage of the split's videos.
        num_videos: Number of videos that were scored.
        num_groups: Number of their groups, over which intervals are drawn; ``None``: over videos.
    """

    clean: Mapping[str, Metric]
    noisy: Mapping[str, NoisyCell]
    by_severity: Mapping[str, NoisyMean]
    mean: NoisyMean
    coverage: Coverage
    num_videos: int
    num_groups: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyRun:
    """A run under noise.

    Attributes:
        run: Its folder.
        backbone: Its backbone.
        seeds: Its seeds.
        splits: Results by test split.
    """

    run: str
    backbone: str
    seeds: tuple[int, ...]
    splits: Mapping[str, NoisySplit]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseResult:
    """Runs under noise.

    Attributes:
        folder: Folder of the results; predictions of a cell are in ``<name of the run>/<name of the cell>``.
        place: Where noise is put: on the frame, or on the crop.
        table: Table of the constants.
        runs: Runs by the names of their folders.
        picture: The plot.
        seconds: Wall time.
    """

    folder: str
    place: Place
    table: Table
    runs: Mapping[str, NoisyRun]
    picture: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; accuracies, robustness and drops are shares."""
        return dataclasses.asdict(self)

    def summary(self) -> Summary:
        """One table per run and split: clean, each kind and severity, and the means."""
        tables = []
        facts: dict[str, object] = {}
        lines = []
        for name, run in self.runs.items():
            for split, part in run.splits.items():
                title = f"{name}, {split}: noise on the {self.place}, table {self.table}, {part.num_videos} videos"
                columns = ("noise", "severity", "top1", "lost %", "gamma_r", "gamma_a")
                tables.append(SummaryTable(title=title, columns=columns, rows=tuple(_rows(part)), num_text=2))
                facts[f"scored of {name}, {split}"] = f"{part.num_videos} of {part.coverage.total} videos"
                if part.num_groups is not None:
                    lines.append(f"intervals of {name}, {split} are over {part.num_groups} groups, not over videos")
        facts |= {"took": duration(self.seconds), "plot": self.picture, "results": self.folder}
        first, run = next(iter(self.runs.items()))
        cell = next(iter(next(iter(run.splits.values())).noisy))
        compared = " ".join(f"{self.folder}/{first}/{each}" for each in ("clean", cell))
        return Summary(
            tables=tuple(tables), facts=facts, lines=tuple(lines), next_command=f"featcache compare {compared}"
        )


def _rows(part: NoisySplit) -> Iterator[tuple[object, ...]]:
    yield ("clean", "", _share(part.clean["top1"]), "", "", "")
    for cell in part.noisy.values():
        yield (cell.kind, str(cell.severity), _share(cell.metrics["top1"]), *_shown(cell.robustness))
    if len({cell.kind for cell in part.noisy.values()}) > 1:
        for severity, mean in part.by_severity.items():
            yield ("mean of kinds", severity, _share(mean.top1), *_shown(mean.robustness))
    if len(part.by_severity) > 1:
        yield ("mean", "all", _share(part.mean.top1), *_shown(part.mean.robustness))


def _shown(robustness: Robustness) -> tuple[str, str, str]:
    relative, absolute = (
        "-" if each is None else f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]"
        for each in (robustness.relative, robustness.absolute)
    )
    return ("-" if robustness.drop is None else _share(robustness.drop), relative, absolute)


def _share(metric: Metric) -> str:
    return percent(metric.value, metric.low, metric.high)
