"""Progress counters of a running extraction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Progress:
    """Counters that the engine advances; read-only for everyone else.

    Attributes:
        num_videos: Number of videos with rows still to be computed when the run began.
        num_rows: Number of rows still to be computed when the run began.
        videos_done: Number of videos whose rows are all encoded, or that failed.
        rows_done: Number of encoded rows.
        frames_done: Number of encoded frames (rows x frames per row).
        rows_failed: Number of rows of failed videos.
        failed: Number of failed videos, by status.
        bytes_written: Bytes of committed shard files.
        shards_done: Number of committed shards.
        num_shards: Number of shards to commit.
        decode_wait_seconds: Time for which the encoder waited for decoded rows.
        encode_seconds: Time spent in forward passes.
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
        """``decoding`` or ``encoding``, whichever is slower."""
        return "decoding" if self.decode_wait_seconds > 0.1 * max(self.encode_seconds, 1e-9) else "encoding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What one process has committed of a task; all zero if the shard was committed already. Picklable.

    Attributes:
        num_videos: Number of segments.
        num_rows: Number of rows that are present.
        num_frames: Number of frames of those rows.
        num_bytes: Bytes of the shard files.
        rows_failed: Number of rows of failed videos.
        failed: Number of failed videos, by status.
    """

    num_videos: int = 0
    num_rows: int = 0
    num_frames: int = 0
    num_bytes: int = 0
    rows_failed: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Ignore the progress."""
