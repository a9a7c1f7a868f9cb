"""Batches from a store: into fresh memory, into pinned memory, and through pinned memory onto the device.

The files are in the page cache and each block has been checked once. A batch on the device is timed until it is there.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import synchronise
from common import median

from featcache.store.features import Features
from featcache.store.reader import open_store
from featcache.testing.stores import StorePlan, make_record, write_store
from gpu_parts.bench import Bench


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The stored rows, and how they are read.

    Attributes:
        shape: Shape of a row, in float16.
        rows_per_video: Number of rows per video.
        num_videos: Number of videos.
        batch: Number of groups of rows in a batch, each from a random place.
        together: Number of consecutive rows per group: a clip of a frame bank.
    """

    shape: tuple[int, ...]
    rows_per_video: int
    num_videos: int
    batch: int
    together: int = 1


FULL = {
    "pooled, 512 rows of 1.5 KB": Workload(shape=(768,), rows_per_video=16, num_videos=2048, batch=512),
    "bank, 64 clips of 8 rows of 44 KB": Workload(
        shape=(7, 7, 448), rows_per_video=64, num_videos=64, batch=64, together=8
    ),
    "dense, 64 rows of 350 KB": Workload(shape=(14, 14, 896), rows_per_video=4, num_videos=128, batch=64),
}
SMALL = {
    "pooled, 64 rows": Workload(shape=(768,), rows_per_video=4, num_videos=64, batch=64),
    "bank, 4 clips of 8 rows": Workload(shape=(7, 7, 32), rows_per_video=16, num_videos=8, batch=4, together=8),
    "dense, 4 rows": Workload(shape=(14, 14, 64), rows_per_video=4, num_videos=8, batch=4),
}
SECONDS = 1.0
"""Seconds for which batches of one kind are read."""


def run(bench: Bench) -> None:
    """Measure three workloads in three ways each."""
    for number, (name, workload) in enumerate((SMALL if bench.is_small else FULL).items()):
        path = bench.folder / f"store{number}"
        bench.row(f"{name}: writing the store", partial(write, workload, path), needs=5.0)
        if not path.exists():
            continue
        features = open_store(path).feature()
        for step in range(0, features.num_rows, 1024):
            features.gather(np.arange(step, min(step + 1024, features.num_rows)))
        seconds = 0.2 if bench.is_small else SECONDS
        for way, make in WAYS.items():
            measure = partial(read, features, workload, make, device=bench.device, seconds=seconds)
            bench.row(f"{name}: to {way}", measure, needs=2 * seconds)


def write(workload: Workload, path: Path) -> dict[str, Any]:
    """Write random rows with the writer of extraction; generating them is included in the time."""
    plan = StorePlan(
        records={"features": make_record(workload.shape)}, rows_per_video=(workload.rows_per_video,),
        num_videos=workload.num_videos, shard_rows=4096,
    )  # fmt: skip
    began = time.perf_counter()
    write_store(path, plan)
    return {"result": f"{time.perf_counter() - began:.2g} s"}


Reader = Callable[[np.ndarray], object]


def fresh(features: Features, shape: tuple[int, ...], device: str) -> Reader:
    """Newly allocated memory."""
    return lambda rows: features.gather(rows)


def pinned(features: Features, shape: tuple[int, ...], device: str) -> Reader:
    """One reused block of pinned memory; ordinary memory if there is no GPU."""
    room = torch.empty(shape, dtype=torch.float16, pin_memory=device != "cpu")
    return lambda rows: features.gather(rows, out=room.numpy())


def there(features: Features, shape: tuple[int, ...], device: str) -> Reader:
    """Copy onto the device from pinned memory; the next batch waits until the copy is done."""
    room = torch.empty(shape, dtype=torch.float16, pin_memory=device != "cpu")
    target = torch.empty(shape, dtype=torch.float16, device=device)

    def read(rows: np.ndarray) -> None:
        features.gather(rows, out=room.numpy())
        target.copy_(room, non_blocking=True)
        synchronise(device)

    return read


WAYS: dict[str, Callable[[Features, tuple[int, ...], str], Reader]] = {
    "fresh memory": fresh,
    "pinned memory": pinned,
    "the device": there,
}


def read(
    features: Features,
    workload: Workload,
    make: Callable[[Features, tuple[int, ...], str], Reader],
    *,
    device: str,
    seconds: float,
) -> dict[str, Any]:
    """Bytes per second of shuffled batches, the median over them."""
    rng = np.random.default_rng(0)
    num_rows = workload.batch * workload.together
    reader = make(features, (num_rows, *workload.shape), device)
    reader(drawn(workload, rng))
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(times) < 3:
        rows = drawn(workload, rng)
        began = time.perf_counter()
        reader(rows)
        times.append(time.perf_counter() - began)
    num_bytes = num_rows * features.record.num_bytes
    speed = num_bytes / median(times) / 1e9
    note = f"{1e3 * median(times):.3g} ms per batch, {len(times)} batches"
    return {"result": f"{speed:.3g} GB/s", "bytes_per_second": 1e9 * speed, "note": note}


def drawn(workload: Workload, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of one shuffled batch, int64."""
    video = rng.integers(0, workload.num_videos, workload.batch) * workload.rows_per_video
    start = rng.integers(0, workload.rows_per_video - workload.together + 1, workload.batch)
    return ((video + start)[:, None] + np.arange(workload.together)).reshape(-1)
