"""Peak memory of an extraction at 50 and at 500 videos: it must be flat.

uv run python benchmarks/memory.py --videos 50 500
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import parser, report

from featcache.data.motion import MotionSettings, make_motion_set

_CHILD = """
import json, resource, sys
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
result = extract(ExtractSettings(
    source=sys.argv[1], out=sys.argv[2],
    features=(FeatureSettings(backbone="timm/tf_efficientnet_lite0", layer="blocks.4", output="map"),),
    sampling=SamplingSettings(num_clips=2, num_frames=8), runtime=RuntimeSettings(device="cpu"), shard_rows=32))
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"rows": result.rows_written, "own": own * 1024, "workers": workers * 1024}))
"""


def main() -> None:
    """Run one child process per number of videos and compare their peaks."""
    options = parser(__doc__)
    options.add_argument("--videos", type=int, nargs=2, default=[50, 500])
    args = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listing = make_motion_set(
            folder / "videos",
            MotionSettings(
                num_frames=16,
                num_unseen_pictures=6,
                train_per_picture_motion=4,
                test_seen_per_picture_motion=0,
                test_unseen_per_picture_motion=0,
            ),
        )
        lines = listing.read_text().splitlines()
        for count in args.videos:
            part = listing.with_name(f"part{count}.jsonl")
            part.write_text("\n".join(lines[:count]) + "\n")
            child = [sys.executable, "-c", _CHILD, str(part), str(folder / f"store{count}")]
            done = subprocess.run(child, check=True, capture_output=True, text=True)
            measured = json.loads(done.stdout.splitlines()[-1])
            rows.append(
                {
                    "videos": count,
                    "rows": measured["rows"],
                    "peak MB": measured["own"] / 1e6,
                    "largest worker MB": measured["workers"] / 1e6,
                }
            )
    ratio = rows[1]["peak MB"] / rows[0]["peak MB"]
    worker_ratio = rows[1]["largest worker MB"] / rows[0]["largest worker MB"]
    note = f"ratio {ratio:.3f} (extractor), {worker_ratio:.3f} (largest decoding process)"
    report("memory", rows, as_json=args.json, notes=[note])


if __name__ == "__main__":
    main()
