"""Do the pretext tasks learn? Each task's own question about clips never trained on, against the untrained network.

`r3d-tiny` is trained on each task from random weights, without labels, on the motion set, of which every frame is a key
frame. Each seed has initial weights of its own. Then the task asks its question about test clips of the photographs
that were trained on and of six others: once of the trained network with its heads, once of the same module as it was
before training, about the same clips. BatchNorms and queues of the latter have seen training clips too, so that it is
not judged by the mean and variance that they are built with. `cvrl` asks about 16 videos at once, the others about one,
and each clip is asked about four times, of which the mean counts.

The first table has the answers, and gains in standard errors: those of clips, which are paired, and of seeds together.
The second one fine-tunes on a few motion labels from each task's network and from the initial weights of the same seed,
with intervals that are paired by video and seed; each run sees as many clips. Finished parts in `--folder` are kept,
and a killed run goes on:

    uv run python benchmarks/pretext_learning.py --folder learning --tasks rotnet rspnet cvrl
    uv run python benchmarks/pretext_learning.py --folder learning --tasks prp --seeds 0 --labels
    uv run python benchmarks/pretext_learning.py --folder learning --finished        # prints what is there
"""

import itertools
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from common import counted, parser, report, spent, spread
from torch import Tensor

from featcache.backbones.weights import write_weights
from featcache.config import apply_overrides, parse
from featcache.data.manifest import read_parquet, write_parquet
from featcache.data.motion import LISTING_NAME, MOTIONS, MotionSettings, make_motion_set, remove_motion_set
from featcache.data.scan import scan
from featcache.data.subsets import nested_subset
from featcache.files.publish import put_replace
from featcache.loaders.usable import of_split, open_usable
from featcache.methods.finetune.run import finetune
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.objective import DrawnViews, target_names
from featcache.methods.pretext.run import WEIGHTS, build_module, pretrain
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.pretext.task import TASKS, PretextTask
from featcache.methods.pretext.tdl import mixed
from featcache.metrics import predictions
from featcache.metrics.intervals import difference_of_means
from featcache.metrics.predictions import read_outcomes
from featcache.metrics.settings import IntervalSettings
from featcache.networks.catalogue import build_network
from featcache.training.checkpoint import read_checkpoint
from featcache.training.generators import seeded_torch

NETWORK, WIDTH = "r3d", 1 / 8
BACKBONE = f"{NETWORK}-tiny"
NUM_FRAMES = 8
SPLITS = ("test_seen", "test_unseen")
ANSWERS = "answers.json"
SCRATCH = "scratch"
ASKED_SEED = 1000
"""Seed of the clips that are asked about, which are the same for all networks."""
NUM_DRAWS = 4
"""Questions about each clip, of which the mean counts; the draws differ."""
NUM_SEEN = 512
"""Training videos that BatchNorms and queues of an untrained network see."""
FINETUNED_CLIPS = 4096
"""Clips that a fine-tuning sees, whatever the number of labels."""
FINETUNING: Mapping[str, Any] = {
    "batch_size": 16,
    "optimiser": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},
    "schedule": {"warmup_fraction": 0.1},
    "threads": 1,
    "tensorboard": False,
}
COLOR = {"probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.0}
PLAIN = {"crop": "stretched", "color": None, "tilt_degrees": 0.0}
"""The look of the benchmark without tilt and colours, which take more time than anything else at this size."""
COLORED = {**PLAIN, "color": {**COLOR, "grey_probability": 0.2}, "gamma_probability": 0.5}
"""With colours but for the hue, for ``cvrl``, which could tell videos by them."""


class Course(NamedTuple):
    """Clips to train on, and the side in pixels of what the network sees of them."""

    motion: MotionSettings
    input_size: int


class Case(NamedTuple):
    """How one task is trained and asked: settings of the task and of the training loop, measures to print."""

    course: str
    measures: tuple[str, ...]
    task: Mapping[str, Any]
    training: Mapping[str, Any]
    asked_at_once: int = 1


NUM_CLIPS = {"train_per_picture_motion": 8, "test_seen_per_picture_motion": 2, "test_unseen_per_picture_motion": 5}
COURSES = {
    "short": Course(MotionSettings(num_frames=24, size=32, gop=1, **NUM_CLIPS), input_size=28),
    "fast": Course(
        MotionSettings(
            num_frames=48, size=32, window=(0.15, 0.25), gop=1, **NUM_CLIPS | {"train_per_picture_motion": 24}
        ),
        input_size=28,
    ),
    "long": Course(MotionSettings(num_frames=48, size=72, window=(0.25, 0.45), gop=1, **NUM_CLIPS), input_size=64),
}
ADAM = {"optimiser": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05}, "batch_size": 16}
CASES: Mapping[str, Case] = {
    "rotnet": Case("short", ("accuracy",), {"stride": 1, "look": PLAIN}, {**ADAM, "epochs": 6}),
    "rspnet": Case(
        "fast",
        ("accuracy",),
        {"queue": 16, "momentum": 0.9, "key_splits": 1, "speed": 4, "look": PLAIN},
        {**ADAM, "epochs": 5, "optimiser": {**ADAM["optimiser"], "lr": 4e-3}},
    ),
    "cvrl": Case(
        "short",
        ("accuracy",),
        {"stride": 1, "hidden": 128, "look": COLORED, "other_look": COLORED},
        {**ADAM, "epochs": 5, "batch_size": 32},
        asked_at_once=16,
    ),
    "prp": Case("long", ("accuracy", "pixel_loss"), {"complexity": "c2", "look": PLAIN}, {**ADAM, "epochs": 7}),
    "vcop": Case("long", ("accuracy",), {"look": PLAIN}, {**ADAM, "epochs": 10}),
    "tdl": Case("long", ("accuracy", "own"), {"queue": 500, "momentum": 0.9, "look": PLAIN}, {**ADAM, "epochs": 12}),
    "videomae": Case("long", ("loss",), {"stride": 2, "look": PLAIN}, {**ADAM, "epochs": 3}),
}


def main() -> None:
    """Train, ask, fine-tune, and print the tables."""
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, help="keep clips and runs here, and go on with what is there")
    options.add_argument("--tasks", nargs="+", choices=CASES, default=list(CASES))
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--labels", type=int, nargs="*", default=[10, 40], help="labels per motion to fine-tune on")
    options.add_argument("--finished", action="store_true", help="train nothing, and print what is there")
    options.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings of `train pretext`")
    args = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        if not args.finished:
            for seed, task in itertools.product(args.seeds, args.tasks):
                learn(folder, task, seed=seed, given=args.set)
            for seed, labels, start in itertools.product(args.seeds, args.labels, (SCRATCH, *args.tasks)):
                fine_tune(folder, start, labels=labels, seed=seed)
        rows = learnt(folder, args.tasks, args.seeds)
        tuned = fine_tuned(folder, args.tasks, args.seeds, args.labels)
    notes = [
        "accuracies in percent, losses times 100; mean ± standard deviation over the seeds; CPU seconds of training",
    ]
    report("pretext tasks on the motion set", rows, as_json=args.json, notes=notes)
    if tuned:
        report("fine-tuned on motion, top-1 in percent", tuned, as_json=args.json)


def learn(folder: Path, name: str, *, seed: int, given: Sequence[str] = ()) -> None:
    """Train one task with one seed, and ask its network and the untrained one, if that has not been done."""
    out = folder / name / f"seed-{seed}"
    if (out / ANSWERS).exists():
        return
    settings = settings_of(folder, name, seed=seed, given=given)
    with counted(out):
        pretrain(settings)
    with torch.no_grad():
        networks = {"untrained": untrained(settings, seed=seed), "trained": trained(settings, seed=seed)}
        answers = {split: asked(networks, settings, split=split, at_once=CASES[name].asked_at_once) for split in SPLITS}
    put_replace(out / ANSWERS, json.dumps(answers).encode())


def settings_of(folder: Path, name: str, *, seed: int, given: Sequence[str] = ()) -> PretextSettings:
    """Settings of a task with one seed; its clips and initial weights are made if they are not there."""
    case = CASES[name]
    values = {
        "source": str(clips_of(folder, case.course)),
        "task": {"name": name, **case.task},
        "backbone": BACKBONE,
        "weights": str(start_of(folder, seed)),
        "num_frames": NUM_FRAMES,
        "input_size": COURSES[case.course].input_size,
        "workers": 0,
        "training": {
            "schedule": {"warmup_fraction": 0.05},
            "clip_norm": 3.0,
            "seeds": [seed],
            "threads": 1,
            "tensorboard": False,
            "checkpoint_seconds": 60.0,
            **case.training,
        },
        "out": str(folder / name / f"seed-{seed}" / "run"),
    }
    return parse(PretextSettings, apply_overrides(values, given))


def clips_of(folder: Path, name: str) -> Path:
    """The manifest of the clips of a course, which are made and scanned if they are not there."""
    manifest = folder / "clips" / f"{name}.parquet"
    if not manifest.exists():
        motion, videos = COURSES[name].motion, manifest.with_suffix("")
        remove_motion_set(videos, motion)  # of a run that was killed
        make_motion_set(videos, motion, num_workers=1)
        write_parquet(scan(videos / LISTING_NAME, num_workers=1), manifest)
    return manifest


def start_of(folder: Path, seed: int) -> Path:
    """The file with the initial weights of a seed, which is made if it is not there."""
    path = folder / "start" / f"seed-{seed}.safetensors"
    if not path.exists():
        with seeded_torch(seed, "start"):
            write_weights(path, build_network(NETWORK, width=WIDTH), facts={"backbone": BACKBONE, "seed": seed})
    return path


def trained(settings: PretextSettings, *, seed: int) -> PretextModule:
    """The module at the end of a run."""
    module = build_module(settings, seed=seed)
    checkpoint = read_checkpoint(Path(str(settings.out)) / f"seed-{seed}")
    assert checkpoint is not None, f"{settings.out} has no checkpoint"
    module.load_state_dict(checkpoint.weights)
    return module.eval()


def untrained(settings: PretextSettings, *, seed: int) -> PretextModule:
    """The module before a run, after its BatchNorms and queues have seen training clips."""
    module = build_module(settings, seed=seed).train()
    size = settings.training.batch_size
    for batch in itertools.islice(batches(module, settings, split="train", seed=seed, size=size), NUM_SEEN // size):
        settings.task.loss(module, *batch)
    return module.eval()


def batches(
    module: PretextModule, settings: PretextSettings, *, split: str, seed: int, size: int, draw: int = 0
) -> Iterator[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    """Clips and targets of the videos of a split, in an order that is the same for all networks."""
    manifest = read_parquet(Path(str(settings.source)))
    files, _ = open_usable(of_split(manifest.videos, split), root=manifest.root, decoder=settings.decoder)
    source = DrawnViews(settings.task, module.shape, seed=seed)
    names = target_names(source.draw(files.videos[0], epoch=draw))
    order = np.random.default_rng(0).permutation(len(files.videos)).tolist()
    for first in range(0, len(order) - size + 1, size):
        pixels = [source.pixels(files.file(number), draw) for number in order[first : first + size]]
        arrays = [torch.from_numpy(np.stack(each)) for each in zip(*pixels, strict=True)]
        num_views = len(arrays) - len(names)
        yield tuple(arrays[:num_views]), dict(zip(names, arrays[num_views:], strict=True))


def asked(
    networks: Mapping[str, PretextModule], settings: PretextSettings, *, split: str, at_once: int
) -> dict[str, dict[str, list[float]]]:
    """What networks answer about the same clips: by measure and network, the mean over the draws of each clip."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    module = next(iter(networks.values()))
    for draw in range(NUM_DRAWS):
        for batch in batches(module, settings, split=split, seed=ASKED_SEED, size=at_once, draw=draw):
            for name, network in networks.items():
                for measure, value in answer(settings.task, network, *batch).items():
                    draws = found.setdefault(measure, {}).setdefault(name, [[] for _ in range(NUM_DRAWS)])
                    draws[draw].append(value)
    return {
        measure: {name: np.mean(draws, axis=0).tolist() for name, draws in by_network.items()}
        for measure, by_network in found.items()
    }


def answer(
    task: PretextTask, module: PretextModule, clips: tuple[Tensor, ...], targets: Mapping[str, Tensor]
) -> dict[str, float]:
    """A task's loss and metrics; of ``tdl`` also whether the positive is nearer than the negative of the video."""
    loss = task.loss(module, clips, targets)
    found = {"loss": float(loss.total), **{name: float(value) for name, value in loss.metrics.items()}}
    if task.name == "tdl":
        anchor = mixed(clips[0], targets["mixed_frame"], targets["mixed_share"])
        query, negative = (module.projected(clip)["moment"] for clip in (anchor, clips[2]))
        positive = module.keys(clips[1], splits=1)["moment"]
        found["own"] = float(((query * positive).sum(1) > (query * negative).sum(1)).float().mean())
    return found


def learnt(folder: Path, tasks: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One row per task, measure and kind of photographs, over the seeds that are finished."""
    rows = []
    for task in tasks:
        done = [folder / task / f"seed-{seed}" for seed in seeds]
        done = [out for out in done if (out / ANSWERS).exists()]
        answers = [json.loads((out / ANSWERS).read_text()) for out in done]
        chance = parse(TASKS.load(task), {"name": task, **CASES[task].task}).chance
        for measure, split in itertools.product(CASES[task].measures, SPLITS if done else ()):
            before, after = (
                100 * np.array([each[split][measure][name] for each in answers]) for name in ("untrained", "trained")
            )
            gain, error = (after - before).mean(), standard_error(after - before)
            rows.append(
                {
                    "": f"{task}, {measure}",
                    "photographs": split.removeprefix("test_"),
                    "guess": "" if chance is None or measure != "accuracy" else f"{100 * chance:.1f}",
                    "untrained": spread(before.mean(axis=1)),
                    "trained": spread(after.mean(axis=1)),
                    "gain": f"{gain:+.1f}",
                    "standard errors": f"{gain / error:+.1f}" if error else "",
                    "seeds": len(done),
                    "CPU s per seed": round(statistics.fmean(map(spent, done))),
                }
            )
    return rows


def standard_error(gains: npt.NDArray[np.float64]) -> float:
    """Standard error of the mean of gains [seeds, questions], of which both are draws; with one seed, of questions."""
    variance: float = gains.mean(axis=0).var(ddof=1) / gains.shape[1]
    if len(gains) > 1:
        variance += gains.mean(axis=1).var(ddof=1) / len(gains)
    return math.sqrt(variance)


def fine_tune(folder: Path, name: str, *, labels: int, seed: int, given: Sequence[str] = ()) -> None:
    """Fine-tune on some labels per motion, from a task's network or from ``scratch``, if that has not been done."""
    out = folder / "finetuned" / f"{name}-{labels}" / f"seed-{seed}"
    if (out / predictions.NAME).exists():
        return
    course = COURSES["short"]
    manifest = read_parquet(clips_of(folder, "short"))
    train = of_split(manifest.videos, "train")
    chosen = nested_subset([video.labels["motion"] for video in train], num_items=labels * len(MOTIONS))
    kept = {train[place].id for place in chosen}
    few = folder / "clips" / "short" / f"labels-{labels}.parquet"
    videos = tuple(video for video in manifest.videos if video.split != "train" or video.id in kept)
    write_parquet(replace(manifest, videos=videos), few)
    weights = start_of(folder, seed) if name == SCRATCH else folder / name / f"seed-{seed}/run/seed-{seed}/{WEIGHTS}"
    values = {
        "source": str(few),
        "label": "motion",
        "backbone": BACKBONE,
        "weights": str(weights),
        "input_size": course.input_size,
        "workers": 0,
        "head_dropout": 0.0,
        "clips": {"num_frames": NUM_FRAMES, "side_range": [0.7, 1.0], "flip_probability": 0.0},
        "test": {"num_crops": 1},
        "training": {**FINETUNING, "epochs": FINETUNED_CLIPS // len(chosen), "seeds": [seed]},
        "out": str(out),
    }
    with counted(out):
        finetune(parse(FinetuneSettings, apply_overrides(values, given)))


def fine_tuned(folder: Path, tasks: Sequence[str], seeds: Sequence[int], labels: Sequence[int]) -> list[dict[str, Any]]:
    """One row per task, number of labels and kind of photographs, over the seeds that are finished."""
    rows = []
    for number, task in itertools.product(labels, tasks):
        runs = {
            name: {seed: folder / "finetuned" / f"{name}-{number}" / f"seed-{seed}" for seed in seeds}
            for name in (SCRATCH, task)
        }
        done = [seed for seed in seeds if all((each[seed] / predictions.NAME).exists() for each in runs.values())]
        if not done:
            continue
        found = {name: [read_outcomes(each[seed]) for seed in done] for name, each in runs.items()}
        keys = found[task][0].keys
        for split in SPLITS:
            mine = np.array([key[0] == split for key in keys])
            scratch, own = (np.concatenate([each.values[:, mine] for each in found[name]]) for name in runs)
            gain = difference_of_means(own, scratch, IntervalSettings())
            rows.append(
                {
                    "": task,
                    "labels per motion": number,
                    "photographs": split.removeprefix("test_"),
                    "from scratch": spread((100 * scratch).mean(axis=1)),
                    "from the task": spread((100 * own).mean(axis=1)),
                    "difference": f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]",
                    "seeds": len(done),
                    "CPU s per seed": round(statistics.fmean(spent(runs[task][seed]) for seed in done)),
                }
            )
    return rows


if __name__ == "__main__":
    main()
