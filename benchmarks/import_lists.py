"""Importing the Kinetics-400 lists at full size: seconds and peak memory, apart from opening videos.

Writes lists of 240,000 clips of 400 classes and, with ``--files``, an empty file for each clip, in one folder per
class. Each repeat is a process of its own that lists the data set, takes a class-balanced subset, writes the manifest
and reads it again; its peak memory covers all of that. The later work of `scan` on each file (hashing and opening it)
is not included.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import median, parser, report

NUM_CLASSES = 400
NUM_TRAIN, NUM_VAL = 220_000, 20_000
STEPS = ("list", "subset", "write", "read")
_ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))


def write_lists(root: Path, *, with_files: bool) -> None:
    """Write lists like DeepMind's of 2017: quoted labels, ids of 11 characters of which some begin with ``-``."""
    rng = np.random.default_rng(0)
    labels = [f"class number {index}" for index in range(NUM_CLASSES)]
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        ids = ["".join(row) for row in rng.choice(_ALPHABET, (count, 11))]
        chosen, starts = rng.integers(0, NUM_CLASSES, count), rng.integers(0, 290, count)
        rows = list(zip(ids, chosen.tolist(), starts.tolist(), strict=True))
        lines = (f'"{labels[c]}",{video},{start},{start + 10},{split},0\n' for video, c, start in rows)
        with (root / f"{split}.csv").open("w", encoding="utf-8") as file:
            file.write("label,youtube_id,time_start,time_end,split,is_cc\n")
            file.writelines(lines)
        for label in labels if with_files else ():
            (root / split / label).mkdir(parents=True)
        for video, c, start in rows if with_files else ():
            (root / split / labels[c] / f"{video}_{start:06d}_{start + 10:06d}.mp4").touch()


def measure(root: Path, target: Path) -> dict[str, float]:
    """Run each step once in this process."""
    import logging

    from featcache.data.importers import list_dataset
    from featcache.data.manifest import read_parquet, write_parquet
    from featcache.data.selection import Selection, select

    logging.disable()
    times = [time.perf_counter()]
    manifest = list_dataset("kinetics400", root=root)
    times.append(time.perf_counter())
    subset = select(manifest, Selection(subset=100_000))
    times.append(time.perf_counter())
    write_parquet(manifest, target)
    times.append(time.perf_counter())
    again = read_parquet(target)
    times.append(time.perf_counter())
    assert again == manifest, "the manifest is not what was written"
    assert len(manifest) == NUM_TRAIN + NUM_VAL, f"{len(manifest)} rows"
    assert len(subset) == 100_000 + NUM_VAL, f"{len(subset)} rows"
    seconds = dict(zip(STEPS, np.diff(times).tolist(), strict=True))
    unit = 1 if sys.platform == "darwin" else 1024
    return {**seconds, "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


def repeats(root: Path, *, count: int) -> Iterator[dict[str, float]]:
    """Run each measurement in a process of its own."""
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--measure", str(root), str(Path(folder) / "videos.parquet")]
            yield json.loads(subprocess.check_output(command, text=True))


def main() -> None:
    """Measure and print the table."""
    built = parser(__doc__)
    built.add_argument("--measure", nargs=2, metavar=("ROOT", "MANIFEST"), help="measure once, in this process")
    built.add_argument("--files", action="store_true", help="an empty file for each clip; otherwise all are missing")
    given = built.parse_args()
    if given.measure:
        print(json.dumps(measure(*map(Path, given.measure))))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_lists(root, with_files=given.files)
        runs = list(repeats(root, count=given.repeats))
    row = {key: median([run[key] for run in runs]) for key in runs[0]}
    total = median([sum(run[step] for step in STEPS) for run in runs])
    rows = [
        {"clips": f"{NUM_TRAIN + NUM_VAL:,}", "files": "all" if given.files else "none", **row, "all steps s": total}
    ]
    report("import of the Kinetics-400 lists", rows, as_json=given.json, notes=["steps in seconds"])


if __name__ == "__main__":
    main()
