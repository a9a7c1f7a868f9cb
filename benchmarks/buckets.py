"""Stores in a bucket against round trips and against a disk.

The bucket is that of a local server of the S3 protocol (moto's) in a process of its own, behind a proxy that answers
each request 20 ms after it has arrived. Read: 512 scattered rows of 768 float16, out of stores of different sizes,
with nothing kept on the local disk, and again with what is. A round trip is one request for one row. The goal is 3
round trips. Since the server takes its time on the same cores, the gather is also timed without latency and with one
of half a second: `waits` is what a second of latency adds, in seconds, and so the number of answers that are waited
for one after the other. Written: the same extraction into a folder and into the bucket, in turn. The goal is 1.1.

    uv run python benchmarks/buckets.py --clips 64
"""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from common import median, parser, report

from featcache.data.motion import MotionSettings, make_motion_set
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.files.objects import Objects, Span
from featcache.store.reader import open_store
from featcache.store.stretches import Stretches
from featcache.testing.s3_server import s3_server
from featcache.testing.stores import StorePlan, make_record, write_store

ROWS, WIDTH, LATENCY = 512, 768, 0.02
LONG = 0.5  # seconds


def serve(connection: Connection) -> None:
    """Run the server until told to end."""
    with s3_server() as server:
        server.make_bucket("lab")
        connection.send(server.environment)
        while (latency := connection.recv()) is not None:
            server.latency = latency
            connection.send(None)


@contextmanager
def served() -> Iterator[Connection]:
    """The server in a process of its own; what is sent sets its latency."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    os.environ.update(ours.recv())
    try:
        yield ours
    finally:
        ours.send(None)
        process.join()


def slow_down(server: Connection, latency: float) -> None:
    """Set the latency of the proxy."""
    server.send(latency)
    server.recv()


def seconds(call: Any) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def read(server: Connection, *, num_rows: int, repeats: int, cache: Path) -> dict[str, Any]:
    """Time a gather of rows of a store of that many."""
    url = f"s3://lab/rows-{num_rows}"
    plan = StorePlan(
        records={"pooled": make_record((WIDTH,))}, num_videos=num_rows // 32, rows_per_video=(32,), shard_rows=4096
    )
    slow_down(server, 0.0)
    write_store(url, plan)  # type: ignore[arg-type]
    slow_down(server, LATENCY)
    objects, whole = Objects(url), open_store(url).feature("pooled")
    name, num_bytes = whole._index.files[0].name, whole._index.files[0].num_bytes
    one_row = [Span(name, 0, 2 * WIDTH, num_bytes)]
    trip, cold, kept = [], [], []
    others: dict[float, list[float]] = {0.0: [], LONG: []}
    for repeat in range(repeats + 1):
        rows = np.random.default_rng(repeat).integers(num_rows, size=ROWS)
        shutil.rmtree(cache, ignore_errors=True)
        trip.append(seconds(lambda: objects.fetch(one_row)))
        with open_store(url).feature("pooled") as features:
            cold.append(seconds(lambda: features.gather(rows)))  # noqa: B023
        with open_store(url).feature("pooled") as features:  # a process that begins
            kept.append(seconds(lambda: features.gather(rows)))  # noqa: B023
        for latency, times in others.items():
            slow_down(server, latency)
            shutil.rmtree(cache, ignore_errors=True)
            with open_store(url).feature("pooled") as features:
                times.append(seconds(lambda: features.gather(rows)))  # noqa: B023
        slow_down(server, LATENCY)
    stretches = Stretches(whole._index)
    needed = stretches.num_bytes[np.unique(stretches.of(rows))]
    round_trip = median(trip[1:])
    return {
        "what": f"{ROWS} of {num_rows} rows",
        "stretches": len(needed),
        "MB": round(int(needed.sum()) / 1e6, 1),
        "round trip ms": round(1e3 * round_trip, 1),
        "gather ms": round(1e3 * median(cold[1:]), 1),
        "round trips": round(median(cold[1:]) / round_trip, 2),
        "without latency, ms": round(1e3 * median(others[0.0][1:]), 1),
        "waits": round((median(others[LONG][1:]) - median(others[0.0][1:])) / LONG, 2),
        "kept, ms": round(1e3 * median(kept[1:]), 1),
    }


def written(server: Connection, *, clips: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Time the same extraction into a folder and into the bucket."""
    made = MotionSettings(
        size=128,
        num_unseen_pictures=14,
        train_per_picture_motion=-(-clips // 64),
        test_seen_per_picture_motion=0,
        test_unseen_per_picture_motion=0,
    )
    listing = make_motion_set(folder / "clips", made)
    slow_down(server, LATENCY)
    sides: dict[str, list[float]] = {"disk": [], "bucket": []}
    shards = 0
    for repeat in range(repeats + 1):
        for side in list(sides)[:: 1 if repeat % 2 else -1]:
            out = str(folder / f"store-{repeat}") if side == "disk" else f"s3://lab/store-{repeat}"
            settings = ExtractSettings(
                source=str(listing),
                out=out,
                features=(FeatureSettings(name="pooled", backbone="timm/tf_efficientnet_lite0", weights="random"),),
                sampling=SamplingSettings(num_clips=4, num_frames=8),
                runtime=RuntimeSettings(device="cpu"),
                disk_fraction=1.0,
            )
            sides[side].append(seconds(lambda: extract(settings)))  # noqa: B023
            shards = open_store(out).generations[0].num_shards
    disk, bucket = (median(sides[side][1:]) for side in ("disk", "bucket"))
    pairs = [there / here for here, there in zip(sides["disk"][1:], sides["bucket"][1:], strict=True)]
    return {
        "what": f"extraction, {shards} shards",
        "disk s": round(disk, 2),
        "bucket s": round(bucket, 2),
        "bucket / disk": round(median(pairs), 3),
    }


def main() -> None:
    """Measure both and print them."""
    options = parser(__doc__)
    options.add_argument("--clips", type=int, default=64, help="clips to extract, rounded up to 64; 0: none")
    options.add_argument("--rows", type=int, nargs="*", default=[4096, 16384, 65536], help="sizes of the stores")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name, served() as server:
        folder = Path(name)
        os.environ["FEATCACHE_CACHE"] = str(folder / "cache")
        rows = [read(server, num_rows=n, repeats=args.repeats, cache=folder / "cache") for n in args.rows]
        if rows:
            report("buckets: rows", rows, as_json=args.json)
        if args.clips:
            pair = written(server, clips=args.clips, repeats=args.repeats, folder=folder)
            report("buckets: extraction", [pair], as_json=args.json, notes=[f"{1e3 * LATENCY:g} ms a request"])


if __name__ == "__main__":
    main()
