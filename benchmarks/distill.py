"""Does a student learn from its teachers, and what do teachers and further students cost?

`--part motion`: thin networks on the motion set. Two teachers are fine-tuned on the motion labels and say once what
they know of every training clip. A student learns from the same labels with several seeds: on labels alone, from the
teachers added (`sum`) and weighed (`aekd`), and from the teachers' logits permuted among the clips. Differences from
labels alone, and of `sum` from permuted teachers, have intervals that are paired by video and seed. All arms begin with
the same weights and see the same clips. Finished parts in `--folder` are kept, and a killed run goes on.

`--part speed`: seconds per epoch, interleaved, of one student without teachers and with four stored ones, and of two
students together and each alone, where decoding bounds the epoch:

    uv run python benchmarks/distill.py --part motion --folder distilled
    uv run python benchmarks/distill.py --part speed --repeats 3
"""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import counted, median, parser, report, spent

from featcache.data.motion import LISTING_NAME, MotionSettings, make_motion_set, remove_motion_set
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.methods.distill.run import distill
from featcache.methods.distill.settings import DistillSettings, StudentSettings
from featcache.methods.finetune.run import finetune
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneSettings, FinetuneTestSettings
from featcache.metrics.comparison import compare
from featcache.training.settings import OptimiserSettings, TrainingSettings

TEACHERS = ("r3d-tiny", "r21d-tiny")
STUDENT = "r3d-tiny"
SIZE, STUDENT_SIZE, FRAMES = 32, 24, 8
"""Teachers see larger pictures than the student, which costs it nothing, since their logits are stored."""
CLIPS = MotionSettings(
    size=64,
    num_frames=FRAMES,
    train_per_picture_motion=4,
    test_seen_per_picture_motion=1,
    test_unseen_per_picture_motion=2,
)
ARMS: Mapping[str, dict[str, Any]] = {
    "labels": {"kd_weight": 0.0},
    "sum": {"mode": "sum"},
    "permuted": {"mode": "sum", "permute_teachers": True},
    "aekd": {"mode": "aekd"},
}
WHOLE = FinetuneClipSettings(
    num_frames=FRAMES, frame_stride=1, crop="centre", side_range=(1.0, 1.0), flip_probability=0.0
)


def main() -> None:
    """Run one part and print its tables."""
    options = parser(__doc__)
    options.add_argument("--part", choices=("motion", "speed"), required=True)
    options.add_argument("--folder", type=Path, help="keep clips, stores and runs here, and go on with what is there")
    options.add_argument("--epochs", type=int, default=8, help="of the student")
    options.add_argument("--teacher-epochs", type=int, default=12)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the student; teachers have seed 0")
    options.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options.add_argument("--threads", type=int, default=1)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        if args.part == "motion":
            motion(folder, args)
        else:
            speed(folder, args)


def motion(folder: Path, args: Any) -> None:
    """The arms, and their differences."""
    listing = folder / "videos" / LISTING_NAME
    if not listing.exists():
        remove_motion_set(listing.parent, CLIPS)  # of a run that was killed
        make_motion_set(listing.parent, CLIPS)
    shared = {
        "source": str(listing),
        "label": "motion",
        "head_dropout": 0.0,
        "workers": 0,
        "clips": WHOLE,
        "test": FinetuneTestSettings(num_clips=1, num_crops=1),
    }
    for teacher in TEACHERS:
        out = folder / "teachers" / teacher
        with counted(out):
            finetune(
                FinetuneSettings(
                    **shared,
                    backbone=teacher,
                    weights="random",
                    input_size=SIZE,
                    training=training(args, epochs=args.teacher_epochs, seeds=(0,)),
                    out=str(out),
                )
            )
    store = folder / "store"
    with counted(store):
        extract(said(listing, store, folder / "teachers", threads=args.threads))
    rows = []
    for arm in args.arms:
        settings = DistillSettings(
            **shared,
            students=(StudentSettings(backbone=STUDENT, input_size=STUDENT_SIZE),),
            teachers=tuple(f"{store}#{teacher}" for teacher in TEACHERS),
            **ARMS[arm],
            training=training(args, epochs=args.epochs, seeds=tuple(args.seeds)),
            out=str(folder / "students" / arm),
        )
        with counted(folder / "students" / arm):
            distill(settings)
        rows.append(row(arm, folder / "students" / arm / STUDENT, cpu=spent(folder / "students" / arm)))
        report("so far", rows, as_json=args.json)
    teachers = [row(each, folder / "teachers" / each, cpu=spent(folder / "teachers" / each)) for each in TEACHERS]
    report("teachers, seed 0", teachers, as_json=args.json)
    pairs = [("labels", arm) for arm in args.arms if arm != "labels"] + [("permuted", "sum")]
    gains = [gain(folder, *pair) for pair in pairs if {*pair} <= {*args.arms}]
    note = f"{STUDENT}, {len(args.seeds)} seeds, {args.epochs} epochs; top-1 of 8 motions in percent, chance 12.5"
    report("students, paired by video and seed", gains, as_json=args.json, notes=[note])


def training(args: Any, *, epochs: int, seeds: tuple[int, ...]) -> TrainingSettings:
    """The training of teachers and students."""
    return TrainingSettings(
        epochs=epochs,
        batch_size=32,
        optimiser=OptimiserSettings(name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4, decay_all=True),
        seeds=seeds,
        device="cpu",
        threads=args.threads,
        tensorboard=False,
        checkpoint_seconds=60,
    )


def said(listing: Path, out: Path, teachers: Path, *, threads: int) -> ExtractSettings:
    """The extraction of what the teachers say of all clips, by one decoding pass."""
    return ExtractSettings(
        source=str(listing),
        out=str(out),
        features=tuple(
            FeatureSettings(
                backbone=each,
                weights=str(teachers / each / "seed-0/classifier.safetensors"),
                output="logits",
                name=each,
                precision="float32",
            )
            for each in TEACHERS
        ),
        sampling=SamplingSettings(num_clips=1),
        runtime=RuntimeSettings(device="cpu", threads=threads),
    )


def row(name: str, folder: Path, *, cpu: float) -> dict[str, Any]:
    """Accuracies of a run."""
    splits = json.loads((folder / "result.json").read_text())["splits"]
    shown = {}
    for split, part in splits.items():
        top1 = part["metrics"]["top1"]
        low, value, high = (100 * top1[key] for key in ("low", "value", "high"))
        shown[split] = f"{value:.1f} [{low:.1f}, {high:.1f}]"
    return {"": name, **shown, "CPU seconds": round(cpu)}


def gain(folder: Path, first: str, second: str) -> dict[str, Any]:
    """The difference of two arms, paired by video and seed."""
    compared = compare([folder / "students" / arm / STUDENT for arm in (first, second)])
    shown = {}
    for split, part in compared.splits.items():
        (difference,) = part.differences
        low, value, high = (100 * each for each in (difference.low, difference.value, difference.high))
        shown[split] = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    return {"": f"{second} minus {first}", **shown}


def speed(folder: Path, args: Any) -> None:
    """Seconds per epoch of runs in turn."""
    clips = MotionSettings(
        size=256,
        num_frames=96,
        train_per_picture_motion=4,
        test_seen_per_picture_motion=1,
        test_unseen_per_picture_motion=0,
        num_unseen_pictures=21,
    )
    listing = folder / "videos" / LISTING_NAME
    if not listing.exists():
        remove_motion_set(listing.parent, clips)
        make_motion_set(listing.parent, clips)
    listed = [json.loads(line) for line in listing.read_text().splitlines()]
    labels = sorted({each["label.motion"] for each in listed})
    teachers = []
    for key in range(4):
        logits = np.random.default_rng(key).normal(size=(len(listed), len(labels))).astype(np.float32)
        teachers.append(str(folder / f"teacher-{key}.npz"))
        np.savez(teachers[-1], ids=np.array([each["path"] for each in listed]), logits=logits, classes=np.array(labels))
    one, two = (StudentSettings(backbone=name, input_size=SIZE) for name in TEACHERS)
    sides: Mapping[str, dict[str, Any]] = {
        "labels alone": {"students": (one,), "kd_weight": 0.0},
        "four stored teachers, sum": {"students": (one,), "teachers": tuple(teachers)},
        "four stored teachers, aekd": {"students": (one,), "teachers": tuple(teachers), "mode": "aekd"},
        f"{TEACHERS[1]} alone": {"students": (two,), "kd_weight": 0.0},
        "both students": {"students": (one, two), "kd_weight": 0.0},
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(args.repeats):
        for number, (name, given) in enumerate(sides.items()):
            seconds[name].append(epoch_seconds(listing, folder / f"run-{repeat}-{number}", args, **given))
    rows = [
        {"": name, "seconds per epoch": median(each), "of labels alone": median(each) / median(seconds["labels alone"])}
        for name, each in seconds.items()
    ]
    slower = max(median(seconds["labels alone"]), median(seconds[f"{TEACHERS[1]} alone"]))
    note = f"both students over the slower alone: {median(seconds['both students']) / slower:.3f}"
    report("an epoch bound by decoding in one process", rows, as_json=args.json, notes=[note])


def epoch_seconds(listing: Path, out: Path, args: Any, **given: Any) -> float:
    """Wall time of the second of two epochs."""
    settings = DistillSettings(
        source=str(listing),
        label="motion",
        workers=1,
        clips=FinetuneClipSettings(num_frames=FRAMES, flip_probability=0.0),
        test=FinetuneTestSettings(num_clips=1, num_crops=1),
        training=training(args, epochs=2, seeds=(0,)).model_copy(update={"batch_size": 16}),
        out=str(out),
        **given,
    )
    ends: dict[float, float] = {}

    def noted(stage: str, done: float, total: float, note: str = "", num_failed: int = 0) -> None:
        if stage == "seed 0":
            ends[done] = time.perf_counter()

    distill(settings, on_stage=noted)
    return ends[2.0] - ends[1.0]


if __name__ == "__main__":
    main()
