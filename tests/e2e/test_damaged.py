"""The corpus of damaged videos, scanned and extracted in one source with sound ones."""

import ctypes
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.data.decoding import open_video
from featcache.data.manifest import Manifest, write_parquet
from featcache.data.scan import scan
from featcache.extract.result import Extraction
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.store.verify import verify
from featcache.testing.damaged import DamagedCase, cases, other_pictures, write_sources
from featcache.testing.damaged_files import CANARY, CANARY_PORT_FILE
from featcache.testing.sound import Sources
from featcache.testing.videos import write_video

ALL = cases()
QUICK = [case for case in ALL if case.is_quick]
PEAK_BYTES = 1 << 30
_IN_OPEN = 0x20


class Watch:
    """Tells whether a file was opened (Linux's inotify)."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        assert self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN) >= 0

    def was_opened(self) -> bool:
        try:
            return bool(os.read(self._descriptor, 4096))
        except BlockingIOError:
            return False


@dataclass(frozen=True, kw_only=True)
class Run:
    """What became of a corpus.

    Attributes:
        cases: The damaged files.
        sources: What they were made from.
        folder: Where they are.
        scanned: The manifest.
        result: The extraction of them and of the sound ones.
        rows: Features of each video that has some.
        alone: Features of the sound ones in a store of their own.
        canary_was_opened: Whether the file that the playlists name was opened.
        canary_was_called: Whether the socket that they name was connected to.
    """

    cases: list[DamagedCase]
    sources: Sources
    folder: Path
    scanned: Manifest
    result: Extraction
    rows: dict[str, np.ndarray]
    alone: dict[str, np.ndarray]
    canary_was_opened: bool
    canary_was_called: bool


def settings(source: Path, out: Path) -> ExtractSettings:
    return ExtractSettings(
        source=str(source),
        out=str(out),
        features=(FeatureSettings(name="f", backbone="timm/tf_efficientnet_lite0", weights="random", input_size=32),),
        sampling=SamplingSettings(num_clips=2, num_frames=2, frame_stride=3),
        runtime=RuntimeSettings(device="cpu", threads=1, encode_batch=4, deadline_seconds=60),
        shard_rows=16,
    )


def rows_of(store: str) -> dict[str, np.ndarray]:
    features = featcache.open(store).feature("f")
    return {video: features.video(video) for video in features.video_ids}


def run(root: Path, chosen: list[DamagedCase], *, pictures: list[np.ndarray] | None = None) -> Run:
    """Write, scan, meddle, extract."""
    folder, sound = root / "videos", root / "sound"
    folder.mkdir()
    sound.mkdir()
    sources = write_sources(sound, pictures=pictures)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        (folder / CANARY_PORT_FILE).write_text(str(server.getsockname()[1]))
        write_video(folder / CANARY, num_frames=4)
        for case in chosen:
            case.make(sources, folder / case.name)
        canary = Watch(folder / CANARY)
        # A sound video after every tenth damaged one, of each container in turn.
        kinds = [sources.mp4, sources.avi, sources.mkv, sources.webm]
        names = []
        for number, case in enumerate(chosen):
            names.append(case.name)
            if number % 10 == 0:
                path = folder / f"{case.name[:30]}~sound{number}{kinds[number // 10 % 4].suffix}"
                path.write_bytes(kinds[number // 10 % 4].read_bytes())
                names.append(path.name)
        listing = folder / "all.jsonl"
        listing.write_text("".join(json.dumps({"path": name}) + "\n" for name in names))
        scanned = scan(listing)
        write_parquet(scanned, root / "all.parquet")
        for case in chosen:
            if case.after_scan is not None:
                case.after_scan(folder / case.name)
        result = extract(settings(root / "all.parquet", root / "store"))
        try:
            server.accept()
            was_called = True
        except BlockingIOError:
            was_called = False
    was_opened = canary.was_opened()
    (folder / CANARY).read_bytes()
    assert canary.was_opened(), "the watch does not watch"
    healthy = [name for name in names if "~sound" in name]
    listing.write_text("".join(json.dumps({"path": name}) + "\n" for name in healthy))
    alone = extract(settings(listing, root / "alone"))
    assert alone.videos_ok == len(healthy)
    return Run(
        cases=chosen,
        sources=sources,
        folder=folder,
        scanned=scanned,
        result=result,
        rows=rows_of(result.store),
        alone=rows_of(alone.store),
        canary_was_opened=was_opened,
        canary_was_called=was_called,
    )


def check(done: Run) -> None:
    """Unaccounted 0, neighbours harmed 0, every status as the rules say, nothing else opened."""
    result = done.result
    assert result.videos_ok + result.videos_failed == result.videos_total == len(done.scanned)
    assert result.videos_pending == 0
    assert verify(result.store).problems == []
    assert not done.canary_was_opened
    assert not done.canary_was_called
    for video, wanted in done.alone.items():
        np.testing.assert_array_equal(done.rows[video], wanted, err_msg=video)
    statuses = {video: (status, reason) for video, status, reason in result.failures}
    scanned = {video.id: video for video in done.scanned.videos}
    wrong = []
    for case in done.cases:
        status, reason = statuses.get(case.name, ("ok", ""))
        allowed, num_frames = case.expected(done.sources)
        is_right = status in allowed
        if status == "ok":
            is_right &= num_frames is None or scanned[case.name].num_frames == num_frames
            is_right &= case.name in done.rows and case.name not in statuses
        else:
            is_right &= bool(reason) and "\n" not in reason and case.name not in done.rows
        if not is_right:
            wrong.append((case.name, status, reason, scanned[case.name].num_frames, sorted(allowed), num_frames))
    assert wrong == []


def test_there_are_many_cases():
    assert len(ALL) >= 200
    assert len(QUICK) >= 60
    assert min(Counter(case.kind for case in ALL if case.kind.startswith("cut")).values()) == 21


def test_damaged_videos_cost_nobody_but_themselves(tmp_path):
    check(run(tmp_path, QUICK))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return run(tmp_path_factory.mktemp("damaged"), ALL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_corpus(everything):
    check(everything)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_left_of_a_cut_stream_is_what_it_was(everything):
    cut = [video for video in everything.scanned.videos if video.id.startswith(("cut_avi", "cut_mkv"))]
    left = [video for video in cut if video.status == "ok" and "~sound" not in video.id]
    assert len(left) > 20
    for video in left:
        path = everything.folder / video.id
        assert other_pictures(path, everything.sources, num_frames=video.num_frames) == 0, video.id


SCAN = """
import resource, sys
from pathlib import Path
from featcache.data.scan import scan
scan(Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_no_header_makes_a_decoder_swell(tmp_path):
    """Peak memory of the decoding processes, libraries included, over all headers that lie."""
    sources = write_sources(tmp_path)
    lying = [case for case in ALL if case.kind in ("header", "times", "flipped_mp4", "flipped_mkv")]
    for case in lying:
        case.make(sources, tmp_path / case.name)
    listing = tmp_path / "lying.jsonl"
    listing.write_text("".join(json.dumps({"path": case.name}) + "\n" for case in lying))
    done = subprocess.run([sys.executable, "-c", SCAN, listing], capture_output=True, text=True, check=True)
    assert int(done.stdout) < PEAK_BYTES


REAL = ("ucf101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi", "kinetics400/abseiling/abseiling_k400.mp4")


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("clip", REAL)
def test_the_whole_corpus_of_a_real_clip(shared, tmp_path, clip):
    with open_video(shared / "data" / "videos" / clip) as reader:
        pictures = [frame[:240:2, :320:2].copy() for _, frame in reader.read(range(0, 60, 2))]
    check(run(tmp_path, [case for case in ALL if "ten_gigabytes" not in case.name], pictures=pictures))
