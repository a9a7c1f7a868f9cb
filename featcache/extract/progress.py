"""Figures of a running extraction, for whoever draws them."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Progress:
    """Counters that the engine advances; read-only for everyone else.

    Attributes:
        num_videos: Videos with rows still to be computed when the run began.
        num_rows: Rows still to be computed when the run began.
        videos_done: Videos whose rows are all encoded, or that failed.
        rows_done: Rows encoded.
        frames_done: Frames encoded (rows x frames a row).
        rows_failed: Rows of videos that failed.
        failed: Videos that failed, by status.
        bytes_written: Bytes of committed shard files.
        shards_done: Shards committed.
        num_shards: Shards to commit.
        decode_wait_seconds: Time the encoder waited for decoded rows.
        encode_seconds: Time spent in forwards.
        commit_seconds: Time spent writing shards.
        elapsed_seconds: Time since the run began.
    """

    num_videos: int = 0
    num_rows: int = 0
    videos_done: int = 0
    rows_done: int = 0
    frames_done: int = 0
    rows_failed: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    bytes_written: int = 0
    shards_done: int = 0
    num_shards: int = 0
    decode_wait_seconds: float = 0.0
    encode_seconds: float = 0.0
    commit_seconds: float = 0.0
    elapsed_seconds: float = 0.0

    @property
    def bottleneck(self) -> str:
        """``decoding`` or ``encoding``: whichever the other waits for."""
        return "decoding" if self.decode_wait_seconds > 0.1 * max(self.encode_seconds, 1e-9) else "encoding"


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Draw nothing."""
