"""Clips of AdViSe against the published rules written out, and their bounds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featcache.data.sampling import playback_rate_indices
from featcache.loaders.clip_positions import playback_clip, pretext_start, spread_clip, view_starts

lengths = st.integers(1, 400)


@given(
    length=lengths,
    start=st.integers(0, 399),
    rate=st.sampled_from([1, 2, 4, 8]),
    jitter=st.floats(0.8, 1.2),
    num_frames=st.integers(2, 16),
    stride=st.integers(1, 4),
)
def test_a_clip_is_the_published_stamps(length, start, rate, jitter, num_frames, stride):
    end = start + num_frames * stride * rate * jitter
    stamps = np.linspace(start, end, num_frames, endpoint=False)
    ours = playback_clip(length, start=start, rate=rate, jitter=jitter, num_frames=num_frames, base_stride=stride)
    published = np.floor(stamps).astype(int) % length
    # Of two ways to compute a stamp that is a whole number, one may round below it.
    whole = np.abs(stamps - np.round(stamps)) < 1e-6
    assert np.array_equal(ours[~whole], published[~whole])
    assert np.array_equal(ours[whole], np.round(stamps).astype(int)[whole] % length)


@given(length=lengths, start=st.integers(0, 399), rate=st.sampled_from([1, 2, 4, 8]))
def test_without_jitter_it_is_a_gather_at_a_playback_rate(length, start, rate):
    ours = playback_clip(length, start=start, rate=rate, jitter=1.0, num_frames=8, base_stride=2)
    assert np.array_equal(ours, playback_rate_indices(length, start=start, num_frames=8, base_stride=2, rate=rate))


@given(length=lengths, bank_stride=st.integers(1, 4), start=st.integers(0, 399), jitter=st.floats(0.8, 1.2))
def test_positions_lie_in_the_bank(length, bank_stride, start, jitter):
    positions = playback_clip(
        length, start=start, rate=8, jitter=jitter, num_frames=8, base_stride=2, bank_stride=bank_stride
    )
    assert positions.min() >= 0
    assert positions.max() < -(-length // bank_stride)


@given(length=lengths, draw=st.floats(0, 1, exclude_max=True))
def test_a_start_leaves_room_for_the_normal_rate(length, draw):
    start = pretext_start(length, num_frames=8, base_stride=2, draw=draw)
    assert 0 <= start <= max(0, length - 16)


def test_starts_are_uniform():
    starts = [pretext_start(20, num_frames=8, base_stride=2, draw=draw) for draw in np.linspace(0, 1, 500, False)]
    assert np.bincount(starts).tolist() == [100] * 5


@given(
    length=lengths,
    first=st.floats(0, 1, exclude_max=True),
    last=st.floats(0, 1, exclude_max=True),
    num_frames=st.integers(1, 16),
)
def test_a_spread_clip_runs_through_the_video(length, first, last, num_frames):
    clip = spread_clip(length, num_frames=num_frames, first_draw=first, last_draw=last)
    interval = max(1, length // num_frames)
    assert clip.min() >= 0
    assert clip.max() < length
    if length >= 2 * num_frames and num_frames > 1:
        assert (np.diff(clip) >= 0).all()
        assert clip[0] <= interval
        assert clip[-1] >= length - interval - 1


@given(length=lengths, num_clips=st.integers(1, 12), stride=st.integers(1, 8))
def test_views_are_spread_from_end_to_end(length, num_clips, stride):
    starts = view_starts(length, num_clips=num_clips, num_frames=8, stride=stride)
    last = max(0, length - 8 * stride - 1)
    assert len(starts) == num_clips
    assert starts.min() >= 0
    assert starts.max() <= last
    if num_clips > 1:
        assert starts[0] == 0
        assert starts[-1] == last
        assert np.ptp(np.diff(starts)) <= 1
