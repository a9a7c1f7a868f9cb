"""The arithmetic of plans: assigns rows of videos to shards. Pure functions, independent of time and worker count."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SHARD_BYTES = 64 << 20
MAX_SHARD_ROWS = 4096
MAX_BLOCK_BYTES = 64 << 10
"""Of a block with more than one row: what is read for one row until the block has been checked."""
MAX_SHARD_MACS = 7_200_000_000_000
"""Multiply-accumulates: two minutes on a laptop that does 60 G per second in float32, seconds on a GPU."""
MAX_SHARDS_FOR_WORK = 4096
_STRETCH = 4  # if one typical video needs it

# Upper limits for plans, from settings or from a document.
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
        num_rows: Number of rows.
    """

    video: int
    shard: int
    first_row: int
    first_clip: int
    num_rows: int


def plan_segments(rows_per_video: Sequence[int], *, shard_rows: int) -> tuple[tuple[Segment, ...], int]:
    """Pack videos into shards in order.

    A video is never split unless it is longer than a shard; then it starts a new shard and is cut into windows of
    ``shard_rows``, and the rest of its last shard takes further videos.

    Args:
        rows_per_video: Number of rows of each video; 0 for a video that cannot be used (it gets no segment).
        shard_rows: Largest number of rows per shard.

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
    record_bytes: Sequence[int],
    typical_rows_per_video: int,
    *,
    max_rows: int = MAX_SHARD_ROWS,
    macs_per_row: int = 0,
    num_rows: int = 0,
) -> int:
    """Largest number of rows per shard: a power of two.

    Files of the largest feature stay at or below 64 MB, and the work of a shard, which a kill would lose, at or below
    :data:`MAX_SHARD_MACS`; both limits are four times higher if one typical video needs that. The limit on work is
    raised if it would give more than :data:`MAX_SHARDS_FOR_WORK` shards, since with more rows in total the work that a
    kill loses is a smaller share.

    Args:
        record_bytes: Bytes per row of each feature.
        typical_rows_per_video: Number of rows of a typical video, e.g. the median over the manifest.
        max_rows: Upper bound of the result.
        macs_per_row: Multiply-accumulates per row, all backbones together; 0 if nothing is computed.
        num_rows: Total number of rows to compute.
    """
    largest = max(record_bytes)
    two_minutes = MAX_SHARD_MACS // macs_per_row if macs_per_row else max_rows
    work_rows = max(1, two_minutes, -(-num_rows // MAX_SHARDS_FOR_WORK))
    rows = _floor_power_of_two(min(max_rows, work_rows, max(1, MAX_SHARD_BYTES // largest)))
    whole_video = _floor_power_of_two(max(1, 2 * typical_rows_per_video - 1))  # the power of two at or above
    fits = whole_video * largest <= _STRETCH * MAX_SHARD_BYTES and typical_rows_per_video <= _STRETCH * work_rows
    return whole_video if rows < whole_video <= max_rows and fits else rows


def _floor_power_of_two(value: int) -> int:
    return 1 << (value.bit_length() - 1)


def block_rows(record_bytes: int, shard_rows: int, *, max_bytes: int) -> int:
    """Rows per block: the largest divisor of ``shard_rows`` whose block fits into ``max_bytes``, but at least one."""
    limit = max(1, max_bytes // record_bytes)
    divisors = {d for i in range(1, math.isqrt(shard_rows) + 1) if shard_rows % i == 0 for d in (i, shard_rows // i)}
    return max(d for d in divisors if d <= limit)
