"""Extraction against its lower bound, decoding alone plus the forward passes alone, for the same clips, in one run.

The goal is extract <= 1.15 x (decode alone + forward alone) on CPU.

    uv run python benchmarks/extract.py --videos 64 --size 320 --frames 48
"""

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from common import median, parser, report

from featcache.data.decoding.clips import RowBatch
from featcache.data.decoding.pool import Payload, WorkerPool
from featcache.data.manifest import read_parquet, write_parquet
from featcache.data.motion import MotionSettings, make_motion_set
from featcache.data.scan import scan
from featcache.extract.encode import encode_rows
from featcache.extract.jobs import SegmentJob, decode_segment
from featcache.extract.lacking import rows_per_video
from featcache.extract.prepare import Prepared, prepare
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.machine import forward_threads, keep_freed_memory


def main() -> None:
    """Time the three in turn and print their ratio."""
    options = parser(__doc__)
    options.add_argument("--videos", type=int, default=64)
    options.add_argument("--size", type=int, default=320, help="side of the square clips")
    options.add_argument("--frames", type=int, default=48, help="frames per clip")
    options.add_argument("--backbone", default="timm/tf_efficientnet_lite0")
    options.add_argument("--weights", default="default")
    options.add_argument("--device", default="cpu")
    options.add_argument("--layout", default="clips", choices=["clips", "frames"])
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listing = make_motion_set(
            folder / "videos",
            MotionSettings(
                size=args.size,
                num_frames=args.frames,
                num_unseen_pictures=14,
                train_per_picture_motion=max(1, args.videos // 64),
                test_seen_per_picture_motion=0,
                test_unseen_per_picture_motion=0,
            ),
        )
        listing.write_text("".join(line + "\n" for line in listing.read_text().splitlines()[: args.videos]))
        started = time.perf_counter()
        write_parquet(scan(listing), folder / "videos.parquet")
        scan_seconds = time.perf_counter() - started
        settings = ExtractSettings(
            source=str(folder / "videos.parquet"),
            out=str(folder / "store"),
            features=(FeatureSettings(backbone=args.backbone, weights=args.weights),),
            sampling=SamplingSettings(layout=args.layout),
            runtime=RuntimeSettings(device=args.device),
        )
        seconds: dict[str, list[float]] = {"decode alone": [], "forward alone": [], "extract": []}
        for _ in range(args.repeats):
            prepared = prepare(settings)
            decode_seconds, batches = time_decoding(prepared)
            seconds["decode alone"].append(decode_seconds)
            seconds["forward alone"].append(time_forward(prepared, batches))
            shutil.rmtree(settings.out, ignore_errors=True)
            started = time.perf_counter()
            result = extract(settings)
            seconds["extract"].append(time.perf_counter() - started)
        floors = [a + b for a, b in zip(seconds["decode alone"], seconds["forward alone"], strict=True)]
        ratio = median([a / b for a, b in zip(seconds["extract"], floors, strict=True)])
        rows = [{"what": what, "seconds": median(values)} for what, values in seconds.items()]
        rows.append({"what": "extract / (decode + forward)", "seconds": ratio})
        notes = [
            f"{args.videos} videos, {args.frames} frames, {args.size} px, {result.rows_written} rows, {args.backbone}",
            "extract is the whole call: backbone built, workers started, shards written",
            f"the scan (hashes, frame counts), not included: {scan_seconds:.2f} s",
            f"bottleneck named by the run: {result.bottleneck}",
        ]
        report("extract", rows, as_json=args.json, notes=notes)


def time_decoding(prepared: Prepared) -> tuple[float, list[RowBatch]]:
    """Decode all rows in one warm worker process and keep them."""
    manifest = read_parquet(Path(prepared.settings.source))
    counts = rows_per_video(manifest.videos, prepared.sampling)
    jobs = [
        SegmentJob(
            path=str(manifest.path_of(video)),
            video=video,
            sampling=prepared.sampling,
            first_clip=0,
            num_rows=count,
            sizes=tuple(dict.fromkeys(feature.crop for feature in prepared.features)),
        )
        for video, count in zip(manifest.videos, counts, strict=True)
    ]
    with WorkerPool(decode_segment, num_workers=prepared.decode_workers) as pool:
        list(pool.run(jobs[:1]))  # start the worker
        started = time.perf_counter()
        events = [event.value for event in pool.run(jobs) if isinstance(event, Payload)]
        seconds = time.perf_counter() - started
    return seconds, [value for value in events if isinstance(value, RowBatch)]


def time_forward(prepared: Prepared, batches: list[RowBatch]) -> float:
    """Encode the decoded rows, batch after batch, as the engine does."""
    sizes = {feature.crop for feature in prepared.features}
    pixels = {size: np.concatenate([batch.pixels[size] for batch in batches]) for size in sizes}
    num_rows = sum(len(batch.rows) for batch in batches)

    def encode(start: int) -> None:
        part = {size: values[start : start + prepared.encode_batch] for size, values in pixels.items()}
        encode_rows(prepared.features, part, encode_batch=prepared.encode_batch, device=prepared.device)

    keep_freed_memory(prepared.device)
    with forward_threads(prepared.threads):
        encode(0)  # warm up
        started = time.perf_counter()
        for start in range(0, num_rows, prepared.encode_batch):
            encode(start)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
