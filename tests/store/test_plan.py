"""Plan arithmetic: every row placed once, in order, whatever the lengths."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.store.plan import (
    MAX_BLOCK_BYTES,
    MAX_SHARD_MACS,
    MAX_SHARDS_FOR_WORK,
    Segment,
    block_rows,
    default_shard_rows,
    plan_segments,
)

ROWS = st.lists(st.integers(0, 40), max_size=40)


@given(rows=ROWS, shard_rows=st.integers(1, 16))
def test_every_row_has_one_place_in_order(rows, shard_rows):
    segments, num_shards = plan_segments(rows, shard_rows=shard_rows)
    placed = [
        (segment.video, segment.first_clip + i, segment.shard, segment.first_row + i)
        for segment in segments
        for i in range(segment.num_rows)
    ]
    assert [(video, clip) for video, clip, _, _ in placed] == [(v, c) for v, n in enumerate(rows) for c in range(n)]
    places = [(shard, row) for _, _, shard, row in placed]
    assert places == sorted(set(places))
    assert all(0 <= row < shard_rows for _, row in places)
    assert {shard for shard, _ in places} == set(range(num_shards))


@given(rows=ROWS, shard_rows=st.integers(1, 16))
def test_only_videos_longer_than_a_shard_are_split(rows, shard_rows):
    segments, _ = plan_segments(rows, shard_rows=shard_rows)
    for video, group in itertools.groupby(segments, key=lambda segment: segment.video):
        parts = list(group)
        if rows[video] <= shard_rows:
            assert len(parts) == 1
        else:
            assert [part.num_rows for part in parts[:-1]] == [shard_rows] * (len(parts) - 1)
            assert parts[0].first_row == 0


@given(rows=ROWS, shard_rows=st.integers(1, 16))
def test_no_shard_is_closed_while_the_next_video_fits(rows, shard_rows):
    segments, _ = plan_segments(rows, shard_rows=shard_rows)
    for before, after in itertools.pairwise(segments):
        if after.shard > before.shard:
            assert before.first_row + before.num_rows + rows[after.video] > shard_rows


@given(rows=ROWS, more=ROWS, shard_rows=st.integers(1, 16))
def test_more_videos_never_move_earlier_ones(rows, more, shard_rows):
    few, _ = plan_segments(rows, shard_rows=shard_rows)
    many, _ = plan_segments(rows + more, shard_rows=shard_rows)
    assert many[: len(few)] == few


def test_golden_plan():
    assert plan_segments([3, 0, 2, 9, 1], shard_rows=4) == (
        (
            Segment(video=0, shard=0, first_row=0, first_clip=0, num_rows=3),
            Segment(video=2, shard=1, first_row=0, first_clip=0, num_rows=2),
            Segment(video=3, shard=2, first_row=0, first_clip=0, num_rows=4),
            Segment(video=3, shard=3, first_row=0, first_clip=4, num_rows=4),
            Segment(video=3, shard=4, first_row=0, first_clip=8, num_rows=1),
            Segment(video=4, shard=4, first_row=1, first_clip=0, num_rows=1),
        ),
        5,
    )
    assert plan_segments([], shard_rows=4) == ((), 0)
    assert plan_segments([0, 0], shard_rows=4) == ((), 0)


@given(record=st.integers(1, 10**7), shard_rows=st.integers(1, 5000))
def test_blocks_divide_the_shard_and_stay_small(record, shard_rows):
    rows = block_rows(record, shard_rows, max_bytes=MAX_BLOCK_BYTES)
    assert shard_rows % rows == 0
    assert rows == 1 or rows * record <= MAX_BLOCK_BYTES
    assert not any(
        shard_rows % larger == 0 and larger * record <= MAX_BLOCK_BYTES for larger in range(rows + 1, shard_rows + 1)
    )


@pytest.mark.parametrize(
    ("record_bytes", "typical", "expected"),
    [
        ([1536], 4, 4096),
        ([2 * 16 * 16 * 1024], 4, 128),
        ([1536, 351_232], 8, 128),
        ([2_408_448], 1, 16),
        ([44_032], 300, 1024),
        ([351_232], 300, 512),  # one video of 300 frames asks for more than 64 MB
        ([351_232], 3000, 128),  # but not for a gigabyte
        ([200 << 20], 4, 1),
    ],
)
def test_default_shard_rows(record_bytes, typical, expected):
    assert default_shard_rows(record_bytes, typical) == expected


# Multiply-accumulates of a row: I3D on 64 frames, CLIP ViT-L/14 on one, EfficientNet-Lite0 on 8.
I3D, L14, LITE0 = 111_150_000_000, 81_100_000_000, 3_070_000_000


@pytest.mark.parametrize(
    ("macs", "record_bytes", "typical", "num_rows", "expected"),
    [
        (0, 2048, 4, 10_000, 4096),  # nothing is computed
        (I3D, 2048, 4, 10_000, 64),
        (LITE0, 2560, 4, 10_000, 2048),
        (100 * I3D, 2048, 8, 100, 1),  # a typical video would be more than four times the bound
        (15 * I3D, 2048, 8, 100, 8),  # but this one is not: it is not cut
        (L14, 2048, 300, 30_000, 512),
        (L14, 2048, 3000, 30_000, 64),  # a film is
        (I3D, 2048, 4, 4096 * 64, 64),
        (I3D, 2048, 4, 4096 * 300, 256),  # a kill costs a small share of a large set
        (I3D, 2048, 4, 10**9, 4096),
        (LITE0, 1_204_224, 4, 10_000, 32),  # files that are too large come first
    ],
)
def test_a_shard_is_bounded_by_the_work_of_its_rows(macs, record_bytes, typical, num_rows, expected):
    assert default_shard_rows([record_bytes], typical, macs_per_row=macs, num_rows=num_rows) == expected


@given(
    macs=st.integers(1, 10**14),
    record=st.integers(1, 10**8),
    typical=st.integers(1, 10**4),
    num_rows=st.integers(1, 10**7),
)
def test_the_work_of_a_shard_is_within_its_bounds(macs, record, typical, num_rows):
    rows = default_shard_rows([record], typical, macs_per_row=macs, num_rows=num_rows)
    by_size = default_shard_rows([record], typical)
    assert rows <= by_size or rows >= typical
    share = num_rows / MAX_SHARDS_FOR_WORK
    if rows > max(1, share + 1) and rows * macs > MAX_SHARD_MACS:
        assert typical * macs <= 4 * max(MAX_SHARD_MACS, macs * (share + 1))
        assert rows < 2 * typical


@given(record=st.integers(1, 10**9), typical=st.integers(0, 10**5), max_rows=st.integers(1, 5000))
def test_default_shard_rows_is_a_power_of_two_within_bounds(record, typical, max_rows):
    rows = default_shard_rows([record], typical, max_rows=max_rows)
    assert 1 <= rows <= max_rows
    assert rows & (rows - 1) == 0
    assert rows == 1 or rows * record <= 256 << 20
