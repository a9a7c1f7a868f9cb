"""CPU time of reading frames: the PyAV reader against plain PyAV and the optional decoders, and memory over many opens.

    python benchmarks/decode.py [VIDEO ...] [--opens 300] [--json]

Without VIDEO, two videos are generated: 320x240 and 1280x720, H.264 with B-frames and a key frame every 4 seconds.
Every decoder uses one thread. `wrong` counts frames that are not the requested ones.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from common import median, parser, report

from featcache.data.decoding import available, open_video
from featcache.testing.videos import write_video

Frames = dict[int, np.ndarray]


def reader(decoder: str) -> Callable[[Path, Sequence[int]], Frames]:
    """Frames through featcache."""

    def read(path: Path, indices: Sequence[int]) -> Frames:
        with open_video(path, decoder=decoder) as video:
            return {index: frame.copy() for index, frame in video.read(indices)}

    return read


def plain_pyav(path: Path, indices: Sequence[int]) -> Frames:
    """Decode from the beginning and convert with ``to_ndarray``, as most code does."""
    wanted, frames = set(indices), {}
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                frames[index] = frame.to_ndarray(format="rgb24")
                if len(frames) == len(wanted):
                    break
    return frames


def opencv(path: Path, indices: Sequence[int]) -> Frames:
    """OpenCV, which grabs every frame and retrieves the requested ones."""
    import cv2

    cv2.setNumThreads(1)
    wanted, frames = set(indices), {}
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    for index in range(max(wanted) + 1):
        if not capture.grab():
            break
        if index in wanted:
            frames[index] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    capture.release()
    return frames


def sides() -> dict[str, Callable[[Path, Sequence[int]], Frames]]:
    """The readers that are installed."""
    found = {"featcache pyav": reader("pyav"), "plain pyav": plain_pyav}
    found |= {f"featcache {name}": reader(name) for name in ("decord", "torchcodec") if available(name) is None}
    if importlib.util.find_spec("cv2"):
        found["opencv"] = opencv
    return found


def patterns(num_frames: int) -> dict[str, list[int]]:
    """Frame indices that extractions request."""
    starts = np.linspace(0, max(num_frames - 32, 0), 8).astype(int)
    clips = {int(start + step) for start in starts for step in range(0, 32, 4)}
    return {
        "8 clips of 8": sorted(index for index in clips if index < num_frames),
        "16 uniform": sorted({int(index) for index in np.linspace(0, num_frames - 1, 16)}),
        "2 far apart": [num_frames // 3, num_frames - 1],
    }


def wrong(frames: Frames, reference: Frames) -> int:
    """Number of frames that look more like another frame than like the requested one."""
    count = 0
    for index, frame in reference.items():
        given = frames.get(index)
        if given is None or given.shape != frame.shape:
            count += 1
            continue
        distances = {at: float(np.abs(given.astype(np.int16) - other).mean()) for at, other in reference.items()}
        count += distances[index] > min(distances.values())
    return count


def compare(path: Path, *, repeats: int) -> list[dict[str, object]]:
    """One row per pattern and reader; CPU milliseconds, medians of interleaved runs."""
    with open_video(path) as video:
        timeline = video.timeline
    rows: list[dict[str, object]] = []
    for pattern, indices in patterns(timeline.num_frames).items():
        seconds: dict[str, list[float]] = {name: [] for name in sides()}
        frames: dict[str, Frames] = {}
        for _ in range(repeats):
            for name, read in sides().items():
                start = time.process_time()
                frames[name] = read(path, indices)
                seconds[name].append(time.process_time() - start)
        base = median(seconds["featcache pyav"])
        rows += [
            {
                "video": f"{path.stem} {timeline.width}x{timeline.height}",
                "frames": pattern,
                "decoder": name,
                "cpu_ms": round(median(taken) * 1000, 2),
                "ratio": round(median(taken) / base, 2),
                "wrong": wrong(frames[name], frames["plain pyav"]),
            }
            for name, taken in seconds.items()
        ]
    return rows


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def watch_memory(path: Path, *, opens: int) -> list[dict[str, object]]:
    """Resident memory while one process opens a video repeatedly."""
    rows: list[dict[str, object]] = []
    for count in range(1, opens + 1):
        with open_video(path) as video:
            for _ in video.read(range(0, video.timeline.num_frames, 16)):
                pass
        if count in {1, 10, opens // 2, opens}:
            rows.append({"opens": count, "resident_mb": round(resident_bytes() / 1e6, 1)})
    return rows


def main() -> None:
    """Run and print."""
    arguments = parser(__doc__)
    arguments.add_argument("videos", nargs="*", type=Path)
    arguments.add_argument("--opens", type=int, default=300)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = list(options.videos)
        for width, height in () if videos else ((320, 240), (1280, 720)):
            path = Path(folder) / f"{height}p.mp4"
            settings = {"bf": "3", "g": "96", "preset": "veryfast"}
            write_video(path, num_frames=240, options=settings, width=width, height=height)
            videos.append(path)
        memory = watch_memory(videos[0], opens=options.opens)  # first, before anything else is in memory
        rows = [row for path in videos for row in compare(path, repeats=options.repeats)]
    report("decode", rows, as_json=options.json, notes=[f"memory: {row}" for row in memory])


if __name__ == "__main__":
    main()
