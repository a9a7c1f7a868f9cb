"""SCALE's probes on the motion set: kNN, linear, MLP and Transformer without the predictor, three with it.

Generates the motion set, extracts 16 random clips per video with EfficientNet-Lite0 (real ImageNet weights; a clip's
frames are averaged, so a single clip does not show the direction of the camera), deletes the clips, pre-trains the set
predictor without labels and probes both labels: the photograph and the motion. It is `pipelines/scale.py` with three
seeds of everything; any of its settings may follow `--set`, e.g. an I3D's vectors (hours on a CPU):

    uv run python benchmarks/scale_motion.py
    uv run python benchmarks/scale_motion.py --set feature.backbone=i3d feature.weights=FILE feature.input_size=224 \
        extraction.sampling.num_frames=16 extraction.sampling.frame_stride=1
"""

import tempfile
from pathlib import Path

from common import parser, report

from featcache.commands.registry import command_of, load
from featcache.data.motion import MOTIONS, PHOTOGRAPHS
from featcache.report.tables import Cell, cell_text
from featcache.shipped import find_config, load_pipeline

TRAINED = ("mlp", "scale_linear", "transformer", "scale_ft")


def main() -> None:
    """Run the pipeline and print its table."""
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, help="keep the store and the runs here")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=60, help="of pre-training")
    options.add_argument("--probe-epochs", type=int, default=20)
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=0)
    options.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings of the pipeline")
    args = options.parse_args()
    seeds = f"[{','.join(map(str, range(args.seeds)))}]"
    assignments = [
        f"pretraining.training.seeds={seeds}",
        f"pretraining.training.epochs={args.epochs}",
        "pretraining.training.schedule.warmup_fraction=0.05",
        *(f"{part}.device={args.device}" for part in ("pretraining.training", "extraction.runtime", "probes")),
        *(f"{part}.threads={args.threads}" for part in ("pretraining.training", "extraction.runtime")),
        f"linear.seeds={seeds}",
        *(f"{name}.training.seeds={seeds}" for name in TRAINED),
        *(f"{name}.training.epochs={args.probe_epochs}" for name in TRAINED),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        motion = find_config(Path("configs/scale/motion.yaml"))
        settings = load(motion, assignments=[*assignments, f"out={folder / 'run'}", *args.set])
        assert command_of(settings) == "scale", "motion.yaml is of the pipeline scale"
        result = load_pipeline("scale").run(settings).to_dict()
    table = result["table"]
    rows = [
        {
            "probe": row["name"],
            **{
                name: cell_text(Cell(value=row[name]["value"], low=row[name]["low"], high=row[name]["high"]))
                for name in table["columns"]
            },
        }
        for row in table["rows"]
    ]
    num_seen = len(PHOTOGRAPHS) - settings.motion.num_unseen_pictures
    losses = ", ".join(f"{line['loss']:.3f}" for line in result["predictor"]["seeds"].values())
    notes = [
        f"top-1 in percent [95 % interval over videos and seeds], {args.seeds} seeds; chance {100 / num_seen:.1f} for "
        f"picture, {100 / len(MOTIONS):.1f} for motion; kNN, linear and MLP know no places and times",
        f"{result['predictor']['num_videos']} training videos, the clips deleted before training; loss in the last of "
        f"{args.epochs} epochs of pre-training: {losses}; {result['seconds']:.0f} s in all, "
        f"{result['extract']['rows_total']} rows of {settings.feature.backbone}",
    ]
    report("SCALE's probes on the motion set", rows, as_json=args.json, notes=notes)


if __name__ == "__main__":
    main()
