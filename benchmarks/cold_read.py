"""Shuffled batches from a store that is larger than memory, against reading the same bytes in order.

A store of `--gb` is written by the real writer. Then each arm reads batches of it in a process of its own, in a memory
cgroup of `--memory-gb` (page cache included), after the page cache was dropped; each stops after `--seconds`, and the
arms take turns `--repeats` times. `in order` reads the data files one after the other with direct I/O, in parts of
4 MB, and `at random` reads of the size of a row at random places of them, with direct I/O by 16 threads: what the disk
gives for both. The other arms give shuffled batches of 32 MB to the caller:

- `maps`: featcache's mapped files, one page fault after the other (`device="mmap"`);
- `disk`: `device="disk"`, rows in a full shuffle, the next batches announced; each block is read as a whole until it
  has been checked, so that rows much smaller than a block cost more bytes than they have;
- `disk, checked`: the same when all blocks have been checked before (a second epoch);
- `disk, block`: `device="disk"` in block shuffle, in which the rows of a block are close together: whole blocks are
  read and kept, 512 MB of them;
- `litdata`, `webdataset`, `tensorstore`, `lance`: the same rows in their own formats, read as their documentation
  recommends for shuffled training, if they are installed (`uv sync --group bench`).

    uv run python benchmarks/cold_read.py --folder /disk/with/room
    uv run python benchmarks/cold_read.py --gb 1 --memory-gb 0.5 --rows 44 --arms "in order" maps disk

Without the rights to make a cgroup the arms run without one, and the note says so: give a store larger than memory.
"""

import argparse
import contextlib
import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from cold_formats import FORMATS, make_reader, write_format
from common import median, parser, report
from store_read import Workload, write

from featcache.loaders.orders import GROUP_BYTES, WINDOW_BYTES, block_order
from featcache.machine import keep_freed_memory
from featcache.store.plan import default_shard_rows
from featcache.store.reader import open_store

SHAPES = {"350": (14, 14, 896), "44": (7, 7, 448)}
"""Shapes of rows by their size in KB, in float16."""
ROWS_PER_VIDEO = {"350": 4, "44": 64}
BATCH_BYTES = 32 << 20
THREADS = 16
AHEAD = 2
"""Batches that are announced, as in training."""
DISK = ("in order", "at random")
OWN = ("maps", "disk", "disk, checked", "disk, block")
CGROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    """Write the rows, run the arms in turns, print the shares."""
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("--gb", type=float, default=8.0, help="size of the store")
    options.add_argument("--peer-gb", type=float, default=4.0, help="at most so many bytes for each other format")
    options.add_argument("--memory-gb", type=float, default=2.0, help="limit of the cgroup")
    options.add_argument("--rows", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="size of a row in KB")
    options.add_argument("--arms", nargs="+", choices=(*DISK, *OWN, *FORMATS))
    options.add_argument("--seconds", type=float, default=8.0, help="time of one arm")
    options.add_argument("--folder", type=Path, help="folder to write to; a temporary folder by default")
    options.add_argument("--cell", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.cell:
        arm, kb = args.cell.rsplit("/", 1)
        print(json.dumps(cell(arm, args.folder, kb, seconds=args.seconds)))
        return
    rows: list[dict[str, Any]] = []
    notes = [
        f"store of {args.gb:g} GB; medians of {args.repeats} runs of {args.seconds:g} s each; share: of `in order`, "
        "run by run"
    ]
    with group(args.memory_gb) as (join, about):
        notes.append(about)
        for kb in args.rows:
            folder = Path(tempfile.mkdtemp(dir=args.folder))
            try:
                rows += measure(folder, kb, args, join=join)
            finally:
                shutil.rmtree(folder)
    report("reading from a cold store", rows, as_json=args.json, notes=notes)


def measure(folder: Path, kb: str, args: argparse.Namespace, *, join: str) -> list[dict[str, Any]]:
    """All arms on rows of one size."""
    arms = [arm for arm in args.arms or (*DISK, *OWN, *FORMATS) if arm not in FORMATS or FORMATS[arm]()]
    shape = SHAPES[kb]
    row_bytes = 2 * int(np.prod(shape))
    shard_rows = default_shard_rows([row_bytes], ROWS_PER_VIDEO[kb])
    num_shards = max(1, round(args.gb * 1e9 / (row_bytes * shard_rows)))
    load = Workload(
        name=kb, shape=shape, rows_per_video=ROWS_PER_VIDEO[kb],
        num_videos=num_shards * shard_rows // ROWS_PER_VIDEO[kb], batch=1,
    )  # fmt: skip
    write(load, folder, formats=("zarr",), is_flat=False)
    for arm in arms:
        if arm in FORMATS:
            write_format(arm, folder, num_bytes=round(1e9 * args.peer_gb))
    speeds: dict[str, list[float]] = {arm: [] for arm in arms}
    problems: dict[str, str] = {}
    for turn in range(args.repeats):
        for arm in arms[turn % len(arms) :] + arms[: turn % len(arms)]:
            answer = run(arm, kb, folder, args, join=join)
            if "speed" in answer:
                speeds[arm].append(answer["speed"])
            else:
                problems[arm] = answer["problem"]
    base = speeds["in order"]
    return [
        {
            "rows": f"{kb} KB",
            "arm": arm,
            "GB/s": median(found) if found else problems[arm],
            "share": median([a / b for a, b in zip(found, base, strict=True)]) if len(found) == len(base) else "",
            "x maps": median([a / b for a, b in zip(found, speeds["maps"], strict=True)])
            if len(found) == len(speeds.get("maps", ())) and found
            else "",
        }
        for arm, found in speeds.items()
    ]


def run(arm: str, kb: str, folder: Path, args: argparse.Namespace, *, join: str) -> dict[str, Any]:
    """One arm in a process of its own, after the page cache was dropped."""
    drop(folder)
    command = [sys.executable, __file__, "--cell", f"{arm}/{kb}", "--folder", str(folder), "--seconds",
               str(args.seconds)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    shell = ["bash", "-c", f'{join} exec "$@"', "bash", *command]
    try:
        done = subprocess.run(
            shell, check=False, capture_output=True, text=True, timeout=90 + 10 * args.seconds, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"problem": "out of time"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"problem": last[:80]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def drop(folder: Path) -> None:
    """Write back and forget all pages of the files below a folder."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


@contextlib.contextmanager
def group(memory_gb: float) -> Iterator[tuple[str, str]]:
    """A memory cgroup: a shell command that joins it, and a sentence for the notes."""
    limit = round(memory_gb * 1e9)
    for parent, name in ((CGROUPS / "memory", "memory.limit_in_bytes"), (CGROUPS, "memory.max")):
        folder = parent / f"featcache-cold-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / name).write_text(str(limit))
        except OSError:
            folder.rmdir()
            continue
        try:
            yield f"echo $$ > {folder}/cgroup.procs &&", f"in a cgroup of {memory_gb:g} GB, page cache included"
        finally:
            with contextlib.suppress(OSError):  # a process may still be ending
                folder.rmdir()
        return
    yield "", "no memory cgroup could be made here, so nothing limited the page cache"


def cell(arm: str, folder: Path, kb: str, *, seconds: float) -> dict[str, Any]:
    """In the child: bytes of rows per second of one arm, after its first batch."""
    shape, row_bytes = SHAPES[kb], 2 * int(np.prod(SHAPES[kb]))
    if arm == "in order":
        return {"speed": in_order(folder / "zarr", seconds)}
    if arm == "at random":
        return {"speed": at_random(folder / "zarr", seconds, row_bytes=row_bytes)}
    batch = BATCH_BYTES // row_bytes
    keep_freed_memory("cpu")  # as in training
    step = own(arm, folder / "zarr", batch) if arm in OWN else make_reader(arm, folder, shape, batch)
    step()
    num_rows, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds and (count := step()):
        num_rows += count
    return {"speed": num_rows * row_bytes / taken / 1e9}


def own(arm: str, path: Path, batch: int) -> Callable[[], int]:
    """A function that reads the next batch and returns its number of rows."""
    features = open_store(path).feature(
        device="mmap" if arm == "maps" else "disk",
        verify=arm != "disk, checked",
        keep_bytes=2 * WINDOW_BYTES if arm == "disk, block" else 0,
    )
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    if arm == "disk, block":
        groups = features.groups(np.arange(features.num_rows), num_bytes=GROUP_BYTES)
        order = block_order(groups, window=WINDOW_BYTES // features.record.num_bytes, rng=rng)
    else:
        order = rng.permutation(features.num_rows)
    batches = np.split(order[: len(order) // batch * batch], len(order) // batch)
    numbers = iter(range(len(batches)))
    out = np.empty((batch, *features.record.shape), features.dtype)  # used again, as training uses freed memory again

    def step() -> int:
        number = next(numbers, None)
        if number is None:
            return 0
        for later in batches[number + 1 : number + 1 + AHEAD] if not number else batches[number + AHEAD :][:1]:
            features.ahead(later)
        return len(features.gather(batches[number], out=out))

    return step


def data_files(path: Path) -> list[Path]:
    """The data files of a store of one feature."""
    features = open_store(path).feature()
    assert features._index.files[0].committed.generation.number == 0
    return [path / file.name for file in features._index.files]


def opened(file: Path) -> int:
    """A descriptor for direct I/O where the disk has it."""
    return os.open(file, os.O_RDONLY | getattr(os, "O_DIRECT", 0))


def at_random(path: Path, seconds: float, *, row_bytes: int) -> float:
    """GB per second of rows at random places, each read as whole pages, where a row may begin anywhere in one."""
    files = [(opened(file), file.stat().st_size) for file in data_files(path)]
    num_pages = 1 + -(-row_bytes // mmap.PAGESIZE)
    began = time.perf_counter()

    def read(seed: int) -> int:
        rng, room, count = random.Random(seed), mmap.mmap(-1, num_pages * mmap.PAGESIZE), 0
        while time.perf_counter() - began < seconds:
            fd, size = files[rng.randrange(len(files))]
            os.preadv(fd, [room], rng.randrange(size // mmap.PAGESIZE - num_pages) * mmap.PAGESIZE)
            count += 1
        return count

    with ThreadPoolExecutor(THREADS) as pool:
        num_rows = sum(pool.map(read, range(THREADS)))
    return num_rows * row_bytes / (time.perf_counter() - began) / 1e9


def in_order(path: Path, seconds: float) -> float:
    """GB per second of the data files in order."""
    room = mmap.mmap(-1, 4 << 20)  # aligned
    done, began = 0, time.perf_counter()
    for file in data_files(path):
        fd = opened(file)
        try:
            place = 0
            while count := os.preadv(fd, [room], place):
                done += count
                place += count
                if count % mmap.PAGESIZE:  # the end of the file
                    break
        finally:
            os.close(fd)
        if time.perf_counter() - began > seconds:
            break
    return done / (time.perf_counter() - began) / 1e9


if __name__ == "__main__":
    main()
