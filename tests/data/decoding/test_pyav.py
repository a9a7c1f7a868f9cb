import errno
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from featcache.data.decoding import open_video
from featcache.data.decoding.faults import TRANSIENT, blame, check_readable
from featcache.data.decoding.pyav import PyAVReader
from featcache.errors import VideoError
from featcache.testing.videos import FPS, NUM_FRAMES, VIDEO_KINDS, picture, sequential_frames, write_video


def decoded_packets(monkeypatch) -> list[int]:
    """Counts, in its only element, the packets that decoding consumes."""
    count = [0]
    original = PyAVReader._packets

    def counting(reader):
        for packet in original(reader):
            count[0] += 1
            yield packet

    monkeypatch.setattr(PyAVReader, "_packets", counting)
    return count


def test_frames_are_the_pictures_that_were_encoded(video):
    with open_video(video("h264")) as reader:
        for index, frame in reader.read(range(NUM_FRAMES)):
            error = [np.abs(frame.astype(int) - picture(other)).mean() for other in range(NUM_FRAMES)]
            assert int(np.argmin(error)) == index
            assert error[index] < 8


@pytest.mark.parametrize("fps", [24, 25, 30])
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_constant_rate_gives_its_duration(tmp_path, fps, suffix):
    path = tmp_path / f"video{suffix}"
    write_video(path, num_frames=10, codec="mpeg4", options={"bf": "2"}, fps=fps, time_base=Fraction(1, fps))
    with open_video(path) as reader:
        timeline = reader.timeline
    tolerance = 1e-3 if suffix == ".mkv" else 1e-9  # Matroska rounds to milliseconds
    assert timeline.duration_seconds == pytest.approx(10 / fps, abs=tolerance)
    assert timeline.fps == pytest.approx(fps, rel=0.02 if suffix == ".mkv" else 1e-9)


def test_variable_rate_keeps_its_timestamps(video):
    with open_video(video("variable_rate")) as reader:
        times = reader.timeline.pts_seconds
    starts = np.concatenate([[0], np.cumsum(np.resize([1, 2, 1, 5], NUM_FRAMES))])[:NUM_FRAMES]
    np.testing.assert_allclose(times, starts / 60, atol=1e-4)


def test_a_late_start_is_told(video):
    with open_video(video("late_start")) as reader:
        assert reader.timeline.pts_seconds[0] == pytest.approx(100 / FPS, abs=2e-3)
        assert reader.timeline.duration_seconds == pytest.approx(NUM_FRAMES / FPS)


def test_reordered_frames_in_avi_are_spaced_equally(video):
    for name in ("mpeg4_b_frames", "mpeg4_packed", "h264_in_avi"):
        with open_video(video(name)) as reader:
            np.testing.assert_allclose(np.diff(reader.timeline.pts_seconds), 1 / FPS, err_msg=name)


@pytest.mark.parametrize("name", ["h264", "all_key_frames", "vp9", "late_start_matroska", "rotated"])
def test_far_frames_are_reached_by_seeking(name, video, monkeypatch):
    with open_video(video(name)) as reader:
        count = decoded_packets(monkeypatch)
        list(reader.read([NUM_FRAMES - 1]))
    assert count[0] <= 14, "the last group of pictures has 12 packets"


@pytest.mark.parametrize("name", ["open_gop", "hevc_open_gop"])
def test_no_seek_to_a_picture_that_is_no_fresh_start(name, video):
    with PyAVReader(video(name)) as reader:
        list(reader.read([NUM_FRAMES - 1]))
        assert not reader._sought


def test_near_frames_are_decoded_in_passing(video, monkeypatch):
    with open_video(video("h264")) as reader:
        count = decoded_packets(monkeypatch)
        list(reader.read(range(NUM_FRAMES)))
    assert count[0] <= NUM_FRAMES + 2, "each packet once"


def test_a_short_counted_clip_is_decoded_once(video, monkeypatch):
    count = decoded_packets(monkeypatch)
    with open_video(video("mpeg4_b_frames")) as reader:
        list(reader.read(range(NUM_FRAMES)))
        list(reader.read([3, 40]))
    assert count[0] == NUM_FRAMES + 1  # and the flush


def test_a_long_counted_clip_is_not_kept(video, monkeypatch):
    monkeypatch.setattr("featcache.data.decoding.pyav._KEEP_BYTES", 40_000)  # four frames
    expected = sequential_frames(video("mpeg4_packed"))
    with PyAVReader(video("mpeg4_packed")) as reader:
        assert reader._kept is None
        for indices in ([0, 1, 47], [5, 30], [2]):
            for index, frame in reader.read(indices):
                np.testing.assert_array_equal(frame, expected[index])


def test_several_threads_give_the_same_frames(video):
    expected = sequential_frames(video("h264"))
    with PyAVReader(video("h264"), threads=3) as reader:
        for index, frame in reader.read(range(NUM_FRAMES)):
            np.testing.assert_array_equal(frame, expected[index])


def test_frames_outlive_the_next_one_only_as_copies_but_are_contiguous(video):
    for name in ("odd_size", "rotated", "mirrored"):
        with open_video(video(name)) as reader:
            (_, frame), *_ = reader.read([0])
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        assert frame.flags.writeable


def test_metadata_that_is_no_text_does_not_matter(tmp_path):
    path = tmp_path / "video.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE-TITLE"
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index).copy(), format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert b"TITLE-TITLE" in data
    path.write_bytes(data.replace(b"TITLE-TITLE", b"\xff\xfe\xe9\x80TITLE-T"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    with open_video(path) as reader:
        assert reader.timeline.num_frames == 4


@pytest.mark.parametrize("name", ["12:30.mp4", "concat:a|b.mp4", "%03d.mp4", "naïve 視頻\n.mp4", "-i.mp4"])
def test_names_are_names_and_no_protocols(name, video, tmp_path):
    path = tmp_path / name
    path.write_bytes(video("one_frame").read_bytes())
    with open_video(path) as reader:
        assert reader.timeline.num_frames == 1


def test_a_playlist_is_no_video(video, tmp_path):
    target = tmp_path / "secret.ts"
    target.write_bytes(video("h264_transport_stream").read_bytes())
    playlist = tmp_path / "video.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{target.name}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match="undecodable"):
        open_video(playlist)
    concat = tmp_path / "video.ffconcat"
    concat.write_text(f"ffconcat version 1.0\nfile {target.name}\n")
    with pytest.raises(VideoError, match="undecodable"):
        open_video(concat)


# Damage


def damaged(path: Path, target: Path, *, packet_index: int) -> Path:
    """A copy of ``path`` whose packet has nothing but 0xFF in it."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        packet = packets[packet_index]
        at, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[at : at + size] = b"\xff" * size
    target.write_bytes(data)
    return target


def test_a_damaged_frame_is_named(video, tmp_path):
    path = damaged(video("all_key_frames"), tmp_path / "damaged.mp4", packet_index=20)
    with open_video(path) as reader:
        assert reader.timeline.num_frames == NUM_FRAMES, "demuxing does not look inside"
        with pytest.raises(VideoError, match=r"undecodable: .*frame (19|20)"):
            list(reader.read(range(NUM_FRAMES)))
    expected = sequential_frames(video("all_key_frames"))
    with open_video(path) as reader:  # what the damage does not touch is still right
        for index, frame in reader.read([2, 10, 30, 47]):
            np.testing.assert_array_equal(frame, expected[index])


def test_a_reader_survives_the_failure_of_a_read(video, tmp_path):
    path = damaged(video("all_key_frames"), tmp_path / "damaged.mp4", packet_index=20)
    expected = sequential_frames(video("all_key_frames"))
    with open_video(path) as reader:
        for _ in range(2):
            with pytest.raises(VideoError):
                list(reader.read([20]))
            for index, frame in reader.read([5, 19, 40]):
                np.testing.assert_array_equal(frame, expected[index])


# Whose fault


def test_faults_of_the_machine_are_not_faults_of_the_video(video, monkeypatch):
    for code in (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE):
        assert code in TRANSIENT

        def broken(*args, code=code, **kwargs):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(Path, "open", broken)
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            open_video(video("h264"))
        assert not isinstance(caught.value, VideoError)
        assert caught.value.errno == code
        monkeypatch.undo()


def test_the_library_s_errors_are_told_apart(video):
    path = video("h264")
    assert isinstance(blame(path, MemoryError(), "x"), OSError)
    fault = blame(path, OSError(errno.EMFILE, "Too many open files"), "x")
    assert isinstance(fault, OSError)
    assert fault.errno == errno.EMFILE
    fault = blame(path, ValueError("bad data"), "decoding fails")
    assert isinstance(fault, VideoError)
    assert fault.reason == "decoding fails: bad data"
    gone = blame(path.with_name("gone.mp4"), ValueError("bad data"), "decoding fails")
    assert isinstance(gone, VideoError)
    assert gone.status == "missing"


def test_a_disk_that_fails_while_decoding_is_not_blamed_on_the_video(video, monkeypatch):
    original = Path.open

    class Failing:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def read(self, size):
            raise OSError(errno.EIO, "Input/output error")

    def failing(path, *args, **kwargs):
        return Failing() if kwargs.get("buffering") == 0 else original(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(OSError, match="Input/output error"):
        open_video(video("no_moov"))


def test_no_permission_is_missing(video, tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(VideoError, match="permission denied") as caught:
        check_readable(tmp_path / "video.mp4")
    assert caught.value.status == "missing"


def test_a_parent_that_is_a_file_is_missing(video):
    with pytest.raises(VideoError, match="no such file") as caught:
        open_video(video("h264") / "video.mp4")
    assert caught.value.status == "missing"


@pytest.mark.shared
def test_all_shared_clips_are_exact(shared):
    clips = sorted(path for path in (shared / "data" / "videos").rglob("*.*") if path.is_file())
    assert len(clips) >= 17
    for path in clips:
        with open_video(path) as reader:
            num_frames = reader.timeline.num_frames
            scattered = sorted({*range(0, num_frames, 9), num_frames - 1, num_frames // 2})
            asked = {index: frame.copy() for index, frame in reader.read(scattered)}
        with av.open(str(path), metadata_errors="ignore") as container:
            count = 0
            for count, frame in enumerate(container.decode(container.streams.best("video")), start=1):
                if count - 1 in asked:
                    np.testing.assert_array_equal(asked[count - 1], frame.to_ndarray(format="rgb24"), err_msg=path.name)
        assert count == num_frames, path.name


@pytest.mark.shared
def test_decord_is_off_on_hmdb51(shared, need_decoder):
    need_decoder("decord")
    from featcache.testing.decoders import wrong_frames

    for path in sorted((shared / "data" / "videos" / "hmdb51").rglob("*.avi")):
        assert wrong_frames("decord", path), f"decord is exact on {path.name} now: say so in docs/decoding.md"


def test_every_kind_is_listed_under_its_name():
    assert all(name == kind.name for name, kind in VIDEO_KINDS.items())
