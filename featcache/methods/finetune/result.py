"""What a fine-tuning gives: weights, classifiers, and accuracies over the views of test videos."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.metrics.result import SplitResult
from featcache.summary import Summary, SummaryTable, counted, percent
from featcache.training.seeds import result_dict
from featcache.training.skips import Replaced
from featcache.units import duration


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """A fine-tuned backbone and its test results.

    Attributes:
        folder: The run's folder.
        backbone: Registry name of the backbone for extraction with ``weights``.
        label: Label column.
        num_classes: Number of classes of the training videos.
        classes: Class names in the order of the head's outputs; those that occur only in test videos come last.
        num_train: Number of training videos.
        num_left_out: Number of videos of all splits that cannot be used, with test videos that did not decode.
        num_views: Number of views of a test video.
        num_parameters: Number of parameters of the backbone.
        num_trained: Number of trained parameters, including the head.
        splits: Results by test split, over videos and seeds.
        weights: The backbone's file of each seed; empty if it was frozen.
        models: The whole classifier's file of each seed, for ``classify`` and as weights of the backbone.
        replaced: How many training videos could not be decoded, and how often another one took the place of one.
        seeds: The last line of each seed's log.
        seconds: Wall time.
        next_command: A command that extracts with the first seed's weights, or classifies if the backbone was frozen.
    """

    folder: str
    backbone: str
    label: str
    num_classes: int
    classes: tuple[str, ...]
    num_train: int
    num_left_out: int
    num_views: int
    num_parameters: int
    num_trained: int
    splits: Mapping[str, SplitResult]
    weights: Mapping[int, str]
    models: Mapping[int, str]
    replaced: Replaced
    seeds: Mapping[int, Mapping[str, float]]
    seconds: float
    next_command: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return result_dict(self)

    def summary(self) -> Summary:
        """Accuracies by split."""
        rows = tuple(
            (
                split,
                *(percent(each.value, each.low, each.high) for each in part.metrics.values()),
                f"{part.num_videos}/{part.coverage.total}",
            )
            for split, part in self.splits.items()
        )
        names = next(iter(self.splits.values())).metrics
        title = f"{self.label!r}: {self.num_classes} classes, {self.num_views} views, {len(self.seeds)} seeds"
        facts = {
            "backbone": f"{self.backbone}, {self.num_parameters:,} parameters",
            "trained": f"{self.num_trained:,} parameters, head included, on {counted(self.num_train, 'video')}",
            "took": duration(self.seconds),
            "run": self.folder,
        }
        for split, part in self.splits.items():
            if part.num_unseen:
                unseen = f"{counted(part.num_unseen, 'video')} of classes that were not taught, counted as wrong"
                facts[f"unseen in {split}"] = unseen
        if self.num_left_out:
            facts["left out"] = f"{counted(self.num_left_out, 'video')} that cannot be used"
        facts |= self.replaced.facts()
        table = SummaryTable(title=title, columns=("split", *names, "scored"), rows=rows)
        return Summary(tables=(table,), facts=facts, next_command=self.next_command)
