"""Shuffled batches from a store, against ``np.memmap`` of the same records, in one run.

Three workloads: dense rows of 350 KB in batches of 64; a frame bank of 44 KB rows, 64 clips of 8 rows; pooled rows of
1.5 KB in batches of 512. All files are in the page cache, every reader writes into newly allocated output, and each
block of the store has been checked once; the cost of that first check is printed too. Readers take turns on the same
batches; a ratio is the median over batches of (memmap seconds / reader seconds). The goal is 0.8.

    uv run python benchmarks/store_read.py
"""

import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from common import median, parser, report

from featcache.data.types import VideoOutcome
from featcache.recipes import SamplingRecipe
from featcache.store.paths import FileFormat
from featcache.store.plan import default_shard_rows
from featcache.store.reader import open_store
from featcache.store.writer import StoreWriter
from featcache.testing.stores import StorePlan, add_generation, make_recipe, make_record, row_details

Reader = Callable[[np.ndarray], Any]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The stored rows and how they are read: ``batch`` groups of ``together`` rows of one video."""

    name: str
    shape: tuple[int, ...]
    rows_per_video: int
    num_videos: int
    batch: int
    together: int = 1

    @property
    def num_rows(self) -> int:
        """Number of rows of the store."""
        return self.rows_per_video * self.num_videos


WORKLOADS = (
    Workload(name="dense", shape=(14, 14, 896), rows_per_video=4, num_videos=448, batch=64),
    Workload(name="frames", shape=(7, 7, 448), rows_per_video=64, num_videos=224, batch=64, together=8),
    Workload(name="pooled", shape=(768,), rows_per_video=4, num_videos=40_960, batch=512),
)


def main() -> None:
    """Write the same records in every form, read them in turn, print the ratios."""
    options = parser(__doc__)
    options.add_argument("--batches", type=int, default=60)
    options.add_argument("--slow-batches", type=int, default=3, help="number of batches for slow readers")
    options.add_argument("--folder", type=Path, default=None, help="folder to write to; a temporary folder by default")
    args = options.parse_args()
    table: dict[str, dict[str, Any]] = {}
    for workload in WORKLOADS:
        folder = Path(tempfile.mkdtemp(dir=args.folder))
        try:
            figures = measure(workload, folder, batches=args.batches, slow_batches=args.slow_batches)
        finally:
            shutil.rmtree(folder)
        for name, value in figures.items():
            table.setdefault(name, {"reader": name})[workload.name] = value
    notes = ["Ratios to np.memmap of the same records, median over batches; every reader writes fresh output."]
    report("store_read", list(table.values()), as_json=args.json, notes=notes)


def measure(workload: Workload, folder: Path, *, batches: int, slow_batches: int) -> dict[str, Any]:
    """Ratios to memmap of every reader on one workload."""
    write(workload, folder)
    shape = (workload.num_rows, *workload.shape)
    memmap = np.memmap(folder / "flat", np.float16, "r", shape=shape)
    first_touch = {name: first_touch_cost(folder / name) for name in ("zarr", "hdf5")}
    stores = {name: open_store(folder / name).feature() for name in ("zarr", "hdf5")}
    loaded = open_store(folder / "zarr").feature(device="ram")
    rng = np.random.default_rng(0)
    drawn = [draw(workload, rng) for _ in range(batches)]
    fast: dict[str, Reader] = {
        "memmap": lambda rows: memmap[rows],
        "featcache zarr": stores["zarr"].gather,
        "featcache hdf5": stores["hdf5"].gather,
        "featcache in memory": loaded.gather,
    }
    for features in stores.values():  # every block checked, every page of both sides mapped
        for first in range(0, workload.num_rows, 4096):
            rows = np.arange(first, min(first + 4096, workload.num_rows))
            assert np.array_equal(features.gather(rows).view(np.uint16), memmap[rows].view(np.uint16))
    seconds = take_turns(fast, drawn)
    slow = {"memmap": fast["memmap"], **library_readers(workload, folder)}
    seconds_slow = take_turns(slow, drawn[:slow_batches])
    num_bytes = len(drawn[0]) * memmap[0].nbytes
    results: dict[str, Any] = {"np.memmap, GB/s": num_bytes / median(seconds["memmap"]) / 1e9}
    for timed in (seconds, seconds_slow):
        for name, taken in timed.items():
            if name != "memmap":
                results[name] = median([base / mine for base, mine in zip(timed["memmap"], taken, strict=True)])
    for name, (checked, unchecked) in first_touch.items():
        results[f"first pass over {name}, s/GB"] = checked
        results[f"of which crc32c ({name}), s/GB"] = max(0.0, checked - unchecked)
    return results


def draw(workload: Workload, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of one shuffled batch; rows taken together are every second row of one video."""
    if workload.together == 1:
        return rng.integers(0, workload.num_rows, workload.batch)
    video = rng.integers(0, workload.num_videos, workload.batch) * workload.rows_per_video
    start = rng.integers(0, workload.rows_per_video - 2 * workload.together, workload.batch)
    return ((video + start)[:, None] + 2 * np.arange(workload.together)).reshape(-1)


def take_turns(readers: dict[str, Reader], batches: list[np.ndarray]) -> dict[str, list[float]]:
    """Seconds per batch of each reader; all readers read a batch, in changing order, before the next one is drawn."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    names = list(readers)
    for number, rows in enumerate(batches):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            output = readers[name](rows)
            seconds[name].append(time.perf_counter() - started)
            del output
    return seconds


def first_touch_cost(path: Path) -> tuple[float, float]:
    """Seconds per GB of one sequential pass over a newly opened feature, with and without checking blocks."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    for verify in [True, False] * 3:
        features = open_store(path).feature(verify=verify)
        started = time.perf_counter()
        for first in range(0, features.num_rows, 512):
            features.gather(np.arange(first, min(first + 512, features.num_rows)))
        taken[verify].append((time.perf_counter() - started) / (features.num_rows * features.record.num_bytes / 1e9))
    return median(taken[True]), median(taken[False])


def library_readers(workload: Workload, folder: Path) -> dict[str, Reader]:
    """Read the same rows with the formats' own libraries, as their documentation recommends."""
    array = zarr.open_array(str(folder / "zarr" / "g000" / "features"), mode="r")
    files = sorted((folder / "hdf5" / "g000" / "features").glob("*.h5"))
    datasets = [h5py.File(file, "r")["features"] for file in files]
    shard_rows = array.shape[0] // len(files)
    assert workload.num_rows == sum(len(dataset) for dataset in datasets), "shards are full, rows are rows"
    readers: dict[str, Reader] = {
        "zarr-python arr[i]": lambda rows: np.stack([array[row] for row in rows.tolist()]),
        "zarr-python oindex": lambda rows: array.oindex[rows],
        "h5py item by item": lambda rows: np.stack([datasets[r // shard_rows][r % shard_rows] for r in rows.tolist()]),
    }
    if importlib.util.find_spec("litdata"):
        readers["litdata item by item"] = litdata_reader(workload, folder)
    return readers


def litdata_reader(workload: Workload, folder: Path) -> Reader:
    """Records as litdata chunks, read by index."""
    import litdata

    memmap = np.memmap(folder / "flat", np.float16, "r", shape=(workload.num_rows, *workload.shape))
    writer = litdata.streaming.writer.BinaryWriter(str(folder / "litdata"), chunk_bytes=64 << 20)
    for row in range(workload.num_rows):
        writer[row] = np.asarray(memmap[row])
    writer.done()
    writer.merge()
    dataset = litdata.StreamingDataset(str(folder / "litdata"))
    return lambda rows: np.stack([dataset[row] for row in rows.tolist()])


def write(
    workload: Workload, folder: Path, *, formats: Sequence[FileFormat] = ("zarr", "hdf5"), is_flat: bool = True
) -> None:
    """The same random records as one flat file, a Zarr store and an HDF5 store, or some of these."""
    record = make_record(workload.shape)
    shard_rows = default_shard_rows([record.num_bytes], workload.rows_per_video)
    assert workload.num_rows % shard_rows == 0, "full shards, so that row numbers are equal in all forms"
    plan = StorePlan(
        records={"features": record},
        rows_per_video=(workload.rows_per_video,),
        num_videos=workload.num_videos,
        shard_rows=shard_rows,
    )
    values = np.random.default_rng(0).standard_normal((shard_rows, *workload.shape), np.float32).astype(np.float16)
    with (folder / "flat").open("wb") as flat:
        for file_format in formats:
            with StoreWriter.open(folder / file_format, sampling=SamplingRecipe(), file_format=file_format) as writer:
                writer.declare_feature("features", make_recipe(), record)
                generation = add_generation(writer, plan)
                for shard in range(generation.num_shards):
                    array = np.roll(values, shard + 1, axis=0)
                    segments = generation.shard_segments(shard)
                    writer.commit_shard(
                        generation,
                        shard,
                        features={"features": array},
                        present=np.ones(shard_rows, bool),
                        rows=row_details(segments),
                        outcomes=[
                            VideoOutcome(
                                id=generation.video_ids[segment.video],
                                status="ok",
                                reason="",
                                first_row=segment.first_row,
                                num_rows=segment.num_rows,
                            )
                            for segment in segments
                        ],
                        provenance={},
                    )
                    if is_flat and file_format == "zarr":
                        array.tofile(flat)


if __name__ == "__main__":
    main()
