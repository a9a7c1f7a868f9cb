"""The plan's arithmetic: which rows of which video go to which shard. Pure functions: no clock, no worker count."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SHARD_BYTES = 64 << 20
MAX_SHARD_ROWS = 4096
MAX_BLOCK_BYTES = 512 << 10
_MAX_STRETCHED_BYTES = 4 * MAX_SHARD_BYTES

# What a plan may ask for at all, by settings or by its document.
MAX_PLANNED_ROWS = 1 << 24
MAX_ENCODE_BATCH = 1 << 20
MAX_THREADS = 1 << 12


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of one video in one shard.

    Attributes:
        video: Index in the generation's list of videos.
        shard: Shard number.
        first_row: First row within the shard.
        first_clip: Ordinal of that row within its video.
        num_rows: Rows.
    """

    video: int
    shard: int
    first_row: int
    first_clip: int
    num_rows: int


def plan_segments(rows_per_video: Sequence[int], *, shard_rows: int) -> tuple[tuple[Segment, ...], int]:
    """Pack videos into shards in order.

    A video is never split unless it is longer than a shard; then it starts a shard and is cut into windows of
    ``shard_rows``, and the rest of its last shard takes further videos.

    Args:
        rows_per_video: Rows that each video gets; 0 for one that cannot be used (it gets no segment).
        shard_rows: Row capacity of a shard.

    Returns:
        Segments ordered by shard and first row, and the number of shards.
    """
    assert shard_rows >= 1, f"shard_rows is {shard_rows}, a shard holds at least one row"
    segments: list[Segment] = []
    shard, used = 0, 0
    for video, num_rows in enumerate(rows_per_video):
        assert num_rows >= 0, f"video {video} has {num_rows} rows"
        if num_rows > shard_rows - used and used:
            shard, used = shard + 1, 0
        clip = 0
        while clip < num_rows:
            if used == shard_rows:
                shard, used = shard + 1, 0
            taken = min(num_rows - clip, shard_rows - used)
            segments.append(Segment(video=video, shard=shard, first_row=used, first_clip=clip, num_rows=taken))
            clip, used = clip + taken, used + taken
    return tuple(segments), shard + 1 if segments else 0


def default_shard_rows(
    record_bytes: Sequence[int], typical_rows_per_video: int, *, max_rows: int = MAX_SHARD_ROWS
) -> int:
    """Row capacity of a shard: a power of two.

    Files of the largest feature stay at or below 64 MB, or four times that where one typical video needs it.

    Args:
        record_bytes: Bytes a row of each feature.
        typical_rows_per_video: E.g. the median over the manifest.
        max_rows: Upper bound; lower it to lose less work when a run is killed.
    """
    largest = max(record_bytes)
    rows = _floor_power_of_two(min(max_rows, max(1, MAX_SHARD_BYTES // largest)))
    whole_video = _floor_power_of_two(max(1, 2 * typical_rows_per_video - 1))  # the power of two at or above
    if rows < whole_video <= max_rows and whole_video * largest <= _MAX_STRETCHED_BYTES:
        return whole_video
    return rows


def _floor_power_of_two(value: int) -> int:
    return 1 << (value.bit_length() - 1)


def block_rows(record_bytes: int, shard_rows: int) -> int:
    """Rows an inner block: the largest divisor of ``shard_rows`` whose block is at most 512 KB, at least one row."""
    limit = max(1, MAX_BLOCK_BYTES // record_bytes)
    divisors = {d for i in range(1, math.isqrt(shard_rows) + 1) if shard_rows % i == 0 for d in (i, shard_rows // i)}
    return max(d for d in divisors if d <= limit)
