"""Decoding videos of a bucket against those of a disk: seconds, requests and bytes per video.

    uv run python benchmarks/bucket_videos.py [--videos 16] [--latency 0.02] [--workers 1 4] [--json]

The bucket is on a local server of the S3 protocol, behind a proxy that waits before each answer. Each video is
decoded as in an extraction: checked against its hash, and a clip of 16 frames cropped and resized, in decoding
processes whose start is not counted. The server runs on the same cores, so the bucket's seconds are an upper bound.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import obstore
from common import median, parser, report
from obstore.store import S3Store

from featcache.data.decoding.clips import CropSize
from featcache.data.decoding.pool import Failed, WorkerPool
from featcache.data.manifest import Manifest
from featcache.data.scan import scan
from featcache.extract.jobs import SegmentJob, decode_segment
from featcache.extract.settings import SamplingSettings
from featcache.testing.s3_server import S3Server, s3_server
from featcache.testing.videos import write_video


def main() -> None:
    """Measure both places, interleaved."""
    options = parser(__doc__)
    options.add_argument("--videos", type=int, default=16)
    options.add_argument("--frames", type=int, default=250, help="frames per video")
    options.add_argument("--size", type=int, nargs=2, default=(340, 256), metavar=("WIDTH", "HEIGHT"))
    options.add_argument("--latency", type=float, default=0.02, help="seconds of each request")
    options.add_argument("--workers", type=int, nargs="+", default=[1, 4], help="decoding processes")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server() as server:
        folder = Path(name)
        write_video(folder / "0.mp4", num_frames=args.frames, width=args.size[0], height=args.size[1])
        for number in range(1, args.videos):
            shutil.copy(folder / "0.mp4", folder / f"{number}.mp4")
        server.make_bucket("videos")
        store = S3Store("videos", endpoint=server.direct, client_options={"allow_http": True})
        for path in folder.iterdir():
            obstore.put(store, path.name, path.read_bytes())
        manifest = scan(folder)
        server.latency = args.latency
        rows = [row for workers in args.workers for row in measured(manifest, server, workers, args.repeats)]
    note = (
        f"{args.videos} videos of {manifest.videos[0].num_bytes / 1e6:.2f} MB, {1000 * args.latency:g} ms per request; "
        f"medians of {args.repeats}"
    )
    report("videos in a bucket", rows, as_json=args.json, notes=[note])


def measured(manifest: Manifest, server: S3Server, workers: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each place."""
    seconds: dict[str, list[float]] = {"disk": [], "bucket": []}
    num_bytes = sum(video.num_bytes for video in manifest.videos)
    sampling = SamplingSettings(num_clips=1).resolve(num_frames=16, frame_stride=4, crop_fraction=0.875)
    how = {"sampling": sampling, "first_clip": 0, "num_rows": 1, "sizes": (CropSize(224, "bicubic"),)}
    items = {
        place: [SegmentJob(path=f"{root}/{video.path}", video=video, **how) for video in manifest.videos]
        for place, root in {"disk": manifest.root, "bucket": Path("s3://videos")}.items()
    }
    with WorkerPool(decode_segment, num_workers=workers) as pool:
        for repeat in range(repeats + 1):  # the first is not counted: imports, connections
            for place in seconds:
                server.requests.clear()
                started = time.perf_counter()
                assert not any(isinstance(event, Failed) for event in pool.run(items[place]))
                if repeat:
                    seconds[place].append(time.perf_counter() - started)
    asked = len(server.requests)
    fetched = sum(answered(request.headers["range"], manifest.videos[0].num_bytes) for request in server.requests)
    rows = [
        {"place": place, "workers": workers, "ms a video": 1e3 * median(seconds[place]) / len(manifest)}
        for place in seconds
    ]
    rows[1] |= {"requests a video": asked / len(manifest), "bytes a byte": fetched / num_bytes}
    return rows


def answered(span: str, size: int) -> int:
    """Number of bytes that answer a range of a file."""
    first, last = span.removeprefix("bytes=").split("-")
    return min(int(last), size - 1) - int(first) + 1


if __name__ == "__main__":
    main()
