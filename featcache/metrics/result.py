"""Results of scoring videos: what became of them, and their figures."""

from collections.abc import Mapping
from dataclasses import dataclass

from featcache.metrics.intervals import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of a split a number speaks for.

    Attributes:
        ok: Videos with features.
        failed: Videos without, whatever the reason; they are counted, never replaced.
        total: Videos of the split in the manifest: ok + failed.
        unlabelled: Videos with features but no label in the probed column; they cannot be scored.
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
    """Numbers of one split.

    Attributes:
        metrics: ``top1``, ``topN`` (N in the name) and ``mean_class``; for numbers ``mse``, lower being better.
        coverage: Of the split's videos.
        num_videos: Videos that were scored.
        num_unseen: Of these, videos whose class no training video has; counted as wrong.
    """

    metrics: Mapping[str, Metric]
    coverage: Coverage
    num_videos: int
    num_unseen: int
