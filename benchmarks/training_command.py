"""A whole training command against the same steps of a plain torch loop on tensors in memory.

A store of the motion set's size (640 training videos of 8 frames, maps 10 x 10 x 112 in float16), a temporal module of
hidden width 64, batches of 32 clips. Our side is the whole of `train tmm`: it opens the store, loads rows, draws clips
by key, checks and logs losses, writes checkpoints and scores the test videos. The plain side has the rows as one tensor
and only indexes it and runs the forward pass, the backward pass and the optimiser's step, with the same network,
optimiser and learning rates. Both take turns. The goal is 1.05 over 50 epochs.

    uv run python benchmarks/training_command.py
    uv run python benchmarks/training_command.py --processes

`--processes` times whole processes instead, start and imports of both included.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from common import cpu_seconds, median, parser, report
from torch import Tensor
from torch.nn import functional

from featcache.networks.settings import TmmSettings
from featcache.networks.tmm import TmmClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_TRAIN, NUM_FRAMES, SHAPE = 640, 8, (10, 10, 112)
BATCH = 32
TMM = TmmSettings(hidden=64, out=128, num_blocks=1, temporal_kernel=3, head_hidden=128)
LR, WEIGHT_DECAY = 1e-3, 0.05


def main() -> None:
    """Time both sides in turn and print their ratio."""
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("--epochs", type=int, default=50)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--processes", action="store_true", help="time whole processes")
    options.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    maps = torch.randn(NUM_TRAIN, NUM_FRAMES, *SHAPE, generator=torch.Generator().manual_seed(0)).half()
    labels = torch.arange(NUM_TRAIN) % 2
    if args.plain:
        plain(maps, labels, epochs=args.epochs)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make_store(folder / "store")
        sides: dict[str, Callable[[int], object]] = {
            "featcache train tmm": lambda turn: command(store, folder / f"run{turn}", args),
            "plain loop": lambda turn: plain(maps, labels, epochs=args.epochs),
        }
        if args.processes:
            flags = ["--plain", "--epochs", str(args.epochs), "--threads", str(args.threads)]
            sides["featcache train tmm"] = lambda turn: subprocess.run(
                [sys.executable, "-m", "featcache", "train", "tmm", str(store), "--json", *overrides(args),
                 "--out", str(folder / f"run{turn}")],
                check=True, capture_output=True,
            )  # fmt: skip
            sides["plain loop"] = lambda turn: subprocess.run([sys.executable, __file__, *flags], check=True)
        else:
            command(store, folder / "warm", argparse.Namespace(**{**vars(args), "epochs": 1}))
            plain(maps, labels, epochs=1)
        wall: dict[str, list[float]] = {name: [] for name in sides}
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(args.repeats):
            for name, run in list(sides.items())[:: 1 if turn % 2 == 0 else -1]:
                started, used = time.perf_counter(), cpu_seconds()
                run(turn)
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(cpu_seconds() - used)
    rows = [{"side": name, "seconds": median(wall[name]), "CPU seconds": median(cpu[name])} for name in sides]
    ours, theirs = sides
    for column, seconds in (("ratio", wall), ("CPU ratio", cpu)):
        rows[0][column] = median([mine / other for mine, other in zip(seconds[ours], seconds[theirs], strict=True)])
    steps = args.epochs * (NUM_TRAIN // BATCH)
    notes = [
        f"{args.epochs} epochs, {steps} steps of {BATCH} clips, {args.threads} threads, {args.repeats} runs of each in "
        f"turn, ratios are medians of pairs; {'whole processes' if args.processes else 'one warm process'}; goal 1.05"
    ]
    report("a whole training command", rows, as_json=args.json, notes=notes)


def make_store(path: Path) -> Path:
    """Make a store with ``NUM_TRAIN`` training videos; a third of all videos are test videos."""
    from featcache.recipes import SamplingRecipe
    from featcache.testing.stores import StorePlan, make_record, write_store

    write_store(
        path,
        StorePlan(
            records={"map": make_record(SHAPE)},
            rows_per_video=(NUM_FRAMES,),
            num_videos=NUM_TRAIN * 3 // 2,
            shard_rows=1024,
        ),
        sampling=SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1),
    )
    return path


def overrides(args: argparse.Namespace) -> list[str]:
    """Flags of the command."""
    values = {
        "training.epochs": args.epochs,
        "training.batch_size": BATCH,
        "training.threads": args.threads,
        "training.device": "cpu",
        "training.tensorboard": "false",
        "training.optimiser.lr": LR,
        "training.optimiser.lr_batch": "null",
        "training.optimiser.weight_decay": WEIGHT_DECAY,
        "training.schedule.warmup_fraction": 0,
        "stride": 1,
        "test_clips": 1,
        "order_test": "false",
        **{f"tmm.{name}": json.dumps(value) for name, value in dataclasses.asdict(TMM).items()},
    }
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def command(store: Path, out: Path, args: argparse.Namespace) -> None:
    """Do what ``featcache train tmm`` does after its imports."""
    from featcache.config import apply_overrides, parse
    from featcache.methods.advise.settings import TmmFineTuneSettings
    from featcache.methods.advise.tmm import run_temporal

    words = overrides(args)[1::2]
    training = TmmFineTuneSettings.model_fields["training"].default.model_dump(mode="json")
    given = {"bank": {"store": str(store)}, "training": training, "out": str(out)}
    run_temporal(parse(TmmFineTuneSettings, apply_overrides(given, words)))


def plain(maps: Tensor, labels: Tensor, *, epochs: int) -> None:
    """The same steps on maps float16 [V, T, h, w, C] in memory, with a random start for every clip, wrapping around."""
    generator = torch.Generator().manual_seed(0)
    network = TmmClassifier(TMM, width_in=SHAPE[2], grid=SHAPE[0], num_classes=2)
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices}, {"params": vectors}]
    optimiser = torch.optim.AdamW(groups, lr=LR, weight_decay=WEIGHT_DECAY)
    steps_an_epoch = NUM_TRAIN // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * steps_an_epoch)
    for _ in range(epochs):
        for chosen in torch.randperm(NUM_TRAIN, generator=generator).split(BATCH):
            starts = torch.randint(NUM_FRAMES, (BATCH, 1), generator=generator)
            frames = (starts + torch.arange(NUM_FRAMES)) % NUM_FRAMES
            clips = maps[chosen[:, None], frames].float()
            functional.cross_entropy(network(clips), labels[chosen]).backward()
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()


if __name__ == "__main__":
    main()
