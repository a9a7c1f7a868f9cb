"""Conformance suite of decoders: requirements for every decoder and every kind of video.

A package that offers a decoder runs the whole suite on it with::

    from featcache.testing.decoders import DecoderTests

    class TestMine(DecoderTests):
        names = ("my-decoder",)

Each check takes a registry name, a kind of :data:`~featcache.testing.videos.VIDEO_KINDS` and a file of that kind, and
raises ``AssertionError`` with a readable message.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from featcache.data.decoding import DECODERS, open_video
from featcache.errors import VideoError
from featcache.testing.videos import VIDEO_KINDS, Picture, VideoKind, sequential_frames

# Kinds of video on which optional decoders are known to return wrong frames, or none. The suite asserts that they still
# do: when a release fixes one, the entry and the warnings in doctor and docs/decoding.md have to go.
INEXACT: Mapping[str, frozenset[str]] = {
    "decord": frozenset(
        {
            *("open_gop", "hevc_open_gop", "intra_refresh", "cut_stream", "mirrored"),
            *("h264_in_avi", "h264_transport_stream"),
            *("mpeg4_b_frames", "mpeg4_b_frames_mp4", "mpeg4_packed", "mpeg2_program_stream"),
        }
    ),
    "torchcodec": frozenset(
        {
            *("intra_refresh", "cut_stream", "mirrored", "h264_in_avi", "h264_transport_stream"),
            *("mpeg4_b_frames", "mpeg4_packed", "mpeg2_program_stream"),
        }
    ),
}

# Files that they refuse to open with an error.
_RAW = frozenset({"h264_raw", "resized"})
UNREADABLE: Mapping[str, frozenset[str]] = {"decord": _RAW, "torchcodec": _RAW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A decoder under test.

    Attributes:
        name: Registry name.
        inexact: Kinds of video for which it is known to return wrong frames, or none.
        unreadable: Kinds of video that it refuses to open with an error.
    """

    name: str
    inexact: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()


def right_frames(decoder: Subject, kind: VideoKind, path: Path) -> None:
    """Frames are those of sequential decoding, in whatever order they are requested.

    A decoder that claims to be exact must agree to the bit. Others may round colours differently: their frame must be
    closer to the right one than to any other.
    """
    if not _readable(decoder, kind):
        return
    wrong = wrong_frames(decoder.name, path, turned=kind.turned)
    known = kind.name in decoder.inexact
    if DECODERS.load(decoder.name).exact:
        assert not known, f"decoder {decoder.name!r} says that it is exact, but is listed as inexact on {kind.name}"
    assert bool(wrong) == known, (
        f"decoder {decoder.name!r} is listed as inexact on {kind.name} but is right now: remove it from that list"
        if known
        else f"decoder {decoder.name!r} gives wrong frames on {kind.name}: {wrong}"
    )


def honest_timeline(decoder: Subject, kind: VideoKind, path: Path) -> None:
    """Timestamps increase, there is one per frame, and the size is that of the frames as shown."""
    if not _readable(decoder, kind):
        return
    with open_video(path, decoder=decoder.name) as reader:
        timeline = reader.timeline
        assert reader.codec, "the codec has no name"
    assert timeline.pts_seconds.dtype == np.float64, f"timestamps are {timeline.pts_seconds.dtype}"
    assert (np.diff(timeline.pts_seconds) > 0).all(), "timestamps do not increase strictly"
    assert timeline.duration_seconds > timeline.pts_seconds[-1] - timeline.pts_seconds[0], "the last frame has no time"
    if kind.num_frames is not None:
        assert timeline.num_frames == kind.num_frames, f"{timeline.num_frames} frames instead of {kind.num_frames}"
    shape = kind.turned(sequential_frames(path)[0]).shape[:2]
    assert (timeline.height, timeline.width) == shape, f"{timeline.height}x{timeline.width} instead of {shape}"


def clear_failures(decoder: Subject, kind: VideoKind, path: Path) -> None:
    """An unusable video gets its expected status with a reason."""
    if _readable(decoder, kind):
        return
    status = "undecodable" if kind.status == "ok" else kind.status
    error = _failure(decoder.name, path)
    assert error is not None, f"decoder {decoder.name!r} reads {kind.name} as if nothing were wrong"
    assert error.status == status, f"{kind.name} is {error.status} instead of {status}"
    if DECODERS.load(decoder.name).exact:  # other libraries have their own messages
        assert kind.reason in error.reason, f"{kind.name}: {error.reason!r} does not mention {kind.reason!r}"


def strict_indices(decoder: Subject, kind: VideoKind, path: Path) -> None:
    """Indices out of order are refused, an index beyond the end is a failure of the video, and none gives none."""
    if not _readable(decoder, kind):
        return
    with open_video(path, decoder=decoder.name) as reader:
        assert list(reader.read([])) == [], "frames for no indices"
        for indices in ([0, 0], [-1], [1, 0]):
            try:
                list(reader.read(indices))
            except ValueError:
                continue
            raise AssertionError(f"indices {indices} are accepted")
    beyond = _failure(decoder.name, path, start=reader.timeline.num_frames)
    assert beyond is not None, "a frame beyond the end is given"
    assert beyond.status == "undecodable", beyond.status


Check = Callable[[Subject, VideoKind, Path], None]
CHECKS: tuple[Check, ...] = (
    right_frames,
    honest_timeline,
    clear_failures,
    strict_indices,
)


def wrong_frames(
    name: str, path: Path, *, turned: Callable[[Picture], Picture] = lambda picture: picture
) -> list[tuple[str, int]]:
    """Frames of ``path`` that a decoder gets wrong, as (access pattern, index).

    Args:
        name: Name of the decoder.
        path: A video that decodes.
        turned: Transformation with which its frames are shown.
    """
    reference = [turned(frame) for frame in sequential_frames(path)]
    exact = DECODERS.load(name).exact
    wrong: list[tuple[str, int]] = []
    for how, indices in access_patterns(_num_frames(path)).items():
        try:
            with open_video(path, decoder=name) as reader:
                # Twice with one reader: frames must not depend on earlier reads.
                for part in (indices, indices[len(indices) // 2 :]):
                    for index, frame in reader.read(part):
                        if not _is_right(frame, index, reference, exact=exact):
                            wrong.append((how, index))
        except VideoError as error:
            wrong.append((f"{how}: {error.reason}", indices[0]))
    return wrong


def access_patterns(num_frames: int) -> dict[str, list[int]]:
    """Access patterns: everything, steps, far apart, each group's end, one late frame."""
    rng = np.random.default_rng(0)
    scattered = np.sort(rng.choice(num_frames, size=max(1, num_frames // 6), replace=False))
    return {
        "all": list(range(num_frames)),
        "every fifth": list(range(0, num_frames, 5)),
        "second half": list(range(num_frames // 2, num_frames)),
        "scattered": [int(index) for index in scattered],
        "around key frames": sorted({at for key in (12, 24, 36) for at in (key - 1, key, key + 1) if at < num_frames}),
        "last": [num_frames - 1],
    }


def _readable(decoder: Subject, kind: VideoKind) -> bool:
    return kind.status == "ok" and kind.name not in decoder.unreadable


def _failure(name: str, path: Path, *, start: int = 0) -> VideoError | None:
    """The outcome of reading everything (or one frame from ``start`` on)."""
    try:
        with open_video(path, decoder=name) as reader:
            for _ in reader.read(range(start, max(reader.timeline.num_frames, start + 1))):
                pass
    except VideoError as error:
        return error
    return None


def _num_frames(path: Path) -> int:
    with open_video(path) as reader:
        return reader.timeline.num_frames


def _is_right(frame: Picture, index: int, reference: Sequence[Picture], *, exact: bool) -> bool:
    if exact:
        return np.array_equal(frame, reference[index])
    if frame.shape != reference[index].shape:
        return False
    distances = [float(np.abs(frame.astype(np.int16) - other).mean()) for other in reference]
    return int(np.argmin(distances)) == index or distances[index] == min(distances)


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="featcache-videos-")


@cache
def _video(kind: str) -> Path:
    return VIDEO_KINDS[kind].write(Path(_folder().name))


class DecoderTests:
    """Test class of pytest for some decoders; inherit from it and name them.

    Attributes:
        names: Registry names.
        inexact: Kinds of video by name; see :class:`Subject`.
        unreadable: Kinds of video by name; see :class:`Subject`.
    """

    names: Sequence[str] = ()
    inexact: Mapping[str, frozenset[str]] = {}
    unreadable: Mapping[str, frozenset[str]] = {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test for each check, decoder and kind of video."""
        metafunc.parametrize("kind", list(VIDEO_KINDS))
        metafunc.parametrize("name", self.names)
        metafunc.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])

    def test_conforms(self, name: str, kind: str, check: Check) -> None:
        """The decoder passes the check."""
        nothing: frozenset[str] = frozenset()
        subject = Subject(
            name=name, inexact=self.inexact.get(name, nothing), unreadable=self.unreadable.get(name, nothing)
        )
        check(subject, VIDEO_KINDS[kind], _video(kind))
