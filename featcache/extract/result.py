"""What an extraction says of itself when it has ended."""

from dataclasses import asdict, dataclass
from typing import Any


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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)
