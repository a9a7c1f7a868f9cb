"""SVT from scratch on the motion set: what its teacher knows about motion and pictures, against the untrained network.

`pipelines/svt.py` with three seeds: `svt-tiny` is trained without labels on short clips of eight camera motions over 16
photographs, with views that are never mirrored. kNN and a linear probe then test the teacher of each seed, and the
network with that seed's initial weights, on both labels. The photograph is a short-cut: it is the same in all views of
a clip, as the motion is. Means and standard deviations are over the seeds. The second table describes the training,
with means over the seeds; any setting may follow `--set`:

    uv run python benchmarks/svt_motion.py
    uv run python benchmarks/svt_motion.py --seeds 1 --set pretraining.training.epochs=4 \
        pretraining.views.local_time=0.75
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import parser, report

from featcache.commands.registry import command_of, load
from featcache.data.motion import MOTIONS, PHOTOGRAPHS
from featcache.shipped import find_config, load_pipeline
from featcache.training.logs import read_log

THREADED = ("pretraining.training", "finetuning.training", "extraction.runtime")
MEASURES = ("loss", "entropy", "mean_entropy", "feature_deviation", "rank")


def main() -> None:
    """Run the pipeline and print both tables."""
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, help="keep the store and the runs here")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--threads", type=int, default=0)
    options.add_argument("--lines", type=int, default=6, help="epochs to print")
    options.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings of the pipeline")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (args.folder or Path(name)) / "run"
        assignments = [
            f"out={folder}",
            f"pretraining.training.seeds=[{','.join(map(str, range(args.seeds)))}]",
            *(f"{part}.threads={args.threads}" for part in THREADED),
            *args.set,
        ]
        settings = load(find_config(Path("configs/svt/motion.yaml")), assignments=assignments)
        assert command_of(settings) == "svt", "motion.yaml is of the pipeline svt"
        result = load_pipeline("svt").run(settings).to_dict()
        logs = [read_log(folder / "pretrained" / f"seed-{seed}") for seed in settings.pretraining.training.seeds]
    seen = len(PHOTOGRAPHS) - settings.motion.num_unseen_pictures
    trained = settings.pretraining.training.epochs * result["pretrained"]["num_videos"]
    seconds = statistics.fmean(trained / log[-1]["items_per_second"] for log in logs)
    notes = [
        f"top-1 in percent, mean ± standard deviation over {args.seeds} seeds; chance {100 / seen:.1f} for picture, "
        f"{100 / len(MOTIONS):.1f} for motion; fine-tuned: seed 0 alone",
        f"{result['pretrained']['num_videos']} clips, {settings.pretraining.training.epochs} epochs, "
        f"{seconds:.0f} s of training per seed, {result['seconds']:.0f} s in all",
    ]
    report("SVT's teacher on the motion set", probe_rows(result["probes"]), as_json=args.json, notes=notes)
    report("its training", log_rows(logs, num_lines=args.lines), as_json=args.json)


def probe_rows(probes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per probe and network, over the seeds of a network; results are named ``<probe>, <network>-<seed>``."""
    rows: dict[str, dict[str, Any]] = {}
    for label, by_name in probes.items():
        values: dict[tuple[str, str], list[float]] = {}
        for name, result in by_name.items():
            for split, numbers in result["splits"].items():
                if numbers["num_unseen"] < numbers["num_videos"]:
                    place = name.rpartition("-")[0], f"{label}, {split}"
                    values.setdefault(place, []).append(100 * numbers["metrics"]["top1"]["value"])
        for (row, column), shares in values.items():
            rows.setdefault(row, {"": row})[column] = spread(shares)
    return list(rows.values())


def log_rows(logs: Sequence[Sequence[dict[str, float]]], *, num_lines: int) -> list[dict[str, Any]]:
    """Some epochs of a training run from the first to the last, with the mean over seeds of each metric."""
    last = len(logs[0]) - 1
    lines = sorted({round(step * last / max(1, num_lines - 1)) for step in range(num_lines)})
    return [
        {
            "epoch": round(logs[0][line]["epoch"]),
            **{name: statistics.fmean(log[line][name] for log in logs) for name in MEASURES},
        }
        for line in lines
    ]


def spread(values: Sequence[float]) -> str:
    """``mean ± standard deviation``, with n - 1 in the deviation; a single value is given alone."""
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


if __name__ == "__main__":
    main()
