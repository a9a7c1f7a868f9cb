"""One and two workers of a local cluster against the engine of one process, and the submission of 2,000 shards.

All sides extract the same clips in turn. What is compared is the steady state, the second half of the shards: wall
seconds, and CPU seconds of all processes together, per shard. What it costs to start, until the first shard is
committed, stands beside it. With one worker everything else is as in one process; two workers share the cores, so that
each has half the threads. The goal is an overhead of at most 3 %.

A submission is the time from the call to the first word of the progress, when everything is planned and all shards are
with the scheduler, for 2,000 shards less the same for two. The goal is 5 s.

    uv run python benchmarks/cluster.py --videos 96 --repeats 5
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from common import median, parser, report

from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.data.motion import MotionSettings, make_motion_set
from featcache.data.scan import scan
from featcache.extract.progress import Progress
from featcache.extract.run import extract
from featcache.extract.settings import (
    ClusterSettings,
    ExtractSettings,
    FeatureSettings,
    RuntimeSettings,
    SamplingSettings,
)
from featcache.machine import num_cores

BACKBONE = "timm/tf_efficientnet_lite0"
NUM_SHARDS = 2000


def main() -> None:
    """Time the sides in turn and print their ratios."""
    options = parser(__doc__)
    options.add_argument("--videos", type=int, default=96)
    options.add_argument("--size", type=int, default=320, help="side of the square clips")
    options.add_argument("--frames", type=int, default=48, help="frames per clip")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_clips(folder, num_videos=args.videos, size=args.size, num_frames=args.frames)
        cores = num_cores()
        sides = {
            "one process": ({}, cores),
            "--workers 1": ({"workers": 1}, cores),
            "--workers 2": ({"workers": 2}, max(1, cores // 2)),
        }
        seen: dict[str, list[Watch]] = {side: [] for side in sides}
        for turn in range(args.repeats):
            for side, (cluster, threads) in list(sides.items())[:: -1 if turn % 2 else 1]:
                settings = settings_of(source, folder / "store", threads=threads).model_copy(
                    update={"cluster": ClusterSettings(**cluster)}
                )
                seen[side].append(watched(settings))
        few, many = [], []
        with scheduler_and_worker(folder) as address:
            submitted(folder, source, num_shards=2, address=address)  # the worker imports what it needs
            for _ in range(args.repeats):
                few.append(submitted(folder, source, num_shards=2, address=address))
                many.append(submitted(folder, source, num_shards=NUM_SHARDS, address=address))
        submission = [b - a for a, b in zip(few, many, strict=True)]
    local = seen["one process"]
    rows = [
        {
            "side": side,
            "s to the first shard": median([each.first_seconds for each in runs]),
            "s/shard": median([each.wall_per_shard for each in runs]),
            "x one process": median([a.wall_per_shard / b.wall_per_shard for a, b in zip(runs, local, strict=True)]),
            "CPU s/shard": median([each.cpu_per_shard for each in runs]),
            "x its CPU": median([a.cpu_per_shard / b.cpu_per_shard for a, b in zip(runs, local, strict=True)]),
        }
        for side, runs in seen.items()
    ]
    notes = [
        f"{args.videos} videos of {args.frames} frames, {args.size} px, {BACKBONE}, shards of 8 rows of 8 frames",
        f"{NUM_SHARDS} shards are planned and submitted in {median(submission):.2f} s "
        f"(from {min(submission):.2f} to {max(submission):.2f})",
    ]
    report("cluster", rows, as_json=args.json, notes=notes)


def make_clips(folder: Path, *, num_videos: int, size: int, num_frames: int) -> Path:
    """Clips of the motion set, scanned."""
    motion = MotionSettings(
        size=size,
        num_frames=num_frames,
        num_unseen_pictures=14,
        train_per_picture_motion=-(-num_videos // 64),
        test_seen_per_picture_motion=0,
        test_unseen_per_picture_motion=0,
    )
    listing = make_motion_set(folder / "videos", motion)
    listing.write_text("".join(line + "\n" for line in listing.read_text().splitlines()[:num_videos]))
    source = folder / "videos" / "videos.parquet"
    write_parquet(scan(listing), source)
    return source


@contextmanager
def scheduler_and_worker(folder: Path) -> Iterator[str]:
    """A scheduler and a worker in processes of their own, and the file with its address."""
    file = folder / "cluster.json"
    file.unlink(missing_ok=True)
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", file], **quiet
    )
    while not file.exists():
        time.sleep(0.05)
    time.sleep(0.5)
    words = ["worker", "--scheduler-file", file, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    worker = subprocess.Popen([*dask, *words], **quiet)
    try:
        yield str(file)
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


@dataclass(slots=True)
class Watch:
    """Times of the commits of one extraction."""

    started: float = field(default_factory=time.perf_counter)
    commits: list[tuple[float, float, int]] = field(default_factory=list)
    """Wall seconds, CPU seconds of all processes, and number of committed shards, whenever that has changed."""

    def __call__(self, progress: Progress) -> None:
        """Note a commit."""
        if progress.shards_done > (self.commits[-1][2] if self.commits else 0):
            self.commits.append((time.perf_counter() - self.started, cpu_of_all(), progress.shards_done))

    @property
    def first_seconds(self) -> float:
        """Seconds until the first shard was committed."""
        return self.commits[0][0]

    @property
    def wall_per_shard(self) -> float:
        """Seconds per shard of the second half."""
        return self._per_shard(0)

    @property
    def cpu_per_shard(self) -> float:
        """CPU seconds per shard of the second half."""
        return self._per_shard(1)

    def _per_shard(self, what: int) -> float:
        last = self.commits[-1]
        first = next(each for each in self.commits if each[2] >= last[2] / 2)
        return (last[what] - first[what]) / (last[2] - first[2])


def cpu_of_all() -> float:
    """CPU seconds so far of this process and of all that it has started and that still run."""
    this = psutil.Process()
    seconds = 0.0
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            seconds += used.user + used.system
    return seconds


def watched(settings: ExtractSettings) -> Watch:
    """Extract into a new store, and note the commits."""
    shutil.rmtree(settings.out, ignore_errors=True)
    watch = Watch()
    extract(settings, on_progress=watch)
    return watch


def submitted(folder: Path, source: Path, *, num_shards: int, address: str) -> float:
    """Seconds until shards of one video each are planned and submitted; nothing is computed."""
    manifest = read_parquet(source)
    many = tuple(replace(manifest.videos[0], id=f"{number}.mp4") for number in range(num_shards))
    write_parquet(Manifest(root=manifest.root, videos=many), folder / "many.parquet")
    out = folder / "many"
    shutil.rmtree(out, ignore_errors=True)
    settings = settings_of(folder / "many.parquet", out, threads=1).model_copy(
        update={"shard_rows": 4, "cluster": ClusterSettings(scheduler=address)}
    )
    started = time.perf_counter()
    seconds = []

    def stop(progress: Progress) -> None:
        assert progress.num_shards == num_shards
        seconds.append(time.perf_counter() - started)
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        extract(settings, on_progress=stop)
    return seconds[0]


def settings_of(source: Path, out: Path, *, threads: int) -> ExtractSettings:
    """The extraction of all sides: shards of 8 rows, so that there are some."""
    return ExtractSettings(
        source=str(source),
        out=str(out),
        features=(FeatureSettings(backbone=BACKBONE),),
        sampling=SamplingSettings(num_clips=4, num_frames=8),
        runtime=RuntimeSettings(device="cpu", threads=threads),
        shard_rows=8,
    )


if __name__ == "__main__":
    main()
