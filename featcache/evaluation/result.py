"""The result of a probe: metrics with intervals and coverage, settings, notes, and the scores of each video."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_jsonable_python

from featcache.metrics.intervals import Metric
from featcache.metrics.predictions import Predictions
from featcache.metrics.result import Coverage, SplitResult
from featcache.summary import Summary, SummaryTable, percent


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The outcome of one probe of one feature and one label column.

    Attributes:
        probe: Registry name.
        store: Source of the features.
        feature: Name of the array.
        label: Name of the label column.
        protocol: How training and test videos were separated.
        num_classes: Number of classes of the training videos; 0 for regression.
        train: Coverage of the training videos.
        splits: Results by test split; ``all`` if the store has no splits.
        settings: Complete settings of the probe.
        intervals: Complete settings of the intervals.
        variants: Metrics of other settings from the same run (``k=5``), by variant and split.
        table: Rows about the training, such as the grid of heads.
        predictions: The scores of each video, which are not part of :meth:`to_dict`; ``None`` if the result was read
            from a file.
        device: Device of the computation, ``cpu``, ``cuda`` or ``cuda:N``.
        notes: Sentences that a reader of the numbers should know.
        seconds: Wall time.
    """

    probe: str
    store: str
    feature: str
    label: str
    protocol: str
    num_classes: int
    train: Coverage
    splits: Mapping[str, SplitResult]
    settings: Mapping[str, Any]
    intervals: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Mapping[str, Metric]]]
    table: tuple[Mapping[str, Any], ...]
    predictions: Predictions | None = field(repr=False, compare=False)
    device: str
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        values = {
            each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "predictions"
        }
        plain: dict[str, Any] = json.loads(json.dumps(to_jsonable_python(values), allow_nan=False))
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "ProbeResult":
        """The result of which :meth:`to_dict` made the values."""
        splits = {
            split: SplitResult(
                metrics=_metrics(part["metrics"]),
                coverage=Coverage(**part["coverage"]),
                num_videos=part["num_videos"],
                num_unseen=part["num_unseen"],
            )
            for split, part in plain["splits"].items()
        }
        variants = {
            name: {split: _metrics(metrics) for split, metrics in by_split.items()}
            for name, by_split in plain["variants"].items()
        }
        own = {
            "train": Coverage(**plain["train"]),
            "splits": splits,
            "variants": variants,
            "table": tuple(plain["table"]),
            "notes": tuple(plain["notes"]),
            "predictions": None,
        }
        return cls(**{**plain, **own})

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def summary(self) -> Summary:
        """What to show of it: an interval and the coverage beside each number."""
        rows = tuple(
            (
                split,
                *(_shown(name, metric) for name, metric in numbers.metrics.items()),
                f"{numbers.coverage.ok}/{numbers.coverage.total}",
            )
            for split, numbers in self.splits.items()
        )
        names = next(iter(self.splits.values())).metrics
        kind = f"{self.num_classes} classes" if self.num_classes else "numbers"
        title = f"{self.probe} of {self.feature!r} for {self.label!r}: {kind}, {self.protocol}"
        table = SummaryTable(title=title, columns=("split", *names, "coverage"), rows=rows)
        return Summary(tables=(table,), lines=self.notes)


def _metrics(plain: Mapping[str, Any]) -> dict[str, Metric]:
    return {name: Metric(**values) for name, values in plain.items()}


def _shown(name: str, metric: Metric) -> str:
    """Accuracies in per cent, errors as they are, with the interval."""
    if name == "mse":
        return f"{metric.value:.4f} [{metric.low:.4f}, {metric.high:.4f}]"
    return percent(metric.value, metric.low, metric.high)
