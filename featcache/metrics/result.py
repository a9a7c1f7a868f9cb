"""Results of scoring videos: coverage and metrics of each split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from featcache.metrics.intervals import Metric

T = TypeVar("T")


def share_right(metrics: Mapping[str, T]) -> T | None:
    """The share of videos whose class was found: top-1 accuracy, or R@1 of a retrieval; ``None`` for numbers."""
    return metrics.get("top1", metrics.get("r@1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Share of a split's videos that a number is based on.

    Attributes:
        ok: Number of videos with features.
        failed: Number of videos without features, for any reason; they are counted, never replaced.
        total: Number of videos of the split in the manifest: ok + failed.
        unlabelled: Number of videos with features but no label in the probed column; they cannot be scored.
    """

    ok: int
    failed: int
    total: int
    unlabelled: int = 0

    def __post_init__(self) -> None:
        assert self.ok + self.failed == self.total, f"coverage {self} does not add up"
        assert 0 <= self.unlabelled <= self.ok, f"coverage {self} has more unlabelled than ok videos"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """Metrics of one split.

    Attributes:
        metrics: ``top1``, ``topN`` (N in the name) and ``mean_class``; of a retrieval ``r@1``, ``r@5``, …; for
            regression ``mse``, where lower is better.
        coverage: Coverage of the split's videos.
        num_videos: Number of videos that were scored.
        num_unseen: Number of scored videos whose class no training video has; they count as wrong.
    """

    metrics: Mapping[str, Metric]
    coverage: Coverage
    num_videos: int
    num_unseen: int
