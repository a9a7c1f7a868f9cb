"""The writers of the damaged files; see :mod:`featcache.testing.damaged` for their expected outcomes."""

import os
import sqlite3
import struct
import zipfile
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from featcache.seeding import rng_for
from featcache.testing.sound import Make, Sources
from featcache.testing.videos import VIDEO_KINDS, VideoPacket, picture, write_video

CANARY = "canary.ts"
"""A video beside the playlists that name it; a decoder must not open it."""
CANARY_PORT_FILE = "canary.port"
"""File with the port of a listening socket, which some playlists name."""

_HALF_INDEX = {"mp4": b"moov", "avi": b"idx1", "mkv": b"\x1c\x53\xbb\x6b"}  # mkv: Cues
_GIGABYTE = 1 << 30


# Cuts, flips, zeros


def cut_at(path: Path, *, percent: int) -> int:
    """Number of bytes of a file that remain."""
    return path.stat().st_size * percent // 100


def end_of_pictures(path: Path) -> int:
    """The end of an MP4's pictures or of its track, whichever comes last."""
    data = path.read_bytes()
    starts = [data.rindex(name) - 4 for name in (b"trak", b"mdat")]
    return max(start + int.from_bytes(data[start : start + 4], "big") for start in starts)


def cut(container: str, *, percent: int) -> Make:
    """The first ``percent`` of a file."""

    def make(sources: Sources, path: Path) -> None:
        whole: Path = getattr(sources, container)
        path.write_bytes(whole.read_bytes()[: cut_at(whole, percent=percent)])

    return make


def flip(container: str, *, part: str, seed: int) -> Make:
    """Eight flipped bits in the header (the first 512 bytes), the payload or the index."""

    def make(sources: Sources, path: Path) -> None:
        whole: Path = getattr(sources, container)
        data = bytearray(whole.read_bytes())
        index = data.rindex(_HALF_INDEX[container]) if _HALF_INDEX[container] in data else len(data) * 9 // 10
        first, last = {"header": (0, 512), "payload": (512, index), "index": (index, len(data))}[part]
        rng = rng_for(seed, "damage", container, part)
        for position in rng.integers(first, last, 8).tolist():
            data[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)

    return make


def zero(container: str, *, percent: int) -> Make:
    """A twentieth of the file is zeros, from ``percent`` on, like a block that a disk has lost."""

    def make(sources: Sources, path: Path) -> None:
        whole: Path = getattr(sources, container)
        data = bytearray(whole.read_bytes())
        first, count = len(data) * percent // 100, len(data) // 20
        data[first : first + count] = bytes(len(data[first : first + count]))
        path.write_bytes(data)

    return make


# Headers with false values


def atom_u32(name: str, values: Mapping[int, int]) -> Make:
    """An MP4 whose atom ``name`` has other 32-bit numbers at some offsets of its payload."""

    def make(sources: Sources, path: Path) -> None:
        data = bytearray(sources.mp4.read_bytes())
        start = data.rindex(name.encode()) + 4
        for offset, value in values.items():
            struct.pack_into(">I", data, start + offset, value)
        path.write_bytes(data)

    return make


def atom_size(name: str, size: int) -> Make:
    """An MP4 whose atom ``name`` claims another size."""

    def make(sources: Sources, path: Path) -> None:
        data = bytearray(sources.mp4.read_bytes())
        struct.pack_into(">I", data, data.rindex(name.encode()) - 4, size)
        path.write_bytes(data)

    return make


def one_byte_samples(sources: Sources, path: Path) -> None:
    """An index of two billion samples of one byte each, all in one chunk, which would need gigabytes."""
    data = bytearray(sources.mp4.read_bytes())
    struct.pack_into(">II", data, data.rindex(b"stsz") + 8, 1, 2**27)
    struct.pack_into(">I", data, data.rindex(b"stsc") + 16, 2**27)
    path.write_bytes(data)


def bitmap_size(sources: Sources, path: Path) -> None:
    """An AVI whose picture header claims 2^31 - 1 pixels per side."""
    data = bytearray(sources.avi.read_bytes())
    struct.pack_into("<ii", data, data.index(b"strf") + 12, 2**31 - 1, 2**31 - 1)
    path.write_bytes(data)


def matroska_size(sources: Sources, path: Path) -> None:
    """A Matroska file whose track claims 255 times the width."""
    data = bytearray(sources.mkv.read_bytes())
    at = data.index(b"\xb0", data.index(b"V_MPEG4/ISO/AVC"))  # PixelWidth: id, length, value
    length = data[at + 1] & 0x7F
    data[at + 2 : at + 2 + length] = b"\xff" * length
    path.write_bytes(data)


def giant_jpeg(sources: Sources, path: Path) -> None:
    """Motion JPEG whose pictures claim 65500 pixels per side."""
    write_video(path, codec="mjpeg", pixel_format="yuvj420p", num_frames=4)
    data = bytearray(path.read_bytes())
    at = data.find(b"\xff\xc0")
    while at >= 0:
        struct.pack_into(">HH", data, at + 5, 65500, 65500)
        at = data.find(b"\xff\xc0", at + 2)
    path.write_bytes(data)


def giant_raw(sources: Sources, path: Path) -> None:
    """Raw pictures of 30000 pixels per side, with only a few bytes of data."""
    path.write_bytes(b"YUV4MPEG2 W30000 H30000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(1000))


def giant_free(sources: Sources, path: Path) -> None:
    """A sound MP4 behind 3 GB of free space, which the file system need not store."""
    data = sources.mp4.read_bytes()
    with path.open("wb") as file:
        file.write(data)
        file.write(struct.pack(">I4s", 3 * _GIGABYTE, b"free"))


def giant_index(sources: Sources, path: Path) -> None:
    """An index of a hundred thousand tracks."""
    data = sources.mp4.read_bytes()
    at = data.rindex(b"moov") - 4
    moov = data[at + 8 :] + struct.pack(">I4s", 8, b"trak") * 100_000
    path.write_bytes(data[:at] + struct.pack(">I4s", len(moov) + 8, b"moov") + moov)


def nested(sources: Sources, path: Path) -> None:
    """Ten thousand boxes, each inside the one before."""
    depth = 10_000
    boxes = b"".join(struct.pack(">I4s", 8 * (depth - level), b"moov") for level in range(depth))
    path.write_bytes(sources.mp4.read_bytes()[:32] + boxes)


# Times


def timed(pts: Callable[[int], int]) -> Make:
    """A video whose frames are encoded with these timestamps."""

    def make(sources: Sources, path: Path) -> None:
        options = {"crf": "20", "preset": "veryfast", "bf": "0"}
        write_video(path, num_frames=sources.num_frames, options=options, pts=pts)

    return make


def retimed(pts: Callable[[int], int]) -> Make:
    """A stream whose packets have these wrong timestamps."""

    def make(sources: Sources, path: Path) -> None:
        def edit(packets: list[VideoPacket]) -> list[VideoPacket]:
            for index, packet in enumerate(packets):
                packet.dts, packet.pts = index, 100 + pts(index)  # a muxer requires dts before pts
            return packets

        options = {"crf": "20", "preset": "veryfast", "bf": "0"}
        write_video(path, num_frames=sources.num_frames, options=options, edit_packets=edit)

    return make


def without_start(sources: Sources, path: Path) -> None:
    """A stream without its key frame."""
    options = {"crf": "20", "preset": "veryfast", "bf": "0", "g": "100"}
    write_video(path, num_frames=sources.num_frames, options=options, edit_packets=lambda packets: packets[1:])


def two_sizes(sources: Sources, path: Path) -> None:
    """A raw stream that continues with other codec parameters."""
    VIDEO_KINDS["resized"].make(path)


def one_frame(sources: Sources, path: Path) -> None:
    """A sound video of one frame."""
    write_video(path, num_frames=1)


# Files that are no videos


def _jpeg(sources: Sources, path: Path) -> None:
    Image.fromarray(picture(0)).save(path, "JPEG")


def _png(sources: Sources, path: Path) -> None:
    Image.fromarray(picture(0)).save(path, "PNG")


def _text(sources: Sources, path: Path) -> None:
    path.write_text("This is no video.\n" * 40)


def _html(sources: Sources, path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n")


def _zip(sources: Sources, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(sources.mp4, "video.mp4")


def _sqlite(sources: Sources, path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("create table videos (id text)")
    connection.close()


def _random(sources: Sources, path: Path) -> None:
    path.write_bytes(rng_for(0, "damage", "noise").bytes(1 << 16))


def _ftyp(sources: Sources, path: Path) -> None:
    path.write_bytes(sources.mp4.read_bytes()[:32])


def _sound(path: Path, *, codec: str, cover: bool = False) -> None:
    """A second of a tone, optionally with a cover picture."""
    with av.open(str(path), "w", format="mp3" if codec == "mp3" else "mp4") as container:
        stream: Any = container.add_stream(codec, rate=16000)
        stream.codec_context.layout = "mono"
        art: Any = None
        if cover:
            art = container.add_stream("png" if codec == "mp3" else "mjpeg", rate=1)
            art.width, art.height, art.pix_fmt = 96, 64, "rgb24" if codec == "mp3" else "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
        tone = (0.1 * np.sin(np.arange(16384) * 0.1)).astype(np.float32)[None]
        size = stream.codec_context.frame_size or 1152
        packets = []
        for start in range(0, tone.shape[1] - size + 1, size):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, start : start + size]), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if art is not None:
            image = av.VideoFrame.from_ndarray(picture(0), format="rgb24")
            image.pts, image.time_base = 0, Fraction(1, 1)
            container.mux([*art.encode(image), *art.encode(None)])
        container.mux(packets)


def _mp3(sources: Sources, path: Path) -> None:
    _sound(path, codec="mp3")


def _subtitles(sources: Sources, path: Path) -> None:
    path.write_text("1\n00:00:00,000 --> 00:00:02,000\nHello.\n\n")


OTHER_FILES: Mapping[str, Make] = {
    "jpeg.mp4": _jpeg,
    "png.avi": _png,
    "mp3.mp4": _mp3,
    "text.mp4": _text,
    "html.mp4": _html,
    "zip.mp4": _zip,
    "sqlite.mp4": _sqlite,
    "noise.mkv": _random,
    "only_ftyp.mp4": _ftyp,
}

WITHOUT_PICTURES: Mapping[str, Make] = {
    "audio.m4v": lambda sources, path: _sound(path, codec="aac"),
    "cover.m4v": lambda sources, path: _sound(path, codec="aac", cover=True),
    "cover_mp3.mp4": lambda sources, path: _sound(path, codec="mp3", cover=True),
    "no_frame.mp4": lambda sources, path: VIDEO_KINDS["zero_frames"].make(path),
    "subtitles.mkv": _subtitles,
}


# Playlists: each names the canary beside it, or a socket that listens


def _playlist(text: str) -> Make:
    def make(sources: Sources, path: Path) -> None:
        port_file = path.with_name(CANARY_PORT_FILE)
        port = port_file.read_text() if port_file.exists() else "9"
        canary = path.with_name(CANARY)
        if not canary.exists():
            write_video(canary, num_frames=8, options={"crf": "20", "preset": "veryfast"})
        path.write_text(text.format(canary=CANARY, absolute=canary, port=port))

    return make


PLAYLISTS: Mapping[str, Make] = {
    "m3u8.mp4": _playlist("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{canary}\n#EXT-X-ENDLIST\n"),
    "m3u8.m3u8": _playlist("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nfile:{absolute}\n#EXT-X-ENDLIST\n"),
    "m3u8_network.mp4": _playlist(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n"
    ),
    "ffconcat.mp4": _playlist("ffconcat version 1.0\nfile {canary}\n"),
    "ffconcat.ffconcat": _playlist("ffconcat version 1.0\nfile {canary}\n"),
    "sdp.mp4": _playlist("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"),
    "sdp.sdp": _playlist("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"),
    "dash.mp4": _playlist(
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        'mimeType="video/mp2t"><Representation id="1" bandwidth="1"><BaseURL>{canary}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>\n"
    ),
    "xspf.mp4": _playlist(
        '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track>'
        "<location>{canary}</location></track></trackList></playlist>\n"
    ),
    "rtsp_text.mp4": _playlist("[Reference]\nRef1=rtsp://127.0.0.1:{port}/a\n"),
}


# The file system


def sound(sources: Sources, path: Path) -> None:
    """A sound file (until it is changed)."""
    path.write_bytes(sources.mp4.read_bytes())


def nothing(sources: Sources, path: Path) -> None:
    """An empty file."""
    path.touch()


def one_byte(sources: Sources, path: Path) -> None:
    """One byte."""
    path.write_bytes(b"\0")


def absent(sources: Sources, path: Path) -> None:
    """No file at all."""


def folder(sources: Sources, path: Path) -> None:
    """A folder with the name of a video."""
    path.mkdir()


def pipe(sources: Sources, path: Path) -> None:
    """A pipe without a writer."""
    os.mkfifo(path)


def device(sources: Sources, path: Path) -> None:
    """A link to an endless device."""
    path.symlink_to("/dev/zero")


def symlink_loop(sources: Sources, path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path.name)


def dangling(sources: Sources, path: Path) -> None:
    """A link to nowhere."""
    path.symlink_to("nowhere.mp4")


def forbidden(sources: Sources, path: Path) -> None:
    """A file without permissions."""
    sound(sources, path)
    path.chmod(0)


def sparse(sources: Sources, path: Path) -> None:
    """Ten gigabytes of nothing, which the file system need not store."""
    with path.open("wb") as file:
        file.truncate(10 * _GIGABYTE)


def vanish(path: Path) -> None:
    """The file disappears."""
    path.unlink()


def change(path: Path) -> None:
    """The file becomes another one of the same size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def become_a_pipe(path: Path) -> None:
    """The file disappears and a pipe takes its name."""
    path.unlink()
    os.mkfifo(path)


# Damage that only decoding finds


def overwrite_pictures(path: Path, *, first: int, num: int = 3, kept_bytes: int = 12) -> None:
    """Overwrite some pictures of an H.264 file that keeps its index and the heads of its packets.

    Without B-frames it opens with every picture in place, and raises where one of these is decoded.

    Args:
        path: The file, which is changed.
        first: First packet to overwrite, in decoding order; above 0, so that the file still opens.
        num: Number of packets.
        kept_bytes: Number of bytes that each packet keeps, among them its NAL unit's size and head.
    """
    with av.open(str(path)) as video:
        packets = [(packet.pos, packet.size) for packet in video.demux(video.streams.video[0]) if packet.size]
    data = bytearray(path.read_bytes())
    for start, size in packets[first : first + num]:
        assert start is not None, f"{path} does not say where its packets are"
        data[start + kept_bytes : start + size] = b"\xa5" * max(0, size - kept_bytes)
    path.write_bytes(data)
