"""Pictures that change size half way: every frame is there, scaled to the first one's size."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from skimage.transform import resize

from featcache.data.decoding import open_video
from featcache.data.decoding.pyav import PyAVReader
from featcache.testing.videos import FPS, picture, sequential_frames, write_video

PART = 15
SIZES = ((128, 64), (96, 48), (64, 96))
OPTIONS = {
    "libvpx": {"deadline": "realtime", "crf": "4", "b": "4M", "g": str(PART), "auto-alt-ref": "0"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "4", "b": "4M", "g": str(PART)},
    "libx264": {"preset": "veryfast", "crf": "12", "bf": "0", "g": str(PART)},
    "libsvtav1": {"preset": "12", "crf": "10", "g": str(PART)},
    "mjpeg": {"q": "2"},
}


def write_parts(path: Path, folder: Path, *, codec: str) -> None:
    """One stream of three parts, each of a size of its own; the header tells the first one's."""
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    parts = []
    for number, (width, height) in enumerate(SIZES):
        # A raw stream has its parameter sets in front of the key frames, as a stream must that changes its size.
        part = folder / f"part{number}{'.h264' if codec == 'libx264' else '.mkv'}"
        pictures = [picture(number * PART + at, width=width, height=height) for at in range(PART)]
        write_video(part, codec=codec, options=OPTIONS[codec], pixel_format=pixel_format, pictures=pictures)
        with av.open(str(part)) as container:
            parts += [(bytes(packet), packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        (stream.width, stream.height), stream.pix_fmt = SIZES[0], pixel_format
        stream.codec_context.time_base = Fraction(1, FPS)
        container.start_encoding()
        for at, (data, is_key) in enumerate(parts):
            packet = Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, FPS), is_key
            packet.pts = packet.dts = at
            container.mux(packet)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libvpx", ".webm"),
        ("libvpx-vp9", ".webm"),
        ("libvpx-vp9", ".mp4"),
        ("libsvtav1", ".webm"),
        ("libx264", ".mkv"),
        ("libx264", ".ts"),
        ("libx264", ".avi"),
        ("mjpeg", ".avi"),
        ("mjpeg", ".mkv"),
    ],
)
def test_every_frame_has_the_size_of_the_first(tmp_path, codec, suffix, monkeypatch):
    monkeypatch.setenv("SVT_LOG", "1")
    path = tmp_path / f"video{suffix}"
    write_parts(path, tmp_path, codec=codec)
    with av.open(str(path)) as container:
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert sizes == [size for size in SIZES for _ in range(PART)], "the file does not change size: this shows nothing"
    expected = sequential_frames(path)
    with open_video(path) as reader:
        assert (reader.timeline.width, reader.timeline.height) == SIZES[0]
        assert reader.timeline.num_frames == len(expected) == 3 * PART
        assert (np.diff(reader.timeline.pts_seconds) > 0).all()
        for indices in (range(3 * PART), [44], [3, 20, 40], [14, 15, 29, 30]):
            for index, frame in reader.read(indices):
                np.testing.assert_array_equal(frame, expected[index], err_msg=str(index))
    for index in (7, 22, 37):  # and swscale's pictures are the pictures
        width, height = SIZES[index // PART]
        source = picture(index, width=width, height=height)
        wanted = resize(source, (64, 128), order=3, anti_aliasing=True, preserve_range=True)
        assert np.abs(expected[index] - wanted).mean() < 12


def test_frames_of_the_first_size_are_the_same_bits_beside_others(tmp_path):
    path = tmp_path / "video.webm"
    write_parts(path, tmp_path, codec="libvpx")
    with av.open(str(path)) as container:
        alone = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0) if frame.width == 128]
    with PyAVReader(path) as reader:
        for indices in ([20, 40], range(PART)):  # one converter, used for other sizes before
            for index, frame in reader.read(indices):
                if index < PART:
                    np.testing.assert_array_equal(frame, alone[index])
