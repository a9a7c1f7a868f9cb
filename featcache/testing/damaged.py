"""The corpus of damaged videos: files built by rules from sound ones, each with its expected outcome.

The expected outcome follows from rules, never from the behaviour of a decoder:

* An MP4 is usable as a whole or not at all: its index gives the number of pictures, so a truncated one is
  ``undecodable``, wherever the index is (except for a cut through the tags at its very end, which removes no picture).
* AVI, Matroska and WebM are streams: the part before the cut is a shorter video, ``ok`` with exactly the pictures whose
  packets are complete, and ``undecodable`` if there are none. (Nothing in such a file says that more was there; the
  content hash in the manifest does.)
* Flipped and zeroed bytes are judged by the decoder: ``ok`` or ``undecodable``, never anything else.
* A file that is not a video, or needs more memory than any video, is ``undecodable``; an unreadable file is
  ``missing``; a file that differs from the scanned one is ``changed``.

The files are in :mod:`featcache.testing.damaged_files`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from featcache.data.types import Status
from featcache.testing import damaged_files as files
from featcache.testing.sound import Make, Sources
from featcache.testing.videos import Picture, picture, write_video

PERCENTAGES = (1, *range(5, 100, 5), 99)
NUM_FLIPS = 4

Expected = Callable[["Sources"], tuple[frozenset[Status], int | None]]


def write_sources(folder: Path, *, pictures: Sequence[Picture] | None = None) -> Sources:
    """Encode the sound videos.

    Args:
        folder: Output folder, which must exist.
        pictures: uint8 RGB [H, W, 3] each, H and W even, of a real clip; ``None``: 24 pictures of a photograph.
    """
    pictures = [picture(index) for index in range(24)] if pictures is None else pictures
    h264 = {"crf": "20", "preset": "veryfast", "bf": "0", "g": "8"}
    vp9 = {"g": "8", "cpu-used": "8", "deadline": "realtime", "lag-in-frames": "0", "auto-alt-ref": "0"}
    sources = Sources(
        mp4=folder / "sound.mp4",
        faststart=folder / "sound_faststart.mp4",
        avi=folder / "sound.avi",
        mkv=folder / "sound.mkv",
        webm=folder / "sound.webm",
        num_frames=len(pictures),
    )
    write_video(sources.mp4, options=h264, pictures=pictures)
    write_video(sources.faststart, options=h264, pictures=pictures, container_options={"movflags": "faststart"})
    write_video(sources.avi, codec="mpeg4", options={"g": "8", "q": "4"}, pictures=pictures)
    write_video(sources.mkv, options=h264, pictures=pictures)
    write_video(sources.webm, codec="libvpx-vp9", options=vp9, pictures=pictures)
    return sources


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedCase:
    """One damaged file.

    Attributes:
        name: File name, unique; of the form ``<kind>-<detail><suffix>``.
        make: Function that writes the file.
        expected: Accepted statuses, each with the number of frames for ``ok`` (``None``: any).
        is_quick: Whether it belongs to the subset that runs with every test run.
        after_scan: Change to the file between scan and extraction.
    """

    name: str
    make: Make
    expected: Expected
    is_quick: bool = False
    after_scan: Callable[[Path], None] | None = None

    @property
    def kind(self) -> str:
        """The group in which it is reported."""
        return self.name.partition("-")[0]


# Expected outcomes


def exactly(status: Status, *, num_frames: int | None = None) -> Expected:
    """Exactly one status."""
    return lambda sources: (frozenset({status}), num_frames)


def whole(sources: Sources) -> tuple[frozenset[Status], int | None]:
    """No important part is damaged: ``ok`` with every frame."""
    return frozenset({"ok"}), sources.num_frames


def judged(sources: Sources) -> tuple[frozenset[Status], int | None]:
    """Left to the decoder."""
    return frozenset({"ok", "undecodable"}), None


def whole_or_nothing(container: str, *, percent: int) -> Expected:
    """``undecodable``, unless the cut removes only what follows pictures and index (tags)."""

    def expected(sources: Sources) -> tuple[frozenset[Status], int | None]:
        path = getattr(sources, container)
        is_whole = files.cut_at(path, percent=percent) >= files.end_of_pictures(path)
        return whole(sources) if is_whole else (frozenset({"undecodable"}), None)

    return expected


def shorter(container: str, *, percent: int) -> Expected:
    """``ok`` with the complete frames of a truncated stream; ``undecodable`` if it has none."""

    def expected(sources: Sources) -> tuple[frozenset[Status], int | None]:
        path = getattr(sources, container)
        data, end = path.read_bytes(), files.cut_at(path, percent=percent)
        with av.open(str(path)) as video:
            packets = [packet for packet in video.demux(video.streams.video[0]) if packet.size]
            # A packet's position is that of its block, whose head comes before the picture.
            left = sum(data.find(bytes(packet), packet.pos or 0) + packet.size <= end for packet in packets)
        return frozenset({"ok" if left else "undecodable"}), left or None

    return expected


# The cases


def _truncations() -> list[DamagedCase]:
    cases = []
    for container in ("mp4", "faststart", "avi", "mkv", "webm"):
        suffix = ".mp4" if container == "faststart" else f".{container}"
        for percent in PERCENTAGES:
            is_mp4 = container in ("mp4", "faststart")
            cases.append(
                DamagedCase(
                    name=f"cut_{container}-{percent:02d}{suffix}",
                    make=files.cut(container, percent=percent),
                    expected=(whole_or_nothing if is_mp4 else shorter)(container, percent=percent),
                    is_quick=percent in (5, 50, 99),
                )
            )
    return cases


def _flips() -> list[DamagedCase]:
    return [
        DamagedCase(
            name=f"flipped_{container}-{part}_{number}.{container}",
            make=files.flip(container, part=part, seed=number),
            expected=judged,
            is_quick=number == 0 and container in ("mp4", "avi"),
        )
        for container in ("mp4", "avi", "mkv")
        for part in ("header", "payload", "index")
        for number in range(NUM_FLIPS)
    ] + [
        DamagedCase(
            name=f"zeroed_{container}-{percent:02d}.{container}",
            make=files.zero(container, percent=percent),
            expected=judged,
            is_quick=percent == 50 and container == "mp4",
        )
        for container in ("mp4", "avi", "mkv")
        for percent in (0, 20, 50, 80, 95)
    ]


def _refused(group: str, makers: Mapping[str, Make], *, is_quick: bool = True) -> list[DamagedCase]:
    return [
        DamagedCase(name=f"{group}-{name}", make=make, expected=exactly("undecodable"), is_quick=is_quick)
        for name, make in makers.items()
    ]


def _headers() -> list[DamagedCase]:
    return [
        DamagedCase(name=f"header-{name}", make=make, expected=expected, is_quick=True)
        for name, (make, expected) in {
            "track_size_2_to_31.mp4": (files.atom_u32("tkhd", {76: 2**31, 80: 2**31}), whole),
            "sample_size_65535.mp4": (files.atom_u32("avc1", {24: 0xFFFFFFFF}), judged),
            "bitmap_2_to_31.avi": (files.bitmap_size, judged),
            "pixels_2_to_31.mkv": (files.matroska_size, judged),
            "picture_65500.avi": (files.giant_jpeg, exactly("undecodable")),
            "raw_30000.y4m": (files.giant_raw, exactly("undecodable")),
            "duration_2_to_32.mp4": (files.atom_u32("mdhd", {16: 0xFFFFFFFE}), judged),
            "movie_duration.mp4": (files.atom_u32("mvhd", {16: 0xFFFFFFFE}), judged),
            "time_scale_0.mp4": (files.atom_u32("mdhd", {12: 0}), judged),
            "frame_lasts_2_to_31.mp4": (files.atom_u32("stts", {12: 2**31 - 1}), judged),
            "samples_2_to_31.mp4": (files.atom_u32("stsz", {8: 2**31 - 1}), exactly("undecodable")),
            "samples_of_one_byte.mp4": (files.one_byte_samples, exactly("undecodable")),
            "times_2_to_31.mp4": (files.atom_u32("stts", {8: 2**31 - 1}), judged),
            "chunks_2_to_31.mp4": (files.atom_u32("stco", {4: 2**31 - 1}), judged),
            "edits_2_to_31.mp4": (files.atom_u32("elst", {4: 2**31 - 1}), judged),
            "index_says_2_to_32_bytes.mp4": (files.atom_size("moov", 0xFFFFFFFF), judged),
            "index_says_4_bytes.mp4": (files.atom_size("moov", 4), judged),
            "index_to_the_end.mp4": (files.atom_size("moov", 0), judged),
            "data_says_2_to_32_bytes.mp4": (files.atom_size("mdat", 0xFFFFFFFF), judged),
            "giant_free.mp4": (files.giant_free, whole),
            "giant_index.mp4": (files.giant_index, judged),
            "nested_10000.mp4": (files.nested, exactly("undecodable")),
        }.items()
    ]


def _timestamps() -> list[DamagedCase]:
    return [
        DamagedCase(name=f"times-{name}", make=make, expected=expected, is_quick=True)
        for name, (make, expected) in {
            "negative.mp4": (files.timed(lambda index: index - 1000), judged),  # its edit list shows no frame
            "late.mkv": (files.timed(lambda index: index + 10**6), whole),
            "far_apart.mkv": (files.timed(lambda index: index * 10**5), whole),
            "duplicate.mkv": (files.retimed(lambda index: index // 2), whole),
            "unsorted.mkv": (files.retimed(lambda index: index ^ 1), judged),
            "all_zero.mkv": (files.retimed(lambda index: 0), whole),
            "no_key_frame.mkv": (files.without_start, judged),
            "other_size_midway.h264": (files.two_sizes, exactly("ok", num_frames=24)),
        }.items()
    ]


def _file_system() -> list[DamagedCase]:
    listed: tuple[tuple[str, Make, Status, Callable[[Path], None] | None], ...] = (
        ("zero_bytes.mp4", files.nothing, "undecodable", None),
        ("one_byte.mp4", files.one_byte, "undecodable", None),
        ("folder.mp4", files.folder, "undecodable", None),
        ("pipe.mp4", files.pipe, "undecodable", None),
        ("device.mp4", files.device, "undecodable", None),
        ("loop.mp4", files.symlink_loop, "missing", None),
        ("dangling.mp4", files.dangling, "missing", None),
        ("absent.mp4", files.absent, "missing", None),
        ("forbidden.mp4", files.forbidden, "missing", None),
        (f"{'long' * 75}.mp4", files.absent, "missing", None),
        ("vanishes.mp4", files.sound, "missing", files.vanish),
        ("changes.mp4", files.sound, "changed", files.change),
        ("becomes_a_pipe.mp4", files.sound, "changed", files.become_a_pipe),
    )
    return [
        DamagedCase(name=f"file-{name}", make=make, expected=exactly(status), is_quick=True, after_scan=after)
        for name, make, status, after in listed
        if make is not files.forbidden or os.geteuid() != 0  # root may read everything
    ]


def cases() -> list[DamagedCase]:
    """Every case, in a fixed order; names are unique."""
    listed = [
        *_truncations(),
        *_flips(),
        *_refused("wrong_suffix", files.OTHER_FILES),
        *_refused("playlist", files.PLAYLISTS),
        *_refused("no_pictures", files.WITHOUT_PICTURES),
        *_headers(),
        *_timestamps(),
        *_file_system(),
        DamagedCase(
            name="one_frame-whole.mp4", make=files.one_frame, expected=exactly("ok", num_frames=1), is_quick=True
        ),
        DamagedCase(name=f"long_name-{'x' * 240}.mp4", make=files.sound, expected=whole, is_quick=True),
        DamagedCase(name="sparse-ten_gigabytes.mp4", make=files.sparse, expected=exactly("undecodable")),
    ]
    assert len({case.name for case in listed}) == len(listed), "two cases of one name"
    return listed


def other_pictures(path: Path, sources: Sources, *, num_frames: int) -> int:
    """Number of first frames of a truncated stream that are missing or differ from the sound one's, decoded by PyAV."""
    sound = {"avi": sources.avi, "mkv": sources.mkv, "webm": sources.webm}[path.suffix[1:]]
    with av.open(str(path)) as cut, av.open(str(sound)) as reference:
        pairs = zip(cut.decode(video=0), reference.decode(video=0), strict=False)
        num_same = sum(
            np.array_equal(one.to_ndarray(format="rgb24"), other.to_ndarray(format="rgb24"))
            for _, (one, other) in zip(range(num_frames), pairs, strict=False)
        )
    return num_frames - num_same
