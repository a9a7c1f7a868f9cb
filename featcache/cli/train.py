"""``train`` and ``evaluate``: methods on stores and on videos."""

from collections.abc import Iterator
from typing import Annotated

import typer

from featcache.cli.extract import VIDEOS
from featcache.cli.tables import flag
from featcache.cli.verbs import Verb, group_of, perform_or_plan

COMMON = (
    flag("bank.store", "argument"),
    flag("sets.store", "argument"),
    *VIDEOS,
    flag("bank.feature", "-f"),
    flag("sets.feature", "-f"),
    flag(
        "bank.online",
        help="Decode and encode each clip anew, under fresh crops and colours; STORE may be a file of `extract`.",
    ),
    flag("label", "-l"),
    flag("workers"),
    flag("bank.workers"),
    flag("training.epochs"),
    flag("training.batch_size"),
    flag("training.seeds", "--seed", help="Seed of a run; repeat for several."),
    flag("training.device"),
    flag("out", "-o"),
)
"""Flags of every method that has the setting."""

MODULE = (
    flag(
        "preset",
        kind=str,
        help="The paper's modules: `release` (the default), `ablation-256`, `ablation-2048`, or `release-` and one of "
        "`conv3d`, `swin`, `transformer`.",
    ),
    flag("tmm.temporal_kernel", help="Frames that a block sees; 1, as released, mixes none."),
)
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only print what would be trained, hours and cores that GPUs need, bytes, and what is missing.",
    ),
]

TRAIN = (
    Verb(
        name="advise",
        command="train-advise",
        help="Pre-train a temporal module: at which rate was a clip played?",
        example="`featcache train advise stores/ucf101 --epochs 200 --set clips.num_clips=2`",
        flags=(*MODULE, *COMMON),
        shorthand="tmm",
    ),
    Verb(
        name="tmm",
        command="train-tmm",
        help="Train a temporal module and a head on labels, then score test clips, in order and out of it.",
        example="`featcache train tmm stores/ucf101 --init runs/ucf101/advise-… --seed 0 --seed 1 --seed 2`",
        flags=(
            flag("init", help="A `train advise` run to start from; `none`: from scratch.  [default: none]"),
            flag("compare_scratch"),
            *MODULE,
            *COMMON,
        ),
        shorthand="tmm",
    ),
    Verb(
        name="r3d50",
        command="train-r3d50",
        help="Pre-train an R3D-50 on playback rate end to end, from the videos: AdViSe's costly baseline.",
        example="`featcache train r3d50 --dataset ucf101 --root /data/ucf101 --epochs 200`",
        flags=COMMON,
        act=perform_or_plan(),
        extra={"dry_run": DryRun},
    ),
    Verb(
        name="scale",
        command="train-scale",
        help="Pre-train a set predictor: which clip is hidden here, and which two sets are of one video?",
        example="`featcache train scale stores/ucf101-svt --epochs 200 --set loss.symmetric=true`",
        flags=COMMON,
    ),
    Verb(
        name="svt",
        command="train-svt",
        help="Pre-train a video transformer end to end, from the videos: what would another view of this one say?",
        example="`featcache train svt --dataset kinetics400 --root /data/k400 --size base`",
        flags=(
            flag("size"),
            flag("init", kind=str, help="Weights of an image ViT of that size to start from, e.g. DINO's."),
            *COMMON,
        ),
        shorthand="svt",
        act=perform_or_plan(),
        extra={"dry_run": DryRun},
    ),
    Verb(
        name="pretext",
        command="train-pretext",
        help="Pre-train a backbone on a pretext task from unlabelled videos, e.g. RotNet or one of a package.",
        example="`featcache train pretext videos/ --task rotnet --backbone i3d --epochs 50`  \n"
        "A data set: `featcache train pretext vcop --network r21d --dataset kinetics400 --root /data/k400 "
        "--subset 50000`",
        flags=(
            flag(
                "task.name",
                "--task",
                help="Name of the task, e.g. `rotnet`; --set task.… changes its settings. With --dataset it may come "
                "first, in the place of SOURCE.",
            ),
            flag("complexity", kind=str, help="`c1`, `c2` or `c3`: the fewest, more or the most answers of a task."),
            flag(
                "backbone", "--backbone", "--network", "-b", kind=str,
                help="Any of `featcache backbones`, e.g. `r21d` or `svt-tiny`.",
            ),
            flag("weights", "-w"),
            flag("num_frames", "--frames"),
            flag("input_size"),
            *COMMON,
        ),
        shorthand="pretext",
        act=perform_or_plan(),
        extra={"dry_run": DryRun},
        sets="task.stride=4",
    ),
    Verb(
        name="finetune",
        command="train-finetune",
        help="Train a backbone and a linear head on labelled videos, then score test videos.",
        example="`featcache train finetune --backbone svt-b-slowfast --weights teacher.safetensors "
        "--dataset ucf101 --root /data/ucf101`",
        flags=(
            flag("backbone", "-b", kind=str, help="Any of `featcache backbones`, e.g. `svt-b-slowfast`."),
            flag("weights", "-w"),
            flag("linear", kind=bool, help="Train the head alone on augmented clips: SVT's linear protocol."),
            flag("flip", "--flip/--no-flip", kind=bool, help="Mirror clips; turn it off if direction matters."),
            flag("clips.crop", "--crop", help="Crop of training clips: `short_side`, `resized` or `centre`."),
            flag("test.num_clips", "--test-clips", "--clips", help="Clips of a test video."),
            flag("test.num_crops", "--crops", help="Crops of each test clip."),
            *COMMON,
        ),
        shorthand="finetune",
        act=perform_or_plan(),
        extra={"dry_run": DryRun},
    ),
    Verb(
        name="distill",
        command="train-distill",
        help="Train students on labels and on what teachers say of the same videos, then score test videos.",
        example="`featcache train distill --teacher stores/t#rot --teacher stores/t#vcop --student shufflenet3d "
        "--student r21d --mode aekd --dataset ucf101 --root /data/ucf101`",
        flags=(
            flag(
                "teachers", "--teacher", "-t",
                help="`STORE#FEATURE` with logits, an `.npz` of logits, the folder of a `train finetune` run, or "
                "`BACKBONE` or `BACKBONE=WEIGHTS`; repeat for several.",
            ),
            flag(
                "student", "--student", kind=list[str],
                help="Any of `featcache backbones`, with `=WEIGHTS` to begin with; repeat for several.  "
                "[default weights: random]",
            ),
            flag("mode"),
            flag("temperature"),
            flag("kd_weight", "--kd-weight"),
            flag("permute_teachers", "--permute-teachers"),
            flag("flip", "--flip/--no-flip", kind=bool, help="Mirror clips; turn it off if direction matters."),
            flag("clips.crop", "--crop", help="Crop of training clips: `short_side`, `resized` or `centre`."),
            flag("test.num_clips", "--test-clips", "--clips", help="Clips of a test video."),
            flag("test.num_crops", "--crops", help="Crops of each test clip."),
            *COMMON,
        ),
        shorthand="distill",
        act=perform_or_plan(),
        extra={"dry_run": DryRun},
        sets="students.0.input_size=64",
    ),
)  # fmt: skip

EVALUATE = (
    Verb(
        name="tmm",
        command="evaluate-tmm",
        help="Plug a trained temporal module onto the maps of another image model of the same width, and score it.",
        example="`featcache evaluate tmm stores/ucf101-dinov2 --run runs/ucf101-clip/tmm-…`",
        flags=(flag("run"), flag("device"), *COMMON),
        sets="bank.grid=14",
    ),
    Verb(
        name="noise",
        command="evaluate-noise",
        help="Score fine-tuned models on noisy test videos: what is left of their accuracy, by kind and severity?",
        example="`featcache evaluate noise runs/ucf101/finetune-… --noise gaussian --noise shot --severity 3`",
        flags=(
            flag("runs", "argument", help="Folders of finished `train finetune` runs."),
            flag(
                "noise",
                help="`gaussian`, `shot`, `impulse` or `speckle`; repeat for several.  [default: all four]",
            ),
            flag("severity", help="1 to 5; repeat for several.  [default: all five]"),
            flag("place"),
            flag("table"),
            flag("seed", "--noise-seed"),
            flag("num_clips", "--test-clips", "--clips"),
            flag("num_crops", "--crops"),
            flag("workers"),
            flag("device"),
            flag("out", "-o"),
        ),
        act=perform_or_plan(),
        extra={
            "dry_run": Annotated[
                bool, typer.Option("--dry-run", help="Only print what would be scored, and how long decoding takes.")
            ]
        },
        sets="intervals.num_resamples=500",
    ),
    Verb(
        name="cka",
        command="evaluate-cka",
        help="Draw how alike the layers of a network are, or those of two, and of untrained ones beside them (CKA).",
        example="`featcache evaluate cka runs/ucf101/finetune-… --dataset ucf101 --root /data/ucf101`  \n"
        "Two networks: `featcache evaluate cka runs/rot/seed-0/epoch-050.safetensors runs/vcop videos/ --split test`",
        flags=(
            flag(
                "networks", "argument", kind=list[str],
                help="One network or two: a run, one of its weights files, or a backbone. Without --dataset, the "
                "videos come after them: a folder, or a CSV, JSONL or Parquet listing.",
            ),
            *VIDEOS[1:6],
            flag(
                "weights", "-w", kind=list[str],
                help="Weights of a backbone that is named: `default`, `random` or a file; one for all, or one for each."
                "  [default: default]",
            ),
            flag("split"),
            flag("num_clips"),
            flag("batch_size"),
            flag("layers"),
            flag("untrained"),
            flag("num_frames", "--frames"),
            flag("frame_stride"),
            flag("input_size"),
            flag("threshold"),
            flag("memory"),
            flag("workers"),
            flag("device"),
            flag("out", "-o"),
        ),
        shorthand="cka",
        sets="seed=1",
    ),
)  # fmt: skip


def _train() -> Iterator[Verb]:
    """The methods above, and all other training commands with the flags of their settings."""
    from featcache.commands.registry import command_names, settings_class

    yield from TRAIN
    for command in set(command_names("train-")) - {verb.command for verb in TRAIN}:
        about = (settings_class(command).__doc__ or "").partition("\n")[0]
        name = command.removeprefix("train-")
        example = f"`featcache train {name} --print-config`"
        yield Verb(name=name, command=command, help=about, example=example, flags=COMMON)


train = typer.Typer(
    cls=group_of(_train),
    no_args_is_help=True,
    help="Train on a store or on videos: AdViSe's modules and baseline, SCALE's predictor, SVT, fine-tuning, students.",
)
evaluate = typer.Typer(
    cls=group_of(lambda: EVALUATE),
    no_args_is_help=True,
    help="Score what was trained without training it again: on another store, under noise, or layer by layer (CKA).",
)
