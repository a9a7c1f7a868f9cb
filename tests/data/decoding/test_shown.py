"""AV1 and VP9: one shown frame a packet is read from the headers, not believed; far frames cost one group."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet

from featcache.data.decoding import open_video
from featcache.data.decoding.pyav import PyAVReader
from featcache.data.decoding.shown import num_shown, obus, starts_av1
from featcache.errors import VideoError
from featcache.testing.videos import FPS, NUM_FRAMES, VideoPacket, sequential_frames, write_video

GOP = 24
HIDDEN = {"preset": "8", "g": str(GOP), "svtav1-params": "hierarchical-levels=4"}  # alternative references
FORWARD = {"preset": "8", "g": str(GOP), "svtav1-params": "irefresh-type=1"}  # intra frames that reset nothing
LOW_DELAY = {"preset": "12", "g": str(GOP), "svtav1-params": "pred-struct=1"}
VP9 = {"g": str(GOP), "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}


@pytest.fixture(scope="module", autouse=True)
def _quiet_encoder():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVT_LOG", "1")
        yield


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def check_exact(path: Path, *, num_frames: int | None = NUM_FRAMES) -> None:
    """Every frame, however it is asked for, is that of sequential decoding."""
    expected = sequential_frames(path)
    assert num_frames is None or len(expected) == num_frames
    with open_video(path) as reader:
        assert reader.timeline.num_frames == len(expected)
        assert (np.diff(reader.timeline.pts_seconds) > 0).all()
        everything = range(len(expected))
        for indices in (everything, everything[-1:], everything[1::7], [0], everything[GOP - 1 : GOP + 2]):
            for index, frame in reader.read(indices):
                np.testing.assert_array_equal(frame, expected[index], err_msg=str(index))


@pytest.mark.parametrize(("suffix", "is_indexed"), [(".mp4", True), (".webm", True), (".ivf", False), (".obu", False)])
@pytest.mark.parametrize("options", [HIDDEN, FORWARD, LOW_DELAY], ids=["hidden", "forward", "low_delay"])
def test_av1_is_exact_in_every_container(tmp_path, options, suffix, is_indexed):
    path = tmp_path / f"video{suffix}"
    write_video(path, codec="libsvtav1", options=options)
    headers = [[kind for kind, _ in obus(memoryview(data)) if kind in (3, 6)] for data in packets_of(path)]
    if options is not LOW_DELAY:
        assert sum(map(len, headers)) > NUM_FRAMES, "no frame is hidden: this shows nothing"
    assert {num_shown("av1", memoryview(data)) for data in packets_of(path)} == {1}
    with PyAVReader(path) as reader:
        assert reader.codec == "av1", "the codec's name, not that of the decoder which this build of FFmpeg has"
        assert (reader._position is not None) == is_indexed
    check_exact(path)


def test_decord_says_that_it_cannot_open_av1(tmp_path, need_decoder):
    need_decoder("decord")
    path = tmp_path / "video.mp4"
    write_video(path, num_frames=4, codec="libsvtav1", options=LOW_DELAY)
    with pytest.raises(VideoError, match="decord cannot open it"):
        open_video(path, decoder="decord")


def test_a_far_frame_of_av1_costs_one_group_of_pictures(tmp_path, monkeypatch):
    path = tmp_path / "long.mp4"
    write_video(path, num_frames=3000, codec="libsvtav1", options={"preset": "12", "g": "60"})
    num_decoded = 0
    original = PyAVReader._decode

    def counting(reader, packets):
        nonlocal num_decoded
        for index, frame in original(reader, packets):
            num_decoded += 1
            yield index, frame

    with open_video(path) as reader:
        assert reader.timeline.num_frames == 3000
        monkeypatch.setattr(PyAVReader, "_decode", counting)
        ((index, _),) = reader.read([2990])
    assert index == 2990
    assert num_decoded == 51, "frames 2940 to 2990"


def test_only_a_key_frame_that_is_shown_at_once_starts_av1(tmp_path):
    path = tmp_path / "video.mkv"
    write_video(path, codec="libsvtav1", options=HIDDEN)
    packets = packets_of(path)
    assert [at for at, data in enumerate(packets) if starts_av1(memoryview(data))] == [0, GOP]
    frames = [data for data in obus(memoryview(packets[0])) if data[0] == 6]
    assert len(frames) == 1
    without_sequence = b"".join(bytes(_unit(kind, payload)) for kind, payload in frames)
    assert not starts_av1(memoryview(without_sequence)), "a decoder that was flushed knows no sequence"


def _unit(kind: int, payload: memoryview) -> bytes:
    """A unit whose size goes to the end of the packet."""
    return bytes([kind << 3]) + bytes(payload)


def test_vp9_is_indexed(tmp_path):
    path = tmp_path / "video.webm"
    write_video(path, codec="libvpx-vp9", options=VP9)
    assert {num_shown("vp9", memoryview(data)) for data in packets_of(path)} == {1}
    with PyAVReader(path) as reader:
        assert (reader.codec, reader._position is not None) == ("vp9", True)
    check_exact(path)


def test_hidden_frames_of_vp9_are_not_counted():
    """Headers of the specification, section 6.2: marker, profile, show_existing_frame, frame_type, show_frame."""
    shown, hidden, stored = b"\x86\x00\x00", b"\x84\x00\x00", b"\x88"
    high_shown, high_hidden = b"\xb3\x00", b"\xb2\x00"  # profile 3: a bit more before them
    for frames, number in [
        ([shown], 1),
        ([stored], 1),
        ([hidden], 0),
        ([high_shown], 1),
        ([high_hidden], 0),
        ([hidden, shown], 1),
        ([shown, shown], 2),
        ([hidden, hidden, stored], 1),
    ]:
        data = frames[0] if len(frames) == 1 else _superframe(*frames)
        assert num_shown("vp9", memoryview(data)) == number, frames


def _two_units(first: bytes, second: bytes) -> bytes:
    return first + second


def _superframe(*frames: bytes) -> bytes:
    marker = bytes([0xC0 | 3 << 3 | len(frames) - 1])  # sizes of four bytes
    sizes = b"".join(len(frame).to_bytes(4, "little") for frame in frames)
    return b"".join(frames) + marker + sizes + marker


@pytest.mark.parametrize(
    ("codec", "options", "join"),
    [
        ("libsvtav1", LOW_DELAY, _two_units),
        ("libvpx-vp9", VP9, _superframe),
    ],
)
def test_packets_that_show_two_frames_are_counted(tmp_path, codec, options, join: Callable[[bytes, bytes], bytes]):
    """Each packet but the first holds two frames: the number of packets says nothing."""

    def joined(packets: list[VideoPacket]) -> list[VideoPacket]:
        data = [bytes(packets[0])]
        data += [join(bytes(packets[at]), bytes(packets[at + 1])) for at in range(1, GOP - 1, 2)]
        made: list[VideoPacket] = []
        for at, one in enumerate(data):
            packet: VideoPacket = Packet(one)  # type: ignore[assignment]
            packet.stream, packet.time_base, packet.pts, packet.dts = packets[0].stream, Fraction(1, FPS), at, at
            packet.is_keyframe = at == 0
            made.append(packet)
        return made

    path = tmp_path / "video.mkv"
    write_video(path, codec=codec, options=options, edit_packets=joined)
    name = codec.removeprefix("libsvt").removeprefix("libvpx-")
    assert [num_shown(name, memoryview(data)) for data in packets_of(path)] == [1, *[2] * 11]
    with PyAVReader(path) as reader:
        assert reader._position is None
    check_exact(path, num_frames=23)


@pytest.mark.parametrize("codec", ["av1", "vp9"])
def test_bytes_that_are_no_headers_show_nothing_known(codec):
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 9, 100):
        for _ in range(200):
            packet = memoryview(rng.bytes(size))
            assert num_shown(codec, packet) in {None, *range(size + 1)}
            assert starts_av1(packet) in (True, False)
    assert num_shown(codec, memoryview(b"")) in (None, 0)
    assert num_shown("h264", memoryview(b"any")) == 1
