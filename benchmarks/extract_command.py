"""The whole command `featcache extract` against a plain script with PyAV and timm, processes started and ended.

Both write four clips of eight frames of each video as features of EfficientNet-lite0, in turn, and their features are
compared. The plain side is `plain_extract.py`, in this folder: it decodes and encodes one video after the other, and
keeps no record of anything. Ours also scans and hashes the files, checks what it writes, and can resume. Modules are
compiled once before, as after any first run. The goal is 1.0.

    uv run python benchmarks/extract_command.py --videos FOLDER --weights tf_efficientnet_lite0.safetensors
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from common import cpu_seconds, median, parser, report

import featcache

BACKBONE = "timm/tf_efficientnet_lite0"
PLAIN = Path(__file__).with_name("plain_extract.py")
LEAST_COSINE, LEAST_MEDIAN = 0.9, 0.9999
"""Of 17 real clips two differ: `tree.avi` has no constant rate, and `nasa_13013.mp4` has two video streams."""


def main() -> None:
    """Time pairs in turn and print their ratio."""
    options = parser(__doc__)
    options.add_argument("--videos", type=Path, required=True, help="folder of short clips")
    options.add_argument("--weights", type=Path, required=True, help="the backbone's weights")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, arrays = folder / "store", folder / "plain.npz"
        sides = {
            "featcache extract": [
                "-m", "featcache", "extract", str(args.videos), "--backbone", BACKBONE, "--weights", str(args.weights),
                "--out", str(store), "--json",
            ],
            "plain script": [str(PLAIN), str(args.videos), str(args.weights), str(arrays)],
        }  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
        wall: dict[str, list[float]] = {side: [] for side in sides}
        cpu: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(args.repeats + 1):
            for side, words in list(sides.items())[:: 1 if turn % 2 else -1]:
                if side == "featcache extract":
                    shutil.rmtree(store, ignore_errors=True)  # else it would find that nothing is lacking
                started, used = time.perf_counter(), cpu_seconds()
                subprocess.run([sys.executable, *words], env=environment, check=True, capture_output=True)
                if turn:  # the first pair fills the caches
                    wall[side].append(time.perf_counter() - started)
                    cpu[side].append(cpu_seconds() - used)
        cosines = compare(store, arrays)
    rows = [{"side": side, "seconds": median(wall[side]), "CPU seconds": median(cpu[side])} for side in sides]
    for column, seconds in (("ratio", wall), ("CPU ratio", cpu)):
        pairs = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)]
        low, high = interval(pairs)
        rows[0] |= {column: median(pairs), f"{column} 95 %": f"{low:.3f} to {high:.3f}"}
    notes = [
        f"{args.repeats} pairs in turn, ratios are medians of pairs; goal 1.0",
        f"{len(cosines)} clips of {BACKBONE}; least cosine of their features {min(cosines):.5f}, median "
        f"{median(cosines):.6f}",
    ]
    report("a whole extraction", rows, as_json=args.json, notes=notes)
    if min(cosines) < LEAST_COSINE or median(cosines) < LEAST_MEDIAN:
        sys.exit(f"the two sides compute different features: a cosine of {min(cosines):.4f}")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median, by resampling."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def compare(store: Path, arrays: Path) -> list[float]:
    """Cosine of each clip's two features."""
    ours = featcache.open(store).feature()
    with np.load(arrays) as file:
        theirs: Mapping[str, np.ndarray] = dict(file)
    if set(ours.video_ids) != set(theirs):
        sys.exit(f"the two sides read other videos: {sorted(set(ours.video_ids) ^ set(theirs))}")
    cosines = []
    for video, expected in theirs.items():
        found, expected = ours.video(video).astype(np.float64), expected.astype(np.float64)
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        cosines += ((found * expected).sum(axis=1) / norms).tolist()
    return cosines


if __name__ == "__main__":
    main()
