"""Display matrices, and how long a frame lasts of which nothing says so."""

import math
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.packet import Packet

from featcache.data.decoding import open_video
from featcache.data.decoding.timestamps import presentation_seconds, stated_step_seconds
from featcache.testing.videos import VideoPacket, sequential_frames, write_video

H264 = {"preset": "veryfast", "g": "4"}


def write_turned(path: Path, matrix: tuple[float, float, float, float]) -> None:
    """A small video whose track has the matrix (a, b, c, d)."""
    write_video(path, num_frames=4, options=H264)
    data = bytearray(path.read_bytes())
    a, b, c, d = (round(value * 65536) for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def turn(degrees: float) -> tuple[float, float, float, float]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cosine, sine, -sine, cosine


MATRICES = {
    "none": (turn(0), 0),
    "quarter": (turn(90), 1),
    "half": (turn(180), 2),
    "three_quarters": (turn(270), 3),
    "a_little": (turn(1), 0),
    "halfway_to_a_quarter": (turn(45), 0),
    "nearly_a_quarter": (turn(60), 1),
    "halfway_to_three_quarters": (turn(315), 0),
    "twice_as_large": ((2, 0, 0, 2), 0),
    "quarter_and_half_as_large": ((0, 0.5, -0.5, 0), 1),
    "sheared": ((1, 0, 0.5, 1), 0),
}


@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_turned_by_the_nearest_quarter(tmp_path, name):
    matrix, quarters = MATRICES[name]
    path = tmp_path / "video.mp4"
    write_turned(path, matrix)
    expected = [np.rot90(frame, -quarters) for frame in sequential_frames(path)]
    with open_video(path) as reader:
        assert (reader.timeline.height, reader.timeline.width) == expected[0].shape[:2]
        for index, frame in reader.read(range(4)):
            np.testing.assert_array_equal(frame, expected[index])


# How long a frame lasts


@pytest.mark.parametrize(
    ("suffix", "codec", "fps", "seconds"),
    [
        (".webm", "libvpx", 1000, 1 / 25),  # a browser's recorder: milliseconds, and no word of a rate
        (".mkv", "libx264", 1000, 1 / 25),
        (".mp4", "libx264", 90_000, 1 / 25),  # one tick of its clock
        (".webm", "libvpx", 24, 1 / 24),
        (".mp4", "libx264", 24, 1 / 24),
        (".avi", "mpeg4", 24, 1 / 24),
        (".avi", "mpeg4", 120, 1 / 120),
        (".ts", "libx264", 24, 1 / 24),  # FFmpeg guesses 48, the rate of fields
        (".mpg", "mpeg2video", 24, 1 / 24),
    ],
)
def test_the_only_frame_lasts_what_the_container_says_else_a_25th(tmp_path, suffix, codec, fps, seconds):
    path = tmp_path / f"video{suffix}"
    write_video(path, num_frames=1, codec=codec, fps=fps, time_base=Fraction(1, fps))
    with open_video(path) as reader:
        assert reader.timeline.num_frames == 1
        assert reader.timeline.duration_seconds == pytest.approx(seconds, abs=1.1e-3 if suffix == ".webm" else 1e-6)
        assert reader.timeline.fps == pytest.approx(1 / seconds, rel=0.03)


def test_a_clock_is_no_rate_and_one_tick_no_duration():
    webm, stream, avi = Fraction(1, 1000), Fraction(1, 90_000), Fraction(1, 24)
    assert stated_step_seconds(Fraction(1000), duration_ticks=1, time_base=webm) is None
    assert stated_step_seconds(Fraction(1000), duration_ticks=40, time_base=webm) == pytest.approx(0.04)
    assert stated_step_seconds(Fraction(90_000), duration_ticks=0, time_base=stream) is None
    assert stated_step_seconds(None, duration_ticks=3600, time_base=stream) == pytest.approx(0.04)
    assert stated_step_seconds(Fraction(24), duration_ticks=1, time_base=avi) == pytest.approx(1 / 24)
    assert stated_step_seconds(None, duration_ticks=1, time_base=avi) == pytest.approx(1 / 24)
    assert stated_step_seconds(Fraction(30), duration_ticks=0, time_base=webm) == pytest.approx(1 / 30)
    assert stated_step_seconds(None, duration_ticks=0, time_base=webm) is None
    assert stated_step_seconds(None, duration_ticks=0, guessed_rate=Fraction(48), time_base=stream) == 1 / 48
    assert stated_step_seconds(None, duration_ticks=3750, guessed_rate=Fraction(48), time_base=stream) == 1 / 24


def test_repeated_timestamps_of_a_recording_keep_its_length(tmp_path):
    """Milliseconds that two frames share: the recording lasts as long as it did, not a millisecond a frame."""

    def repeated(packets: list[VideoPacket]) -> list[VideoPacket]:
        made: list[VideoPacket] = []
        for at, old in enumerate(packets):
            packet: VideoPacket = Packet(bytes(old))  # type: ignore[assignment]
            packet.stream, packet.time_base, packet.is_keyframe = old.stream, Fraction(1, 1000), old.is_keyframe
            packet.pts = packet.dts = 40 * (at - (at == 5))
            made.append(packet)
        return made

    path = tmp_path / "video.webm"
    options = {"deadline": "realtime", "auto-alt-ref": "0"}
    write_video(
        path,
        num_frames=11,
        codec="libvpx",
        options=options,
        fps=1000,
        time_base=Fraction(1, 1000),
        edit_packets=repeated,
    )
    with open_video(path) as reader:
        np.testing.assert_allclose(reader.timeline.pts_seconds, np.arange(11) * 0.04, atol=1e-9)
        assert reader.timeline.duration_seconds == pytest.approx(0.44)


def test_times_without_a_stated_step():
    np.testing.assert_allclose(presentation_seconds([0.0, 0.2, 0.1], step_seconds=None), [0.0, 0.1, 0.2])
    np.testing.assert_allclose(presentation_seconds([1.0, 1.0, 2.0], step_seconds=None), [1.0, 1.5, 2.0])
    np.testing.assert_allclose(presentation_seconds([1.0, 1.0], step_seconds=None), [1.0, 1.04])
    np.testing.assert_allclose(presentation_seconds([None, None], step_seconds=None), [0.0, 0.04])
