"""Batches from a store: into fresh memory, into pinned memory, and through pinned memory onto the device.

The files are in the page cache and each block has been checked once, except in the rows named cold: there the page
cache is dropped, no block has been checked, and batches are read by many reads at a time (`device="disk"`). Rows of
int8 travel as they are stored and are multiplied by their scales on the device. A batch on the device is timed until it
is there.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import synchronise
from common import median
from torch import Tensor

from featcache.loaders.maps import StoredMaps
from featcache.recipes import Precision
from featcache.store.features import Features
from featcache.store.reader import open_store
from featcache.testing.stores import StorePlan, make_record, write_store
from gpu_parts.bench import Bench


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The stored rows, and how they are read.

    Attributes:
        shape: Shape of a row.
        rows_per_video: Number of rows per video.
        num_videos: Number of videos.
        batch: Number of groups of rows in a batch, each from a random place.
        together: Number of consecutive rows per group: a clip of a frame bank.
        precision: Dtype in the store.
    """

    shape: tuple[int, ...]
    rows_per_video: int
    num_videos: int
    batch: int
    together: int = 1
    precision: Precision = "float16"


FULL = {
    "pooled, 512 rows of 1.5 KB": Workload(shape=(768,), rows_per_video=16, num_videos=2048, batch=512),
    "bank, 64 clips of 8 rows of 44 KB": Workload(
        shape=(7, 7, 448), rows_per_video=64, num_videos=64, batch=64, together=8
    ),
    "dense, 64 rows of 350 KB": Workload(shape=(14, 14, 896), rows_per_video=4, num_videos=128, batch=64),
    "dense in int8, 64 rows of 176 KB": Workload(
        shape=(14, 14, 896), rows_per_video=4, num_videos=128, batch=64, precision="int8"
    ),
}
SMALL = {
    "pooled, 64 rows": Workload(shape=(768,), rows_per_video=4, num_videos=64, batch=64),
    "bank, 4 clips of 8 rows": Workload(shape=(7, 7, 32), rows_per_video=16, num_videos=8, batch=4, together=8),
    "dense, 4 rows": Workload(shape=(14, 14, 64), rows_per_video=4, num_videos=8, batch=4),
    "dense in int8, 4 rows": Workload(shape=(14, 14, 64), rows_per_video=4, num_videos=8, batch=4, precision="int8"),
}
SECONDS = 1.0
"""Seconds for which batches of one kind are read."""


def run(bench: Bench) -> None:
    """Measure each workload in each way."""
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
        cold = open_store(path).feature(device="disk")
        measure = partial(read, cold, workload, there, device=bench.device, seconds=seconds, drop=path)
        bench.row(f"{name}: cold, to the device", measure, needs=2 * seconds)


def write(workload: Workload, path: Path) -> dict[str, Any]:
    """Write random rows with the writer of extraction; generating them is included in the time."""
    plan = StorePlan(
        records={"features": make_record(workload.shape, workload.precision)},
        rows_per_video=(workload.rows_per_video,), num_videos=workload.num_videos, shard_rows=4096,
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
    room = pinned_room(features, shape, device)
    return lambda rows: features.gather(rows, out=room.numpy())


def pinned_room(features: Features, shape: tuple[int, ...], device: str) -> Tensor:
    """Room for a batch as it is stored; ordinary memory if there is no GPU."""
    dtype = torch.from_numpy(np.empty(0, features.dtype)).dtype
    return torch.empty(shape, dtype=dtype, pin_memory=device != "cpu")


def there(features: Features, shape: tuple[int, ...], device: str) -> Reader:
    """Copy onto the device from pinned memory, int8 to float32 there; the next batch waits until that is done."""
    room = pinned_room(features, shape, device)
    target = torch.empty_like(room, device=device, pin_memory=False)

    def read(rows: np.ndarray) -> None:
        features.gather(rows, out=room.numpy())
        target.copy_(room, non_blocking=True)
        if features.record.dtype == "int8":
            scales = torch.from_numpy(features.scales(rows)).to(device)
            assert StoredMaps(values=target, scales=scales).multiplied.dtype == torch.float32
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
    drop: Path | None = None,
) -> dict[str, Any]:
    """Bytes per second of shuffled batches, the median over them; of a cold store ``drop``, the mean of one epoch."""
    rng = np.random.default_rng(0)
    num_rows = workload.batch * workload.together
    reader = make(features, (num_rows, *workload.shape), device)
    if drop is not None:
        return read_cold(features, reader, drop, rng.permutation(features.num_rows), num_rows, seconds=seconds)
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


def read_cold(
    features: Features, reader: Reader, path: Path, rows: np.ndarray, batch: int, *, seconds: float
) -> dict[str, Any]:
    """Bytes per second of the rows of a full shuffle, each read once, whose pages the system has forgotten."""
    batches = np.split(rows[: len(rows) // batch * batch], len(rows) // batch)
    os.sync()
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began, done = time.perf_counter(), 0
    for number, each in enumerate(batches):
        for later in batches[number + 1 : number + 3] if not number else batches[number + 2 : number + 3]:
            features.ahead(later)
        reader(each)
        done += len(each)
        if time.perf_counter() - began > seconds:
            break
    taken = time.perf_counter() - began
    speed = done * features.record.num_bytes / taken / 1e9
    note = f"{1e3 * taken * batch / done:.3g} ms per batch, {done} rows"
    return {"result": f"{speed:.3g} GB/s", "bytes_per_second": 1e9 * speed, "note": note}


def drawn(workload: Workload, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of one shuffled batch, int64."""
    video = rng.integers(0, workload.num_videos, workload.batch) * workload.rows_per_video
    start = rng.integers(0, workload.rows_per_video - workload.together + 1, workload.batch)
    return ((video + start)[:, None] + np.arange(workload.together)).reshape(-1)
