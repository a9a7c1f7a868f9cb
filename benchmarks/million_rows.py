"""Planning and opening a store of up to a million pooled rows: 768 float16, four rows per video, no video is decoded.

For each size the manifest of made-up videos is planned with the code of `featcache extract` (shards as for a ViT-B,
whose work decides their size), and written by the store's own writer with random rows. Then a new process opens the
store and its feature. Printed are the seconds of the plan (up to its publication), of opening, and of the coverage; the
memory that an open feature keeps (its index, plans and records), by the growth of the process; and the time of the
first batch of 512 shuffled rows. The goals at 1,000,000 rows are 30 s, 2 s and 500 MB.

    uv run python benchmarks/million_rows.py                        # 10,000, 100,000 and 1,000,000 rows
    uv run python benchmarks/million_rows.py --rows 10000 --keep DIR
"""

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import median, parser, report

from featcache.data.manifest import Manifest
from featcache.data.types import VideoOutcome
from featcache.extract.prepare import Prepared, prepare
from featcache.extract.settings import ExtractSettings
from featcache.extract.work import add_generation
from featcache.store.reader import open_store
from featcache.store.writer import StoreWriter
from featcache.testing.stores import make_videos, row_details

CLIPS = 4
GOALS = {"plan, s": 30.0, "open, s": 2.0, "index, MB": 500.0}


def main() -> None:
    """Plan, write and open each size."""
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--keep", type=Path, help="folder in which the stores are kept, and found again")
    options.add_argument("--cell", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.cell:
        print(json.dumps(opened(args.cell)))
        return
    folder = args.keep or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    prepared = prepare(settings_of(folder))
    try:
        rows = [measure(folder / f"rows{count}", count, prepared, repeats=args.repeats) for count in args.rows]
    finally:
        if args.keep is None:
            shutil.rmtree(folder)
    goals = ", ".join(f"{name} {goal:g}" for name, goal in GOALS.items())
    report("many pooled rows", rows, as_json=args.json, notes=[f"Goals at 1,000,000 rows: {goals}."])


def settings_of(folder: Path) -> ExtractSettings:
    """An extraction of four clips per video; its videos do not exist, and nothing of it is run."""
    return ExtractSettings.model_validate(
        {
            "source": str(folder),
            "out": str(folder),
            "sampling": {"num_clips": CLIPS},
            "features": [{"backbone": "timm/vit_base_patch16_224", "weights": "random", "name": "pooled"}],
            "runtime": {"device": "cpu"},
        }
    )


def measure(path: Path, count: int, prepared: Prepared, *, repeats: int) -> dict[str, Any]:
    """One size."""
    manifest = Manifest(root=str(path), videos=tuple(make_videos(count // CLIPS)))
    planned = []
    for turn in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            planned.append(plan(Path(name) / f"{turn}", manifest, prepared))
    if not path.exists():
        plan(path, manifest, prepared)
        fill(path)
    command = [sys.executable, __file__, "--cell", str(path)]
    cells = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(repeats)
    ]
    return {
        "rows": count,
        "videos": count // CLIPS,
        "shards": cells[0]["shards"],
        "plan, s": median(planned),
        **{name: median([cell[name] for cell in cells]) for name in cells[0] if name != "shards"},
    }


def plan(path: Path, manifest: Manifest, prepared: Prepared) -> float:
    """Create a store and plan its first generation; returns the seconds."""
    began = time.perf_counter()
    paths = {video.id: manifest.path_of(video) for video in manifest.videos}
    with StoreWriter.open(path, sampling=prepared.sampling, file_format="zarr") as writer:
        for feature in prepared.features:
            writer.declare_feature(feature.name, recipe=feature.recipe, record=feature.record)
        with writer.planning_lock():
            add_generation(writer, manifest, paths=paths, prepared=prepared)
    return time.perf_counter() - began


def fill(path: Path) -> None:
    """Commit every shard with random rows."""
    with StoreWriter.open(path, sampling=open_store(path).sampling, file_format="zarr") as writer:
        (generation,) = writer.generations()
        random = np.random.default_rng(0).standard_normal((2 * generation.shard_rows, 768), np.float32)
        values = random.astype(np.float16)
        for shard in range(generation.num_shards):
            segments = generation.shard_segments(shard)
            rows = row_details(segments)
            present = np.zeros(generation.shard_rows, bool)
            present[rows.row] = True
            first = shard % generation.shard_rows
            array = np.where(present[:, None], values[first : first + generation.shard_rows], np.float16(0))
            outcomes = [
                VideoOutcome(
                    id=generation.video_ids[each.video], status="ok", reason="",
                    first_row=each.first_row, num_rows=each.num_rows,
                )
                for each in segments
            ]  # fmt: skip
            writer.commit_shard(
                generation, shard, features={"pooled": array}, present=present, rows=rows, outcomes=outcomes,
                provenance={},
            )  # fmt: skip
        writer.complete(generation, "pooled")


def opened(path: Path) -> dict[str, Any]:
    """In the child: seconds and memory of opening."""
    process = psutil.Process()
    gc.collect()
    before, began = process.memory_info().rss, time.perf_counter()
    features = open_store(path).feature("pooled")
    took = time.perf_counter() - began
    gc.collect()
    kept = process.memory_info().rss - before
    began = time.perf_counter()
    features.gather(np.random.default_rng(0).integers(0, features.num_rows, 512))
    batch = time.perf_counter() - began
    began = time.perf_counter()
    coverage = open_store(path).coverage("pooled")
    assert coverage.ok == len(features.video_ids)
    return {
        "shards": len(features._index.files),
        "open, s": took,
        "index, MB": kept / 1e6,
        "coverage, s": time.perf_counter() - began,
        "first batch, s": batch,
    }


if __name__ == "__main__":
    main()
