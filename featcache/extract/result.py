"""What an extraction says of itself when it has ended."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from featcache.errors import FeatcacheError, NothingUsableError
from featcache.extract.settings import failures_allowed
from featcache.summary import Summary, failures_table
from featcache.units import duration, readable_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """Result of an extraction, and the state of the store.

    Attributes:
        store: Folder of the store.
        config: The YAML file that repeats the command.
        features: Names of the arrays of this command.
        videos_total: Number of videos of the store.
        videos_ok: Number of videos that have all features of this command.
        videos_pending: Number of videos in shards that another process was still writing.
        videos_failed: Number of the other videos; ``ok + pending + failed = total``.
        failures: (video, status, reason) of each failed video.
        rows_total: Number of rows of the store that have the first feature.
        rows_written: Number of rows that this call encoded.
        bytes_written: Bytes of the shard files that this call committed.
        shards_elsewhere: Number of shards that another process was writing.
        decode_wait_seconds: Time for which the encoder waited for decoded rows.
        encode_seconds: Time spent in forward passes.
        commit_seconds: Time spent writing shards.
        seconds: Wall time of the extraction, including the scan.
        bottleneck: ``decoding`` or ``encoding``.
        max_failed: Videos that may fail before it is an error, as in ``ExtractSettings``.
    """

    store: str
    config: str
    features: tuple[str, ...]
    videos_total: int
    videos_ok: int
    videos_pending: int
    videos_failed: int
    failures: tuple[tuple[str, str, str], ...]
    rows_total: int
    rows_written: int
    bytes_written: int
    shards_elsewhere: int
    decode_wait_seconds: float
    encode_seconds: float
    commit_seconds: float
    seconds: float
    bottleneck: str
    max_failed: int | str | None = None

    @property
    def problem(self) -> FeatcacheError | None:
        """Why an extraction that ran to its end is an error all the same: every video failed, or more than may."""
        if self.videos_failed == self.videos_total:
            video, status, reason = self.failures[0]
            return NothingUsableError(
                f"nothing was extracted: all {self.videos_total} videos of {self.store} failed, e.g. {video!r} "
                f"({status}: {reason}); fix them and run the same command again"
            )
        allowed = failures_allowed(self.max_failed, num_videos=self.videos_total)
        if allowed is not None and self.videos_failed > allowed:
            return FeatcacheError(
                f"{self.videos_failed} of {self.videos_total} videos of {self.store} failed, and max_failed "
                f"{self.max_failed} allows {allowed}; what is extracted stays; repair the others and run the same "
                "command again"
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "error": None if self.problem is None else str(self.problem)}

    def summary(self) -> Summary:
        """What to show of it."""
        pending = f"{self.videos_pending} pending, " if self.videos_pending else ""
        counts = Counter(status for _, status, _ in self.failures)
        kinds = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        waiting = f"{self.shards_elsewhere} shards are being written by another process; run again when it is done"
        return Summary(
            tables=failures_table(self.failures),
            facts={
                "store": self.store,
                "videos": f"{self.videos_ok} ok, {self.videos_failed} failed, {pending}{self.videos_total} in all",
                "rows": f"{self.rows_written} written now",
                "features": ", ".join(self.features),
                "written": readable_bytes(self.bytes_written),
                "time": f"{duration(self.seconds)} (waited {duration(self.decode_wait_seconds)} for decoding, "
                f"{duration(self.encode_seconds)} encoding; bottleneck: {self.bottleneck})",
                "settings": self.config,
            },
            lines=(f"{self.videos_failed} of {self.videos_total} videos failed: {kinds}",) if counts else (),
            warnings=(waiting,) if self.shards_elsewhere else (),
            problem=self.problem,
        )
