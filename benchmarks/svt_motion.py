"""SVT from scratch on the motion set: what its teacher knows about motion, against the untrained network.

`pipelines/svt.py` with three seeds: `svt-tiny` is trained without labels on short clips of eight camera motions over 16
photographs, with views that are never mirrored. kNN and a linear probe then test the teacher of each seed, and the
network with that seed's initial weights. The photograph is a short-cut: it is the same in all views of a clip, as the
motion is. Motions come in pairs of opposite directions along one axis, so an accuracy of motion is also shown as the
share of right axes and, among these, of right directions.

The first table crosses the stem of the network with the centring of the teacher's logits. The second one fine-tunes the
first seed's teacher, and its initial weights, on a few labels per motion, with intervals of the difference that are
paired by video; each run sees as many clips as 15 epochs of all labels have. The third one describes the training.
Finished parts in `--folder` are kept; any setting of the pipeline may follow `--set`:

    uv run python benchmarks/svt_motion.py --folder motion
    uv run python benchmarks/svt_motion.py --seeds 1 --arms difference-reversal --labels \
        --set pretraining.training.epochs=4
"""

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from common import counted, parser, report, spent, spread

from featcache.commands.pipeline import decide
from featcache.commands.registry import command_of, load
from featcache.data.motion import LISTING_NAME, MOTIONS, PAIRS, PHOTOGRAPHS, make_motion_set, remove_motion_set
from featcache.data.subsets import nested_subset
from featcache.methods.finetune.run import finetune
from featcache.metrics.comparison import compare
from featcache.shipped import find_config, load_pipeline
from featcache.training.logs import read_log

ARMS: Mapping[str, tuple[str, ...]] = {
    f"{stem}-{centering}": (
        f"pretraining.stem={stem}",
        f"pretraining.loss.centering={centering}",
        f"pretraining.loss.teacher_temperature={temperature}",
        f"pretraining.loss.first_teacher_temperature={temperature}",
    )
    for stem in ("difference", "patches")
    for centering, temperature in (("reversal", 0.02), ("moving", 0.04))
}
"""Settings of each arm: a stem and a centring with the temperature that belongs to it."""
LARGE_TESTS = ("motion.test_seen_per_picture_motion=4", "motion.test_unseen_per_picture_motion=6")
"""More test clips than the pipeline's own: with 128 of them, an accuracy of 40 % has a sampling error of 4 %."""
AXIS = {motion: axis for axis, pair in PAIRS.items() for motion in pair}
THREADED = ("pretraining.training", "finetuning.training", "extraction.runtime")
MEASURES = ("loss", "entropy", "mean_entropy", "feature_deviation", "rank")


def main() -> None:
    """Run the arms and print the tables."""
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, help="keep stores and runs here, and go on with what is there")
    options.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument(
        "--labels", type=int, nargs="*", default=[10, 40, 80], help="labels per motion to fine-tune on"
    )
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--lines", type=int, default=6, help="epochs to print")
    options.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings of the pipeline")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        rows: list[dict[str, Any]] = []
        for arm in args.arms:
            settings = settings_of(arm, folder, seeds=args.seeds, threads=args.threads, given=args.set)
            with counted(folder / arm):
                result = load_pipeline("svt").run(settings).to_dict()
            rows += [{"": f"{arm}, {row.pop('')}", **row} for row in probe_rows(result["probes"])]
            if arm == args.arms[0]:
                first, pretrained = settings, result["pretrained"]
        found = few_labels(first, labels=args.labels)
        logs = [read_log(Path(first.out) / "pretrained" / f"seed-{seed}") for seed in range(args.seeds)]
        used = spent(Path(first.out)) / args.seeds
    num_videos, epochs = pretrained["num_videos"], first.pretraining.training.epochs
    seen = len(PHOTOGRAPHS) - first.motion.num_unseen_pictures
    seconds = statistics.fmean(epochs * num_videos / log[-1]["items_per_second"] for log in logs)
    notes = [
        f"top-1 in percent, mean ± standard deviation over {args.seeds} seeds; chance {100 / seen:.1f} for picture, "
        f"{100 / len(MOTIONS):.1f} for motion, {100 / len(PAIRS):.1f} for its axis, 50 for direction",
        f"{num_videos} clips, {epochs} epochs; {args.arms[0]} took {seconds:.0f} s of training per seed, "
        f"with its probes {used:.0f} CPU seconds",
    ]
    report("SVT's teacher on the motion set", rows, as_json=args.json, notes=notes)
    if found:
        report(f"fine-tuned on motion, {args.arms[0]}, seed 0", found, as_json=args.json)
    report(f"training of {args.arms[0]}, mean over seeds", log_rows(logs, num_lines=args.lines), as_json=args.json)


def settings_of(arm: str, folder: Path, *, seeds: int, threads: int, given: Sequence[str]) -> Any:
    """Settings of the pipeline for one arm, without its fine-tuning; the clips are made if they are not there."""
    assignments = [
        f"out={folder / arm}",
        f"pretraining.training.seeds={list(range(seeds))}",
        *(f"{part}.threads={threads}" for part in THREADED),
        *ARMS[arm],
        *LARGE_TESTS,
        *given,
    ]
    settings = load(find_config(Path("configs/svt/motion.yaml")), assignments=assignments)
    assert command_of(settings) == "svt", "motion.yaml is of the pipeline svt"
    listing = folder / "videos" / LISTING_NAME
    if not listing.exists():
        remove_motion_set(listing.parent, settings.motion)  # of a run that was killed
        make_motion_set(listing.parent, settings.motion)
    return settings.model_copy(update={"finetuning": None, "source": str(listing)})


def probe_rows(probes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per probe and network, over the seeds of a network; results are named ``<probe>, <network>-<seed>``."""
    rows: dict[str, dict[str, Any]] = {}
    for label, by_name in probes.items():
        values: dict[tuple[str, str], list[float]] = {}
        for name, result in by_name.items():
            for split, numbers in result["splits"].items():
                if numbers["num_unseen"] < numbers["num_videos"]:
                    row, place = name.rpartition("-")[0], split.removeprefix("test_")
                    values.setdefault((row, f"{label}, {place}"), []).append(100 * numbers["metrics"]["top1"]["value"])
                    if label == "motion":
                        for kind, share in axis_and_direction(Path(result["out"]), split).items():
                            values.setdefault((row, f"{kind}, {place}"), []).append(100 * share)
        for (row, column), shares in values.items():
            rows.setdefault(row, {"": row})[column] = spread(shares)
    return list(rows.values())


def axis_and_direction(folder: Path, split: str) -> dict[str, float]:
    """Share of a split's videos with the right axis, and share of these with the right direction."""
    table = pq.read_table(folder / "predictions.parquet", columns=["split", "label", "predicted"])
    rows = [row for row in table.to_pylist() if row["split"] == split]
    right_axis = [row for row in rows if AXIS[row["label"]] == AXIS[row["predicted"]]]
    right = sum(row["label"] == row["predicted"] for row in right_axis)
    return {"axis": len(right_axis) / len(rows), "direction": right / max(1, len(right_axis))}


def few_labels(settings: Any, *, labels: Sequence[int]) -> list[dict[str, Any]]:
    """Fine-tune the first seed's teacher and its initial weights on some labels per motion; one row for each number."""
    if not labels:
        return []
    listing = Path(settings.source)
    clips = [json.loads(line) for line in listing.read_text().splitlines()]
    train = [clip for clip in clips if clip["split"] == "train"]
    tests = [clip for clip in clips if clip["split"] != "train"]
    finetuning = load(find_config(Path("configs/svt/motion.yaml"))).finetuning
    out, network = Path(settings.out), {"backbone": "svt-tiny", "input_size": settings.input_size}
    starts = {"scratch": out / "untrained/seed-0.safetensors", "teacher": out / "pretrained/seed-0/teacher.safetensors"}
    rows = []
    for number in labels:
        chosen = nested_subset([clip["label.motion"] for clip in train], num_items=number * len(MOTIONS))
        part = listing.with_name(f"labels-{number}.jsonl")
        part.write_text("".join(f"{json.dumps(clip)}\n" for clip in [*(train[place] for place in chosen), *tests]))
        runs = {}
        for name, weights in starts.items():
            runs[name] = out / "finetuned" / f"{name}-{number}"
            values = {**network, "source": str(part), "weights": str(weights), "out": str(runs[name])}
            step = decide(
                finetuning, {**values, "training.epochs": finetuning.training.epochs * len(train) // len(chosen)}
            )
            threads = step.training.model_copy(update={"threads": settings.pretraining.training.threads})
            with counted(runs[name]):
                finetune(step.model_copy(update={"training": threads}))
        compared = compare([runs["scratch"], runs["teacher"]])
        for split, numbers in compared.splits.items():
            gain = numbers.differences[0]
            rows.append(
                {
                    "labels per motion": number,
                    "photographs": split.removeprefix("test_"),
                    **{name: f"{100 * each.value:.1f}" for name, each in zip(runs, numbers.values, strict=True)},
                    "difference": f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]",
                    "CPU seconds from scratch": round(spent(runs["scratch"])),
                }
            )
    return rows


def log_rows(logs: Sequence[Sequence[Mapping[str, float]]], *, num_lines: int) -> list[dict[str, Any]]:
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


if __name__ == "__main__":
    main()
