"""Writing a shard (encode, checksum, fsync, commit record) against one plain write and fsync of the same bytes.

Both sides take turns in the same folder, each into a new file; a ratio is the median over turns of (plain seconds /
shard seconds). The goal is 0.7.

    uv run python benchmarks/store_write.py
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from common import median, parser, report

from featcache.data.types import VideoOutcome
from featcache.recipes import SamplingRecipe
from featcache.store.plan import default_shard_rows
from featcache.store.writer import StoreWriter
from featcache.testing.stores import PROVENANCE, StorePlan, add_generation, make_recipe, make_record, row_details

SHAPES = {"dense 350 KB": (14, 14, 896), "frames 44 KB": (7, 7, 448), "pooled 1.5 KB": (768,)}


def main() -> None:
    """Time both formats on every kind of row."""
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, default=None, help="disk to write to; a temporary folder by default")
    args = options.parse_args()
    rows = []
    for name, shape in SHAPES.items():
        for file_format in ("zarr", "hdf5"):
            folder = Path(tempfile.mkdtemp(dir=args.folder))
            try:
                rows.append({"rows": name, "format": file_format, **measure(shape, file_format, folder, args.repeats)})
            finally:
                shutil.rmtree(folder)
    report("store_write", rows, as_json=args.json)


def measure(shape: tuple[int, ...], file_format: str, folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of both sides for one shard, and their ratio."""
    record = make_record(shape)
    shard_rows = default_shard_rows([record.num_bytes], 4)
    plan = StorePlan(records={"features": record}, num_videos=(repeats + 1) * shard_rows // 4, shard_rows=shard_rows)
    values = np.random.default_rng(0).standard_normal((shard_rows, *shape), np.float32).astype(np.float16)
    plain, ours = [], []
    with StoreWriter.open(folder / "store", sampling=SamplingRecipe(), file_format=file_format) as writer:
        writer.declare_feature("features", make_recipe(), record)
        generation = add_generation(writer, plan)
        for shard in range(generation.num_shards):
            segments = generation.shard_segments(shard)
            outcomes = [
                VideoOutcome(
                    id=generation.video_ids[s.video], status="ok", reason="", first_row=s.first_row, num_rows=s.num_rows
                )
                for s in segments
            ]
            rows = row_details(segments)
            present = np.ones(shard_rows, bool)
            started = time.perf_counter()
            writer.commit_shard(
                generation,
                shard,
                features={"features": values},
                present=present,
                rows=rows,
                outcomes=outcomes,
                provenance=PROVENANCE,
            )
            ours.append(time.perf_counter() - started)
            plain.append(plain_write(folder / f"plain-{shard}", values))
    # the first shard also makes folders and array metadata
    return {
        "MB": values.nbytes / 1e6,
        "plain, GB/s": values.nbytes / median(plain[1:]) / 1e9,
        "shard, GB/s": values.nbytes / median(ours[1:]) / 1e9,
        "ratio": median([base / mine for base, mine in zip(plain[1:], ours[1:], strict=True)]),
    }


def plain_write(path: Path, values: np.ndarray) -> float:
    """Seconds of one sequential write with fsync."""
    data = memoryview(values.reshape(-1).view(np.uint8))
    started = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    written = 0
    while written < len(data):
        written += os.write(fd, data[written:])
    os.fsync(fd)
    os.close(fd)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
