import errno
import hashlib
import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands import scan as scan_command
from featcache.commands.scan import ScanSettings
from featcache.data import kept as kept_module
from featcache.data import scan as scan_module
from featcache.data.decoding import open_video
from featcache.data.decoding.pool import WorkerPool
from featcache.data.manifest import read_parquet, write_parquet
from featcache.data.motion import MotionSettings, encode_clip
from featcache.data.scan import scan, scan_file
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError, FeatcacheError, ManifestError, UnknownNameError
from featcache.testing.damaged_files import overwrite_pictures
from featcache.testing.videos import VIDEO_KINDS, picture, write_video


def make_video(path: Path, *, num_frames: int = 10, size: int = 32, fps: int = 5, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (num_frames, size // 8, size // 8, 3), np.uint8)
    encode_clip(path, coarse.repeat(8, axis=1).repeat(8, axis=2), MotionSettings(size=size, fps=fps))
    return path


def make_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_frameless(path: Path) -> Path:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    return path


def final(path: Path) -> VideoRecord:
    """The last record that scanning one file in this process yields."""
    *_, record = scan_file(VideoRecord(id=path.name, path=path.name), path)
    return record


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two good videos in class folders, and one of each kind of bad one."""
    root = tmp_path_factory.mktemp("videos")
    make_video(root / "wave/good.mp4", num_frames=12, size=48, fps=6)
    make_video(root / "jump/gööd 'one'.mp4", num_frames=1, seed=1)
    whole = make_video(root / "whole.mp4", num_frames=20).read_bytes()
    (root / "moovless.mp4").write_bytes(whole[: len(whole) // 2])  # the index stands at the end of the file
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("this is no video\n" * 100)
    make_audio(root / "audio.mp4")
    make_frameless(root / "frameless.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / "dangling.mp4").symlink_to(root / "nowhere.mp4")
    (root / "loop.mp4").symlink_to("loop.mp4")
    return root


def test_the_clock_of_a_container_may_begin_late(tmp_path):
    path = tmp_path / "late.mkv"
    VIDEO_KINDS["late_start_matroska"].make(path)
    with open_video(path) as reader:
        first = float(reader.timeline.pts_seconds[0])
    assert first > 1
    assert final(path).start_seconds == first


def write_shown(path: Path, *, aspect: Fraction = Fraction(1), transfer: int = 1, quarter: bool = False) -> Path:
    """A video that is to be shown in some other way than as its pixels are stored."""
    with av.open(str(path), "w") as container:
        hdr = transfer != 1
        stream = container.add_stream("libx265" if hdr else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le" if hdr else "yuv420p"
        if hdr:
            stream.options = {"preset": "ultrafast", "x265-params": "log-level=none:pools=none"}
            stream.codec_context.color_primaries, stream.codec_context.colorspace = 9, 9
            stream.codec_context.color_trc = transfer
        stream.codec_context.sample_aspect_ratio = aspect
        for index in range(4):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if quarter:
        data = bytearray(path.read_bytes())
        turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
        at = data.index(b"tkhd") + 44
        data[at : at + 36] = turned
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "how", "pixel_aspect", "transfer"),
    [
        ("square.mp4", {}, 1.0, ""),
        ("narrow.mp4", {"aspect": Fraction(1, 2)}, 0.5, ""),
        ("narrow.mkv", {"aspect": Fraction(1, 2)}, 0.5, ""),
        ("dvd.mpg.mp4", {"aspect": Fraction(16, 11)}, 16 / 11, ""),
        ("turned.mp4", {"aspect": Fraction(1, 2), "quarter": True}, 2.0, ""),
        ("pq.mp4", {"transfer": 16}, 1.0, "pq"),
        ("hlg.mkv", {"transfer": 18}, 1.0, "hlg"),
        ("both.mp4", {"aspect": Fraction(4, 3), "transfer": 18}, 4 / 3, "hlg"),
    ],
)
def test_pixels_that_are_not_shown_as_stored_are_told(tmp_path, name, how, pixel_aspect, transfer):
    path = write_shown(tmp_path / name, **how)
    record = final(path)
    assert (record.pixel_aspect, record.transfer) == (pytest.approx(pixel_aspect, rel=1e-3), transfer)
    assert {record.width, record.height} == {96, 64}, "as stored"
    assert record.has_square_pixels == (pixel_aspect == 1)


def test_a_scan_counts_what_it_leaves_out_and_what_is_not_as_it_seems(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    write_shown(root / "narrow.mp4", aspect=Fraction(1, 2))
    write_shown(root / "square.mp4")
    (root / "renamed.mp4").write_bytes((root / "square.mp4").read_bytes())
    write_shown(root / "hdr.mp4", transfer=16)
    for name in ("noext", "x.part", ".dot", "a.gif"):
        (root / name).touch()
    summary = scan(root).summary()
    counts = ("num_not_square", "num_hdr", "num_same_content")
    assert [summary[name] for name in counts] == [1, 1, 1]
    assert summary["left_out"] == {"no suffix": 1, ".part": 1, "hidden": 1, ".gif": 1}


def test_good_videos_are_described_and_bad_ones_are_rows(folder: Path, tmp_path):
    steps: list[tuple[int, int]] = []
    manifest = scan(folder, progress=lambda done, total: steps.append((done, total)))
    videos = {video.id: video for video in manifest.videos}
    assert list(videos) == sorted(videos)
    assert steps == [(done, len(videos)) for done in range(1, len(videos) + 1)]

    good = videos["wave/good.mp4"]
    content = (folder / "wave/good.mp4").read_bytes()
    assert good == VideoRecord(
        id="wave/good.mp4",
        path="wave/good.mp4",
        num_bytes=len(content),
        content_hash=f"sha256:{hashlib.sha256(content).hexdigest()}",
        num_frames=12,
        fps=6.0,
        duration_seconds=2.0,
        height=48,
        width=48,
        codec="h264",
        labels={"label": "wave"},
    )
    assert videos["jump/gööd 'one'.mp4"].num_frames == 1
    assert manifest.count_by_status() == {
        "ok": 3,
        "missing": 2,
        "undecodable": 6,
        "too_short": 0,
        "timeout": 0,
        "changed": 0,
        "unreadable": 0,
    }
    assert {video.id for video in manifest.select(status="missing").videos} == {"dangling.mp4", "loop.mp4"}
    for video in manifest.videos:
        if video.status != "ok":
            assert video.reason
            assert video.num_frames == 0
        if video.status == "undecodable" and video.id != "pipe.mp4":
            assert video.content_hash == f"sha256:{hashlib.sha256((folder / video.path).read_bytes()).hexdigest()}"

    write_parquet(manifest, tmp_path / "manifest.parquet")
    assert read_parquet(tmp_path / "manifest.parquet") == manifest
    assert scan(tmp_path / "manifest.parquet", num_workers=1) == manifest


def test_a_listing_keeps_its_missing_files(folder: Path):
    listing = folder / "list.jsonl"
    rows = [
        {"path": "wave/good.mp4", "split": "train", "label.motion": "left"},
        {"path": "wave/gone.mp4", "split": "test", "label.motion": "right"},
        {"path": "x" * 5000, "id": "endless"},
    ]
    listing.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    manifest = scan(listing, num_workers=1)
    assert [(video.id, video.status) for video in manifest.videos] == [
        ("endless", "missing"),
        ("wave/gone.mp4", "missing"),
        ("wave/good.mp4", "ok"),
    ]
    gone = manifest.videos[1]
    assert (gone.labels, gone.split) == ({"motion": "right"}, "test")
    assert gone.reason == "it cannot be read (No such file or directory)"


def test_unusable_settings_are_refused_before_any_video_is_opened(folder: Path):
    with pytest.raises(UnknownNameError, match="did you mean 'pyav'"):
        scan(folder, decoder="pyaw")
    with pytest.raises(ConfigError, match="num_workers is 0"):
        scan(folder, num_workers=0)
    with pytest.raises(ManifestError):
        scan(folder / "nowhere")


def hanging_job(item: tuple[VideoRecord, Path, str]) -> Iterator[VideoRecord]:
    video, path, decoder, _ = item
    records = scan_file(video, path, decoder=decoder)
    yield next(records)
    if video.id.startswith("hang"):
        time.sleep(600)
    if video.id.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    yield from records


def failing_job(item: tuple[VideoRecord, Path, str]) -> Iterator[VideoRecord]:
    """What fails once leaves a mark beside the file, by which it is known the second time."""
    video, path, decoder, _ = item
    records = scan_file(video, path, decoder=decoder)
    yield next(records)
    name, once, _ = video.id.partition("_once")
    mark = path.with_suffix(".mark")
    if not (once and mark.exists()):
        mark.touch()
        match name.removesuffix(".mp4"):
            case "disk":
                raise OSError(errno.EIO, "Input/output error")
            case "descriptors":
                raise OSError(errno.EMFILE, "Too many open files")
            case "hang":
                time.sleep(600)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
    yield from records


def test_there_are_no_more_processes_than_videos(tmp_path, monkeypatch):
    started = []

    def pool(job, *, num_workers, **settings):
        started.append(num_workers)
        return WorkerPool(job, num_workers=num_workers, **settings)

    monkeypatch.setattr(scan_module, "WorkerPool", pool)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    listing = tmp_path / "list.jsonl"
    listing.write_text('{"path": "a.mp4"}\n{"path": "gone.mp4"}\n')
    assert [video.status for video in scan(listing, num_workers=3).videos] == ["undecodable", "missing"]
    listing.write_text('{"path": "a.mp4"}\n')
    scanned = scan(listing, num_workers=3)
    assert started == [2, 1]
    assert scan_module.scan_listed(scanned, num_workers=3) == scanned, "its only row says already what is wrong"
    assert started == [2, 1]


def test_a_hung_or_crashing_decoder_costs_one_row(tmp_path, monkeypatch):
    for name in ("hang.mp4", "crash.mp4", "good.mp4", "zood.mp4"):
        make_video(tmp_path / name)
    monkeypatch.setattr(scan_module, "_job", hanging_job)
    manifest = scan(tmp_path, deadline_seconds=1.0)
    videos = {video.id: video for video in manifest.videos}
    assert {name: video.status for name, video in videos.items()} == {
        "crash.mp4": "undecodable",
        "good.mp4": "ok",
        "hang.mp4": "timeout",
        "zood.mp4": "ok",
    }
    assert "crash" in videos["crash.mp4"].reason
    assert "1 seconds" in videos["hang.mp4"].reason
    for video in videos.values():
        assert video.content_hash.startswith("sha256:"), "what is known stays known"
        assert video.num_frames == (10 if video.status == "ok" else 0)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("descriptors", r"descriptors\.mp4 \(Too many open files\): the machine failed, not the video"),
        ("kill", r"killed at .*kill\.mp4 by signal 9 \(SIGKILL, .*\): the machine failed, not the video"),
    ],
)
def test_a_failing_machine_is_no_bad_video(tmp_path, monkeypatch, name, sentence):
    for video in ("a", name):
        make_video(tmp_path / f"{video}.mp4")
    monkeypatch.setattr(scan_module, "_job", failing_job)
    with pytest.raises(FeatcacheError, match=sentence):
        scan(tmp_path, num_workers=1)


def test_a_fault_that_may_pass_is_tried_once_more_at_the_end(tmp_path, monkeypatch):
    for name in ("disk", "disk_once", "good", "hang_once"):
        make_video(tmp_path / f"{name}.mp4")
    monkeypatch.setattr(scan_module, "_job", failing_job)
    steps: list[tuple[int, int]] = []
    manifest = scan(tmp_path, deadline_seconds=1.0, progress=lambda done, total: steps.append((done, total)))
    assert {video.id: (video.status, video.reason) for video in manifest.videos} == {
        "disk.mp4": ("unreadable", "reading it fails (Input/output error)"),
        "disk_once.mp4": ("ok", ""),
        "good.mp4": ("ok", ""),
        "hang_once.mp4": ("ok", ""),
    }
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    write_parquet(manifest, tmp_path / "manifest.parquet")
    assert read_parquet(tmp_path / "manifest.parquet") == manifest


def test_a_file_that_asks_for_too_much_work_is_a_row(tmp_path):
    """An AVI is counted, so all its frames are decoded; of an MP4 the first alone is."""
    black = av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")
    for name in ("long.avi", "short.avi", "long.mp4"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("mpeg4" if name.endswith("avi") else "libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
            for _ in range(4 if name == "short.avi" else 50):
                container.mux(stream.encode(black))
            container.mux(stream.encode())
    videos = {video.id: video for video in scan(tmp_path, num_workers=1, max_gigapixels=20 * 32 * 64 / 1e9).videos}
    assert {name: video.status for name, video in videos.items()} == {
        "long.avi": "undecodable",
        "long.mp4": "ok",
        "short.avi": "ok",
    }
    assert "takes more than 4.096e-05 gigapixels of frames; if it is sound, raise" in videos["long.avi"].reason


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT])
def test_a_file_that_vanishes_or_is_locked_while_it_is_read_is_missing(tmp_path, monkeypatch, code):
    path = make_video(tmp_path / "a.mp4")

    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    record = final(path)
    assert (record.status, record.reason) == ("missing", f"it cannot be read ({os.strerror(code)})")


def test_a_disk_error_while_hashing_is_raised(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4")

    def fail(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="Input/output error"):
        final(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_missing(tmp_path):
    path = make_video(tmp_path / "a.mp4")
    path.chmod(0)
    assert final(path).status == "missing"


@pytest.mark.shared
def test_shared_clips_are_described(shared: Path):
    manifest = scan(shared / "data/videos")
    assert manifest.count_by_status()["ok"] == len(manifest) == 17
    videos = {video.path.rsplit("/", 1)[1]: video for video in manifest.videos}
    cartwheel = videos["hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"]
    assert (cartwheel.num_frames, cartwheel.codec, cartwheel.labels["label"]) == (83, "mpeg4", "cartwheel")
    assert (videos["abseiling_k400.mp4"].num_frames, videos["abseiling_k400.mp4"].width) == (250, 454)


def damaged_files(folder: Path) -> list[str]:
    """Files that open and of which some frames do not decode."""
    folder.mkdir()
    for name in ("overwritten.mp4", "last.mp4", "noise.mp4", "sound.mp4"):
        write_video(folder / name, num_frames=24, options={"bf": "0", "g": "8"})
    overwrite_pictures(folder / "overwritten.mp4", first=9, num=1)
    overwrite_pictures(folder / "last.mp4", first=23, num=1)
    data = bytearray((folder / "noise.mp4").read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) * 2 // 5
    data[middle : middle + 300] = np.random.default_rng(0).integers(0, 256, 300, np.uint8).tobytes()
    (folder / "noise.mp4").write_bytes(data)
    write_video(folder / "cut.mkv", num_frames=24, options={"bf": "0"}, edit_packets=with_a_cut_packet)
    for name in ("unfinished.mp4", "unfinished.mkv"):  # a download that has reserved its place: the index, then zeros
        write_video(folder / name, num_frames=24, options={"bf": "0"}, container_options={"movflags": "faststart"})
        there = (folder / name).read_bytes()
        (folder / name).write_bytes(there[: len(there) * 6 // 10].ljust(len(there), b"\0"))
    return ["cut.mkv", "last.mp4", "noise.mp4", "overwritten.mp4", "unfinished.mkv", "unfinished.mp4"]


def with_a_cut_packet(packets):
    """Half of the bytes of one packet, as where a copy broke off and was padded."""
    packet = packets[11]
    half = av.Packet(bytes(packet)[:40])
    half.pts, half.dts, half.time_base, half.stream = packet.pts, packet.dts, packet.time_base, packet.stream
    packets[11] = half
    return packets


def test_decoding_finds_what_opening_does_not(tmp_path):
    names = damaged_files(tmp_path / "videos")
    plain, decoded = scan(tmp_path / "videos"), scan(tmp_path / "videos", decodes=True)
    assert {video.status for video in plain.videos} == {"ok"}
    found = {video.id: video for video in decoded.videos}
    assert [video.content_hash for video in decoded.videos] == [video.content_hash for video in plain.videos]
    assert [name for name, video in found.items() if video.status == "undecodable"] == names
    assert found["sound.mp4"] == next(video for video in plain.videos if video.id == "sound.mp4")
    for name in names:
        assert "damaged" in found[name].reason or "decoding fails after frame" in found[name].reason
        assert found[name].num_frames == 0
    assert (plain.is_decoded, decoded.is_decoded) == (False, True)
    assert plain.select(status="ok").is_decoded is False
    assert decoded.select(status="ok").is_decoded is True


def test_a_manifest_says_whether_every_frame_was_decoded(tmp_path):
    make_video(tmp_path / "videos/a.mp4")
    for decodes in (False, True):
        manifest = scan(tmp_path / "videos", decodes=decodes)
        write_parquet(manifest, tmp_path / "m.parquet")
        assert read_parquet(tmp_path / "m.parquet") == manifest
        assert read_parquet(tmp_path / "m.parquet").is_decoded is decodes
        assert manifest.summary()["is_decoded"] is decodes


def test_the_command_decodes_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    names = damaged_files(tmp_path / "videos")
    out = tmp_path / "videos.parquet"
    result = CliRunner().invoke(app, ["scan", str(tmp_path / "videos"), "--decode", "-o", str(out), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["is_decoded"], facts["status"]["undecodable"]) == (True, 6)
    assert [video.id for video in read_parquet(out).videos if video.status != "ok"] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos", "videos.parquet", "videos.yaml"]
    assert yaml.safe_load((tmp_path / "videos.yaml").read_text())["decode"] is True
    whole = out.read_bytes()
    out.unlink()
    opened = []

    def noting(listed, **options):
        if len(opened) == 1:
            raise KeyboardInterrupt
        opened.append(len(listed))
        return scan_module.scan_listed(listed, **options)

    monkeypatch.setattr(kept_module, "scan_listed", noting)
    monkeypatch.setattr(scan_command, "_DECODED_AT_ONCE", 2)
    settings = ScanSettings(source=str(tmp_path / "videos"), decode=True, out=str(out))
    with pytest.raises(KeyboardInterrupt):
        scan_command.scan(settings)
    assert not out.exists(), "half a manifest would be taken for a whole one"
    opened.clear()
    monkeypatch.setattr(kept_module, "scan_listed", scan_module.scan_listed)
    told = []
    scan_command.scan(settings, on_stage=lambda stage, done, total: told.append(done))
    assert told == [3, 4, 5, 6, 7], "two were kept"
    assert out.read_bytes() == whole
