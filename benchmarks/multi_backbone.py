"""Several backbones in one pass against the sum of their forward passes and one decode, for the same clips, in one run.

The goal is extract <= 1.05 x (decode alone + the forward passes alone). For comparison: the same backbones with one
pass per backbone.

    uv run python benchmarks/multi_backbone.py --videos 64
"""

import shutil
import tempfile
import time
from pathlib import Path

from common import median, parser, report
from extract import time_decoding, time_forward

from featcache.data.manifest import write_parquet
from featcache.data.motion import MotionSettings, make_motion_set
from featcache.data.scan import scan
from featcache.extract.prepare import prepare
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings

# Layer normalisation keeps random weights from fading into denormal numbers, which a CPU multiplies ten times slower.
SMALL = ("timm/tf_efficientnet_lite0=default", "timm/vit_tiny_patch16_224=random", "timm/convnext_atto=random")


def main() -> None:
    """Time the sides in turn and print their ratio."""
    options = parser(__doc__)
    options.add_argument("--videos", type=int, default=64)
    options.add_argument("--size", type=int, default=320, help="side of the square clips")
    options.add_argument("--frames", type=int, default=48, help="frames per clip")
    options.add_argument("--backbones", nargs="+", default=SMALL, help="NAME=WEIGHTS")
    options.add_argument("--interpolation", default="bicubic", help="one resize filter for all, so one set of pixels")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=0, help="threads of the forward pass; 0: all cores")
    options.add_argument("--layout", default="clips", choices=["clips", "frames"])
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listing = make_motion_set(
            folder / "videos",
            MotionSettings(
                size=args.size,
                num_frames=args.frames,
                num_unseen_pictures=14,
                train_per_picture_motion=max(1, args.videos // 64),
                test_seen_per_picture_motion=0,
                test_unseen_per_picture_motion=0,
            ),
        )
        listing.write_text("".join(line + "\n" for line in listing.read_text().splitlines()[: args.videos]))
        write_parquet(scan(listing), folder / "videos.parquet")
        features = tuple(
            FeatureSettings(backbone=backbone, weights=weights, interpolation=args.interpolation)
            for backbone, _, weights in (text.partition("=") for text in args.backbones)
        )

        def settings_for(*chosen: FeatureSettings) -> ExtractSettings:
            return ExtractSettings(
                source=str(folder / "videos.parquet"),
                out=str(folder / "store"),
                features=chosen,
                sampling=SamplingSettings(layout=args.layout),
                runtime=RuntimeSettings(device=args.device, threads=args.threads),
            )

        seconds: dict[str, list[float]] = {
            "decode alone": [],
            "forwards alone": [],
            "one pass": [],
            "one pass each": [],
        }
        for _ in range(args.repeats):
            prepared = prepare(settings_for(*features))
            decode_seconds, batches = time_decoding(prepared)
            seconds["decode alone"].append(decode_seconds)
            seconds["forwards alone"].append(time_forward(prepared, batches))
            del prepared, batches
            passes, rows_written = time_extract(settings_for(*features))
            seconds["one pass"].append(passes)
            seconds["one pass each"].append(sum(time_extract(settings_for(feature))[0] for feature in features))
        floors = [a + b for a, b in zip(seconds["decode alone"], seconds["forwards alone"], strict=True)]
        ratios = [a / b for a, b in zip(seconds["one pass"], floors, strict=True)]
        rows = [{"what": what, "seconds": median(values)} for what, values in seconds.items()]
        rows.append({"what": "one pass / (decode + forwards)", "seconds": median(ratios)})
        apart = [a / b for a, b in zip(seconds["one pass each"], seconds["one pass"], strict=True)]
        rows.append({"what": "one pass each / one pass", "seconds": median(apart)})
        notes = [
            f"{args.videos} videos, {args.frames} frames, {args.size} px, {rows_written} rows",
            f"{len(features)} backbones: {', '.join(args.backbones)}",
            "a pass is the whole call: backbones built, workers started, shards written",
            f"ratios of the runs: {', '.join(f'{ratio:.3f}' for ratio in ratios)}",
        ]
        report("multi_backbone", rows, as_json=args.json, notes=notes)


def time_extract(settings: ExtractSettings) -> tuple[float, int]:
    """Seconds of an extraction into a new store, and its rows."""
    shutil.rmtree(settings.out, ignore_errors=True)
    started = time.perf_counter()
    result = extract(settings)
    return time.perf_counter() - started, result.rows_written


if __name__ == "__main__":
    main()
