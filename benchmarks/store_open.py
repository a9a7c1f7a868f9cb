"""The cost of opening a store of many shards and listing its contents.

Opens the store and its feature and computes the coverage: every plan and commit record is read and checked. With
`--keep` the store is made once, so that two versions of the code can be compared on it, each in its own process:

    uv run python benchmarks/store_open.py --shards 2000 --keep DIR
"""

import tempfile
import time
from pathlib import Path

from common import median, parser, report

from featcache.store.reader import open_store
from featcache.testing.stores import StorePlan, make_record, write_store

ROWS_PER_VIDEO, VIDEOS_PER_SHARD = 4, 2


def main() -> None:
    """Make the store, open it repeatedly, print the median."""
    arguments = parser(__doc__)
    arguments.add_argument("--shards", type=int, default=2000, help="shards of the store")
    arguments.add_argument("--keep", type=Path, help="folder of the store; created if it does not exist, and kept")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "store"
        if not path.exists():
            plan = StorePlan(
                records={"pooled": make_record((16,))},
                num_videos=options.shards * VIDEOS_PER_SHARD,
                rows_per_video=(ROWS_PER_VIDEO,),
                shard_rows=ROWS_PER_VIDEO * VIDEOS_PER_SHARD,
            )
            write_store(path, plan)
        seconds: dict[str, list[float]] = {"store": [], "coverage": [], "feature": []}
        for _ in range(options.repeats):
            started = time.perf_counter()
            store = open_store(path)
            opened = time.perf_counter()
            store.coverage("pooled")
            covered = time.perf_counter()
            with store.feature("pooled") as features:
                num_rows = features.num_rows
            seconds["store"].append(opened - started)
            seconds["coverage"].append(covered - opened)
            seconds["feature"].append(time.perf_counter() - covered)
    rows = [{"opening": name, "seconds": median(values)} for name, values in seconds.items()]
    rows.append({"opening": "all", "seconds": sum(row["seconds"] for row in rows)})
    report(f"opening {options.shards} shards, {num_rows} rows", rows, as_json=options.json)


if __name__ == "__main__":
    main()
