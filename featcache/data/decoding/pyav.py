"""The default decoder: PyAV, frame-exact on every file it opens.

Frame ``i`` is the ``i``-th frame of a sequential decode of the whole file, in presentation order. How it is found
depends on how far the packets can be trusted:

* *indexed*: if each packet shows one frame and carries its presentation time (H.264, HEVC, VP9, AV1, MJPEG in MP4 or
  Matroska, every packet timed, the first a random access point), demuxing alone gives the timeline, and later frames
  are reached by seeking to a random access point: an IDR picture, or a key frame of a codec that has no other kind.
* *counted*: everything else (AVI, MPEG-4 packed bitstreams, missing or repeated timestamps, interlaced or cut streams)
  is decoded once to count the frames that really come out, and read from the beginning.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet  # noqa: TC002  generic for type checkers only, so the alias quotes it
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from featcache.data.decoding.access import is_random_access
from featcache.data.decoding.base import Decoder, check_indices
from featcache.data.decoding.faults import blame, check_readable
from featcache.data.decoding.heartbeat import beat
from featcache.data.decoding.memory import MAX_PIXELS
from featcache.data.decoding.pictures import pixel_aspect, to_rgb, transfer_of, turn_of
from featcache.data.decoding.shown import num_shown
from featcache.data.decoding.timestamps import duration_seconds, presentation_seconds, stated_step_seconds
from featcache.data.decoding.work import spend
from featcache.data.types import Timeline
from featcache.errors import VideoError

# Containers that store a presentation time for each packet, and codecs whose packets each show one frame.
_TIMED_CONTAINERS = {"mov", "mp4", "matroska", "webm"}
_INDEXED_CONTAINERS = {"mov", "mp4"}  # and those whose index says how many packets there should be
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1", "mjpeg"}
_PROGRESSIVE = (0, 1)  # AV_FIELD_UNKNOWN, AV_FIELD_PROGRESSIVE
# Formats that may be opened: containers and streams of moving pictures. Everything else is refused before its first
# byte is interpreted: playlists (hls, dash, concat, sdp, imf), which would open other files or the network, formats
# that open the files beside them (image2, vobsub, mlv), pictures, texts and sound.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,asf_o,flv,live_flv,kux,mpeg,mpegts,mpegvideo,ogg,rm,mxf,gxf,nut,nuv,"
    "nsv,dv,wtv,pva,dhav,lmlm4,vivo,swf,ty,r3d,m4v,h261,h263,h264,hevc,vvc,evc,av1,obu,ivf,vc1,vc1test,avs2,avs3,"
    "cavsvideo,dirac,dnxhd,mjpeg,mjpeg_2000,yuv4mpegpipe,gif,apng,bink,smk,film_cpk,flic,roq,ea,4xm,thp,xmv,cine"
)
# A seek flushes the decoder's reordering delay; skipping fewer frames than this gains nothing.
_SEEK_GAIN_FRAMES = 8
# Counted streams keep their decoded (YUV) frames up to this size, so that a short clip is decoded once, not twice.
_KEEP_BYTES = 64 << 20

VideoPacket: TypeAlias = "Packet[VideoStream]"
Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Access:
    """A packet from which decoding may start: the frame it shows, and the timestamp by which a seek is checked."""

    index: int
    pts: int


class PyAVReader:
    """A :class:`~featcache.data.decoding.base.VideoReader` over PyAV.

    Args:
        path: The file.
        threads: Decoder threads; 1 leaves the parallelism to worker processes.

    Raises:
        VideoError: ``missing`` or ``undecodable``, with the reason.
        OSError: The machine failed, not the video.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._path = path
        self._threads = threads
        self._container: InputContainer | None = None
        self._reformatter: VideoReformatter | None = None  # created on first use, since one created before a fork hangs
        self._access: tuple[_Access, ...] = ()
        self._position: dict[int, int] | None = None  # pts -> index of an indexed stream, None for a counted one
        self._kept: list[VideoFrame] | None = None
        self._frames: Iterator[tuple[int, VideoFrame]] = iter(())
        self._last: tuple[int, VideoFrame] | None = None
        self._sought = False
        check_readable(path)
        try:
            self._open()
            self._codec = self._stream.codec_context.codec.canonical_name  # the decoder's name depends on the build
            indexed = self._demux()
            if indexed is not None:
                self._position = {at: index for index, at in enumerate(indexed)}
            counted = self._count() if indexed is None else []
            first = self._frame(0)
            self._size, self._turn = (first.width, first.height), turn_of(first)
            self._timeline = self._time(indexed or counted, first)
        except BaseException:
            self.close()
            raise

    @property
    def timeline(self) -> Timeline:
        """Timestamps and size of the frames that decode."""
        return self._timeline

    @property
    def codec(self) -> str:
        """Codec name, e.g. ``h264``."""
        return self._codec

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        """Yield ``(index, frame)`` for strictly increasing ``indices``; frames are uint8 RGB [H, W, 3].

        Raises:
            VideoError: ``undecodable``, naming the frame.
            ValueError: ``indices`` are negative or not strictly increasing.
        """
        for index in check_indices(indices, num_frames=self._timeline.num_frames):
            yield index, self._pixels(index, self._frame(index))

    def close(self) -> None:
        """Release the file and the decoder."""
        self._frames, self._last, self._kept = iter(()), None, None
        if self._container is not None:
            self._container.close()
            self._container = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Opening

    def _open(self) -> None:
        """Open the file at its beginning."""
        self.close()
        try:
            self._container = av.open(
                f"file:{self._path}",  # a name such as 12:30.mp4 is not a protocol
                metadata_errors="ignore",  # metadata that is not UTF-8 must not prevent reading the pictures
                container_options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
            )
            self._stream = _best_stream(self._container)
            _check_size(self._stream)
        except av.error.ArgumentError as error:  # FFmpeg's error for a format that may not be opened
            what = "cannot be opened as a video (damaged, or another kind of file, such as a picture or a playlist)"
            raise blame(self._path, error, what) from error
        except (av.error.FFmpegError, OSError) as error:
            raise blame(self._path, error, "cannot be opened as a video") from error
        self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self._stream.codec_context.thread_count = self._threads
        self._stream.codec_context.thread_type = "AUTO" if self._threads > 1 else "NONE"
        for other in self._container.streams:
            if other.index != self._stream.index:
                other.discard = Discard.all

    def _demux(self) -> list[int] | None:
        """Sorted pts of an indexed stream, or ``None``; leaves the file at its end."""
        assert self._container is not None
        context, containers = self._stream.codec_context, set(self._container.format.name.split(","))
        if not containers & _TIMED_CONTAINERS:
            return None
        trusted = self._codec in _ONE_FRAME_A_PACKET and context.field_order in _PROGRESSIVE
        extradata = bytes(context.extradata or b"")
        shown: list[int | None] = []
        access: list[int | None] = []
        num_packets = 0
        for packet in self._packets():
            beat()
            num_packets += packet.size > 0
            if packet.size == 0 or packet.is_discard:
                continue
            trusted = trusted and num_shown(self._codec, memoryview(packet)) == 1
            if packet.is_keyframe and is_random_access(self._codec, memoryview(packet), extradata=extradata):
                access.append(packet.pts)
            shown.append(packet.pts)
        if containers & _INDEXED_CONTAINERS and num_packets < (num_promised := self._num_promised(num_packets)):
            raise VideoError(
                "undecodable", f"the file breaks off after {num_packets} of {num_promised} pictures; copy it again"
            )
        pts = sorted(at for at in shown if at is not None)
        timed = len(pts) == len(set(pts)) == len(shown) > 0
        # A stream that begins in the middle: it is unknown how many frames the decoder drops there.
        if not (trusted and timed and access and access[0] == shown[0] == pts[0]):
            return None
        starts = set(access)
        self._access = tuple(_Access(index, at) for index, at in enumerate(pts) if at in starts)
        return pts

    def _num_promised(self, num_packets: int) -> int:
        """Number of pictures in the container's index; entries without bytes only fill a place in time."""
        entries = self._stream.index_entries
        if len(entries) <= num_packets:  # none can be missing, so the entries need not be checked
            return len(entries)
        return sum(entry.size > 0 for entry in entries)

    def _count(self) -> list[int | None]:
        """Pts of every frame of a counted stream, in presentation order, by decoding everything once."""
        pts: list[int | None] = []
        kept: list[VideoFrame] = []
        room = _KEEP_BYTES
        self._rewind()
        for _, frame in self._frames:
            pts.append(frame.pts)
            room -= sum(plane.buffer_size for plane in frame.planes)
            if room >= 0:
                kept.append(frame)
            else:
                kept.clear()
        if not pts:
            raise VideoError("undecodable", "it has a video stream, but no frame of it decodes")
        self._kept = kept or None
        return pts

    def _time(self, pts: Sequence[int | None], first: VideoFrame) -> Timeline:
        """The timeline for ``pts`` in presentation order."""
        base = self._stream.time_base or Fraction(1)
        step = stated_step_seconds(
            self._stream.average_rate,
            duration_ticks=first.duration or 0,
            guessed_rate=self._stream.guessed_rate,
            time_base=base,
        )
        times = presentation_seconds([None if at is None else float(at * base) for at in pts], step_seconds=step)
        width, height = self._turn.size(*self._size)
        return Timeline(
            pts_seconds=times,
            duration_seconds=duration_seconds(times, step_seconds=step),
            height=height,
            width=width,
            pixel_aspect=pixel_aspect(self._stream.sample_aspect_ratio, self._turn),
            transfer=transfer_of(first),
        )

    # Reading

    def _packets(self) -> Iterator[VideoPacket]:
        """Packets of the stream, the flushing one last; a packet that the end of the file truncates is left out."""
        assert self._container is not None, "the reader is closed"
        held: VideoPacket | None = None
        try:
            for packet in self._container.demux(self._stream):
                flushes = packet.size == 0 and packet.pts is None and packet.dts is None
                if packet.size == 0 and not flushes:
                    continue  # an empty chunk repeats the frame before it and decodes to nothing
                if held is not None and not (flushes and held.is_corrupt):
                    yield held
                held = packet
        except av.error.FFmpegError as error:
            raise blame(self._path, error, "the file breaks off") from error
        if held is not None:
            yield held

    def _decode(self, packets: Iterator[VideoPacket]) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their index, in presentation order."""
        count = 0
        for packet in packets:
            beat()
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                after = self._last[0] if self._last is not None else count - 1
                place = f"decoding fails after frame {after}" if after >= 0 else "decoding fails at frame 0"
                raise blame(self._path, error, place) from error
            for frame in frames:
                spend(frame.width * frame.height)
                if self._position is None:
                    yield count, frame
                    count += 1
                elif (index := self._position.get(frame.pts)) is not None:  # type: ignore[arg-type]
                    yield index, frame
                else:
                    raise VideoError("undecodable", f"a frame at pts {frame.pts} decodes that no packet announced")

    def _rewind(self) -> None:
        """Decode from the beginning of the file."""
        kept = self._kept
        self._open()
        self._kept = kept
        self._frames, self._sought = self._decode(self._packets()), False

    def _seek(self, access: _Access) -> None:
        """Decode from a random access point, or from the beginning if the container does not lead there."""
        assert self._container is not None, "the reader is closed"
        try:
            self._container.seek(access.pts, stream=self._stream)
        except av.error.FFmpegError:
            return self._rewind()
        packets = self._packets()
        first = next(packets, None)
        if first is None or first.is_discard or first.pts != access.pts:
            return self._rewind()
        self._last = None
        self._frames, self._sought = self._decode(chain([first], packets)), access.index > 0
        return None

    def _frame(self, index: int) -> VideoFrame:
        """Decode frame ``index``, starting at the decoder's position, a random access point or the beginning."""
        if self._kept is not None:
            return self._kept[index]
        done = -1 if self._last is None else self._last[0]
        if self._last is not None and index == done:
            return self._last[1]
        access = next((point for point in reversed(self._access) if point.index <= index), None)
        if access is not None and (index < done or access.index - done > _SEEK_GAIN_FRAMES or done < 0):
            self._seek(access)
        elif index < done or done < 0:
            self._rewind()
        frame = self._advance(index)
        if frame is None and self._sought:  # in doubt, decode everything
            self._rewind()
            frame = self._advance(index)
        if frame is None:
            raise VideoError("undecodable", f"frame {index} does not decode")
        return frame

    def _advance(self, index: int) -> VideoFrame | None:
        """Decode up to frame ``index``; ``None`` if the decoder skips it."""
        try:
            for at, frame in self._frames:
                self._last = (at, frame)
                if at >= index:
                    return frame if at == index else None
        except (VideoError, OSError):
            self._last = None  # the next requested frame begins anew
            raise
        return None

    def _pixels(self, index: int, frame: VideoFrame) -> Frames:
        """Uint8 RGB [H, W, 3] of the first frame's size, turned as the container asks."""
        if frame.is_corrupt:
            raise VideoError("undecodable", f"frame {index} is damaged")
        if self._reformatter is None:
            self._reformatter = VideoReformatter()
        return np.ascontiguousarray(self._turn.apply(to_rgb(frame, self._reformatter, size=self._size)))


def _best_stream(container: InputContainer) -> VideoStream:
    """The video stream to read: FFmpeg's choice, but never the cover art of an audio file."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
        only = f", only {' and '.join(kinds)}" if kinds else ""
        raise VideoError("undecodable", f"it has no video stream{only}")
    best = container.streams.best("video")
    stream = next((stream for stream in streams if best is not None and stream.index == best.index), streams[0])
    if stream.codec_context is None:
        raise VideoError("undecodable", "this FFmpeg has no decoder for its video stream")
    return stream


def _check_size(stream: VideoStream) -> None:
    """Refuse pictures larger than any camera's, before a frame is allocated."""
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(
            "undecodable",
            f"its header claims pictures of {stream.width}x{stream.height}, more than {MAX_PIXELS} pixels",
        )


def open_pyav(path: Path) -> PyAVReader:
    """Open a video with PyAV and one decoder thread."""
    return PyAVReader(path)


DECODER = Decoder(
    open=open_pyav,
    exact=True,
    note="Every frame equals sequential decoding; where timestamps cannot be trusted frames are counted.",
)
