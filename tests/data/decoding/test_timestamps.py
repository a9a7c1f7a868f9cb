import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.data.decoding.timestamps import duration_seconds, presentation_seconds

STEPS = st.sampled_from([1 / 24, 1 / 25, 1001 / 30000, 0.5])


@given(gaps=st.lists(st.floats(0.001, 10), max_size=50), start=st.floats(-5, 1000), step=STEPS)
def test_increasing_timestamps_are_kept(gaps, start, step):
    times = [start, *(start + np.cumsum(gaps))]
    np.testing.assert_array_equal(presentation_seconds(times, step_seconds=step), np.array(times, np.float64))


@given(order=st.permutations(range(20)), step=STEPS)
def test_packet_numbers_in_decoding_order_become_equal_spacing(order, step):
    times = presentation_seconds([number * step for number in order], step_seconds=step)
    np.testing.assert_allclose(times, np.arange(20) * step, atol=1e-9)


@given(
    times=st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=30),
    step=STEPS,
)
def test_whatever_comes_in_increases_strictly_when_it_goes_out(times, step):
    out = presentation_seconds(times, step_seconds=step)
    assert len(out) == len(times)
    assert out.dtype == np.float64
    assert (np.diff(out) > 0).all()
    known = [time for time in times if time is not None]
    assert out[0] == (min(known) if known else 0.0)


def test_a_packed_bitstream_skips_a_number_but_no_time():
    # What a packed HMDB51 file gives: number 2 belongs to a stub, and pairs arrive swapped.
    numbers = [1, 3, 4, 5, 7, 6, 9, 8, 10]
    np.testing.assert_allclose(
        presentation_seconds([number / 30 for number in numbers], step_seconds=1 / 30), (1 + np.arange(9)) / 30
    )


def test_real_gaps_survive_reordering():
    numbers = [0, 2, 1, 50, 52, 51]
    np.testing.assert_allclose(
        presentation_seconds([number / 30 for number in numbers], step_seconds=1 / 30), np.sort(numbers) / 30
    )


def test_repeated_timestamps_become_equal_spacing():
    np.testing.assert_allclose(presentation_seconds([2.0, 2.0, 2.0], step_seconds=0.1), [2.0, 2.1, 2.2])


@given(num_frames=st.integers(1, 500), step=STEPS, start=st.floats(-10, 10))
def test_constant_rate_lasts_frames_over_rate(num_frames, step, start):
    times = start + np.arange(num_frames) * step
    assert duration_seconds(times, step_seconds=step) == pytest.approx(num_frames * step, rel=1e-6)


def test_the_last_frame_lasts_the_median():
    assert duration_seconds(np.array([0.0, 1.0, 2.0, 10.0]), step_seconds=99.0) == pytest.approx(11.0)
    assert duration_seconds(np.array([3.0]), step_seconds=0.04) == pytest.approx(0.04)
