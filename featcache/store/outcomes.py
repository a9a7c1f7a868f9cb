"""What became of the videos of a feature: how many have rows, and why the others have none."""

from collections.abc import Mapping
from dataclasses import dataclass

from featcache.data.types import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A video without rows in a feature.

    Attributes:
        id: Id of the video.
        status: Status of the video.
        reason: The reason, in one sentence.
    """

    id: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOutcomes:
    """Numbers of videos by outcome: ``ok + failed + pending = total``; pending is 0 after a complete extraction.

    Attributes:
        ok: Number of videos with all their rows.
        failed: Number of videos without rows, for a known reason.
        pending: Number of videos that are planned but not extracted yet.
        total: Number of videos of the manifest.
        by_status: Number of videos of each status, including zeros.
        failures: The ledger, in manifest order.
    """

    ok: int
    failed: int
    pending: int
    total: int
    by_status: Mapping[str, int]
    failures: tuple[Failure, ...]

    @property
    def is_complete(self) -> bool:
        """Whether no video is pending."""
        return self.pending == 0
