"""Small real videos of every difficult kind, encoded from a photograph: one table for all tests.

Each frame is another crop of the photograph, further right and down than the one before, so that a neighbouring frame
cannot be mistaken for the right one.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from featcache.data.types import Status

FPS = 24
NUM_FRAMES = 48
_STEP_PIXELS = 4
_VOP_START = b"\x00\x00\x01\xb6"

Picture = npt.NDArray[np.uint8]
VideoPacket: TypeAlias = "Packet[VideoStream]"  # generic for type checkers only


@cache
def _photograph() -> Picture:
    from skimage import data  # slow to import, and only needed here

    photograph: Picture = data.astronaut()  # type: ignore[no-untyped-call]
    return photograph


def picture(index: int, *, width: int = 96, height: int = 64) -> Picture:
    """Frame ``index`` of every test video before encoding: uint8 RGB [height, width, 3]."""
    photograph = _photograph()
    rows = (index * _STEP_PIXELS + np.arange(height)) % photograph.shape[0]
    columns = (100 + 2 * index * _STEP_PIXELS + np.arange(width)) % photograph.shape[1]
    crop: Picture = photograph[rows[:, None], columns]
    return crop


def write_video(
    path: Path,
    *,
    num_frames: int = NUM_FRAMES,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    width: int = 96,
    height: int = 64,
    pixel_format: str = "yuv420p",
    pts: Callable[[int], int] = lambda index: index,
    time_base: Fraction = Fraction(1, FPS),
    fps: int = FPS,
    container_options: Mapping[str, str] | None = None,
    edit_packets: Callable[[list[VideoPacket]], list[VideoPacket]] = lambda packets: packets,
    pictures: Sequence[Picture] | None = None,
) -> None:
    """Encode ``num_frames`` frames to ``path`` with PyAV.

    Args:
        path: Output file; its suffix chooses the container.
        num_frames: Number of frames to encode.
        codec: Name of the encoder.
        options: Encoder options.
        width: Width in pixels.
        height: Height in pixels.
        pixel_format: FFmpeg's name of the pixel format.
        pts: Timestamp of frame ``i`` in ``time_base``.
        time_base: Unit of ``pts``.
        fps: Nominal frame rate.
        container_options: Muxer options.
        edit_packets: Function that changes the packets (in decoding order) before they are written.
        pictures: Frames to encode instead, uint8 RGB [height, width, 3] each; they determine number and size.
    """
    if pictures is None:
        pictures = [picture(index, width=width, height=height) for index in range(num_frames)]
    elif pictures:
        height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=fps, options=dict(options or {}))
        assert isinstance(stream, VideoStream), f"{codec} is no video encoder"
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        packets: list[VideoPacket] = []
        for index, shown in enumerate(pictures):
            frame = VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts, frame.time_base = pts(index), time_base
            packets.extend(stream.encode(frame))
        packets.extend(stream.encode(None))
        container.start_encoding()  # a file without frames still has a header
        container.mux(edit_packets(packets))


def sequential_frames(path: Path) -> list[Picture]:
    """Every frame of the best video stream by plain sequential decoding, before any rotation: the reference.

    Frames of another size than the first are scaled to it.
    """
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        assert stream is not None, f"{path} has no video stream"
        frames: list[Any] = list(container.decode(stream))
    pictures = []
    for frame in frames:
        width, height = frames[0].width, frames[0].height
        same = (frame.width, frame.height) == (width, height)
        scaled = {} if same else {"width": width, "height": height, "interpolation": "BICUBIC"}
        pictures.append(frame.to_ndarray(format="rgb24", **scaled))
    return pictures


# Kinds

_B_FRAMES = {"bf": "3", "b_strategy": "0", "g": "12", "sc_threshold": "0", "crf": "18", "preset": "veryfast"}


def _x264(**parameters: str) -> dict[str, str]:
    return {"crf": "18", "preset": "veryfast", "bf": "3", **parameters}


def _open_gop(path: Path) -> None:
    params = "keyint=12:min-keyint=12:open-gop=1:scenecut=0:bframes=3:b-adapt=0"
    write_video(path, options={"crf": "18", "preset": "veryfast", "x264-params": params})


def _hevc(path: Path) -> None:
    params = "keyint=12:min-keyint=12:scenecut=0:bframes=3:log-level=none:pools=none:frame-threads=1"
    write_video(path, codec="libx265", options={"crf": "18", "preset": "ultrafast", "x265-params": params})


def _variable_rate(path: Path) -> None:
    """Every frame lasts 1, 2 or 5 units."""
    starts = np.concatenate([[0], np.cumsum(np.resize([1, 2, 1, 5], NUM_FRAMES))])
    write_video(path, options=_B_FRAMES, pts=lambda index: int(starts[index]), time_base=Fraction(1, 60), fps=60)


def _rotated(path: Path) -> None:
    """A phone's upright recording: the track's matrix turns the picture by 90 degrees clockwise."""
    write_video(path, options=_B_FRAMES)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 64 * one, 0, 1 << 30)
    path.write_bytes(data)


def _mirrored(path: Path) -> None:
    """A selfie: the track's matrix mirrors the picture left to right."""
    write_video(path, options=_B_FRAMES)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", -one, 0, 0, 0, one, 0, 96 * one, 0, 1 << 30)
    path.write_bytes(data)


def _packed(packets: list[VideoPacket]) -> list[VideoPacket]:
    """DivX's packed bitstream: a B-frame is in the packet of the reference before it, and a stub takes its place."""
    stub = b"\x00\x00\x01\xb6\x70\x7f"  # a picture that is not coded
    kinds = [bytes(packet)[bytes(packet).index(_VOP_START) + 4] >> 6 for packet in packets]
    packed: list[VideoPacket] = []
    at = 0
    while at < len(packets):
        data = bytes(packets[at])
        if at == 0:  # the mark by which decoders know it
            start = data.index(_VOP_START)
            data = data[:start] + b"\x00\x00\x01\xb2DivX503b1393p\x00" + data[start:]
        chunks = [data]
        if at + 1 < len(packets) and kinds[at + 1] == 2:
            chunks = [data + bytes(packets[at + 1]), stub]
        for chunk in chunks:
            packet: VideoPacket = Packet(chunk)  # type: ignore[assignment]
            packet.stream = packets[at].stream
            packet.time_base, packet.dts, packet.pts = Fraction(1, FPS), len(packed), len(packed)
            packet.is_keyframe = packets[at].is_keyframe and chunk is chunks[0]
            packed.append(packet)
        at += len(chunks)
    return packed


def _several_streams(path: Path) -> None:
    """A small video, a video that is marked as default, and sound."""
    with av.open(str(path), "w") as container:
        videos: list[Any] = []
        for width, height in ((48, 32), (96, 64)):
            stream: Any = container.add_stream("libx264", rate=FPS, options=_B_FRAMES)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1
            stream.disposition = Disposition.default if width == 96 else Disposition(0)
            videos.append(stream)
        sound: Any = container.add_stream("aac", rate=16000)
        for index in range(NUM_FRAMES):
            for stream in videos:
                frame = VideoFrame.from_ndarray(
                    picture(index, width=stream.width, height=stream.height), format="rgb24"
                )
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                container.mux(stream.encode(frame))
        _mux_sound(container, sound)
        for stream in videos:
            container.mux(stream.encode(None))


def _mux_sound(container: Any, stream: Any) -> None:
    tone = (0.1 * np.sin(np.arange(16000) * 0.1)).astype(np.float32)[None]
    for start in range(0, 16000 - 1023, 1024):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, start : start + 1024]), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        stream.codec_context.layout = "mono"
        _mux_sound(container, stream)


def _cover_art(path: Path) -> None:
    """A song with a picture: the picture is a video stream to FFmpeg, but not a video."""
    with av.open(str(path), "w", format="mp4") as container:
        sound: Any = container.add_stream("aac", rate=16000)
        sound.codec_context.layout = "mono"
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        _mux_sound(container, sound)
        frame = VideoFrame.from_ndarray(picture(0), format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        container.mux(cover.encode(frame))
        container.mux(cover.encode(None))


def _cut(path: Path, *, fraction: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])


def _no_moov(path: Path) -> None:
    write_video(path, options=_B_FRAMES)
    _cut(path, fraction=0.5)  # the index is at the end


def _half_mp4(path: Path) -> None:
    write_video(path, options=_B_FRAMES, container_options={"movflags": "faststart"})
    _cut(path, fraction=0.5)  # the index is at the beginning and promises more than there is


def _half_avi(path: Path) -> None:
    write_video(path, codec="mpeg4", options={"g": "12", "q": "2"}, width=320, height=240)
    _cut(path, fraction=0.5)


def _zero_frames(path: Path) -> None:
    write_video(path, num_frames=0, container_options={"movflags": "empty_moov+frag_keyframe"})


def _resized(path: Path) -> None:
    """A raw H.264 stream whose pictures change size in the middle."""
    halves = []
    for width, height in ((96, 64), (64, 96)):
        write_video(path, num_frames=12, options=_x264(g="12"), width=width, height=height)
        halves.append(path.read_bytes())
    path.write_bytes(b"".join(halves))


def _text(path: Path) -> None:
    path.write_text("This is no video.\n" * 40)


def _late_start(path: Path) -> None:
    write_video(path, options=_B_FRAMES, pts=lambda index: index + 100)


def _cut_stream(path: Path) -> None:
    """A carelessly cut stream, which begins in the middle of a group of pictures."""
    write_video(path, options=_x264(g="24"), edit_packets=lambda packets: packets[7:])


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoKind:
    """One kind of test video.

    Attributes:
        name: Short name, unique.
        suffix: File suffix.
        make: Function that writes one.
        status: Expected status after opening and reading it completely.
        num_frames: Number of frames that decode; ``None`` if it only has to agree with sequential decoding.
        reason: A word that the reason must contain if ``status`` is not ``ok``.
        turned: Transformation from :func:`sequential_frames` to the frames as shown.
    """

    name: str
    suffix: str
    make: Callable[[Path], None]
    status: Status = "ok"
    num_frames: int | None = NUM_FRAMES
    reason: str = ""
    turned: Callable[[Picture], Picture] = lambda picture: picture

    def write(self, folder: Path) -> Path:
        """Write the video into ``folder`` and return its path."""
        path = folder / f"{self.name}{self.suffix}"
        self.make(path)
        return path


def _kind(name: str, suffix: str, **write: Any) -> VideoKind:
    return VideoKind(name=name, suffix=suffix, make=lambda path: write_video(path, **write))


_TABLE: tuple[VideoKind, ...] = (
    # Ordinary files
    _kind("h264", ".mp4", options=_B_FRAMES),
    _kind("h264_matroska", ".mkv", options=_B_FRAMES),
    _kind("h264_no_b_frames", ".mp4", options=_x264(bf="0", g="12")),
    _kind("all_key_frames", ".mp4", options=_x264(g="1")),
    _kind("vp9", ".webm", codec="libvpx-vp9", options={"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    _kind("mpeg4", ".avi", codec="mpeg4", options={"g": "12", "q": "3"}),
    _kind("mjpeg", ".avi", codec="mjpeg", pixel_format="yuvj420p", options={"q": "3"}),
    # Frames that are hard to count or to reach
    VideoKind(name="open_gop", suffix=".mp4", make=_open_gop),
    VideoKind(name="hevc_open_gop", suffix=".mp4", make=_hevc),
    _kind("intra_refresh", ".mp4", options=_x264(g="12", **{"intra-refresh": "1"})),
    _kind("h264_in_avi", ".avi", options=_B_FRAMES),
    _kind("h264_raw", ".h264", options=_B_FRAMES),
    _kind("h264_transport_stream", ".ts", options=_B_FRAMES),
    _kind("mpeg4_b_frames", ".avi", codec="mpeg4", options={"bf": "2", "g": "12", "q": "3"}),
    _kind("mpeg4_b_frames_mp4", ".mp4", codec="mpeg4", options={"bf": "2", "g": "12", "q": "3"}),
    _kind("mpeg4_packed", ".avi", codec="mpeg4", options={"bf": "1", "g": "12", "q": "3"}, edit_packets=_packed),
    _kind("mpeg2_program_stream", ".mpg", codec="mpeg2video", options={"bf": "2", "g": "12", "q": "3"}),
    _kind("vp8", ".webm", codec="libvpx", options={"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    VideoKind(name="variable_rate", suffix=".mp4", make=_variable_rate),
    VideoKind(name="late_start", suffix=".mp4", make=_late_start),
    VideoKind(name="late_start_matroska", suffix=".mkv", make=_late_start),
    VideoKind(name="cut_stream", suffix=".mkv", make=_cut_stream, num_frames=None),
    VideoKind(name="several_streams", suffix=".mp4", make=_several_streams),
    # Pictures that are hard to show
    VideoKind(name="rotated", suffix=".mp4", make=_rotated, turned=lambda picture: np.rot90(picture, -1)),
    VideoKind(name="mirrored", suffix=".mp4", make=_mirrored, turned=lambda picture: picture[:, ::-1]),
    _kind("odd_size", ".mp4", options=_B_FRAMES, width=101, height=75, pixel_format="yuv444p"),
    _kind("ten_bit", ".mp4", options=_B_FRAMES, pixel_format="yuv420p10le"),
    VideoKind(name="resized", suffix=".h264", make=_resized, num_frames=24),
    VideoKind(
        name="one_frame",
        suffix=".mp4",
        make=lambda path: write_video(path, num_frames=1, options=_B_FRAMES),
        num_frames=1,
    ),
    # Damaged files, and files that are no videos
    VideoKind(name="half_avi", suffix=".avi", make=_half_avi, num_frames=None),
    VideoKind(name="half_mp4", suffix=".mp4", make=_half_mp4, status="undecodable", reason="breaks off"),
    VideoKind(name="no_moov", suffix=".mp4", make=_no_moov, status="undecodable", reason="opened"),
    VideoKind(name="zero_frames", suffix=".mp4", make=_zero_frames, status="undecodable", reason="no frame"),
    VideoKind(name="audio_only", suffix=".m4a", make=_audio_only, status="undecodable", reason="audio"),
    VideoKind(name="cover_art", suffix=".m4a", make=_cover_art, status="undecodable", reason="audio"),
    VideoKind(
        name="empty",
        suffix=".mp4",
        make=lambda path: path.touch(),
        status="undecodable",
        reason="empty",
    ),
    VideoKind(
        name="text",
        suffix=".mp4",
        make=_text,
        status="undecodable",
        reason="opened",
    ),
    VideoKind(name="missing", suffix=".mp4", make=lambda path: None, status="missing", reason="no such file"),
    VideoKind(name="folder", suffix=".mp4", make=lambda path: path.mkdir(), status="missing", reason="folder"),
)

VIDEO_KINDS: Mapping[str, VideoKind] = {kind.name: kind for kind in _TABLE}
