"""Training steps of the pretext-task benchmark's 3-D networks: seconds, memory, and the share of waiting for videos.

    uv run python benchmarks/networks.py                      # all seven at full width, 2 videos per step, on the CPU
    uv run python benchmarks/networks.py --device cuda        # 32 videos per step
    uv run python benchmarks/networks.py --names r21d c3d --precision bfloat16

Each network has a process of its own, in which `train pretext` runs RotNet on generated videos: clips of 16 frames of
112 pixels are decoded by other processes, and each step is a forward pass, a backward pass and the optimiser's step.
The first half of the steps is not counted. CPU seconds are those of the training process, and less than its seconds
times its threads where the machine is shared. Memory is its peak, on a GPU that of torch's allocations.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from cells import answer, measure, peak_bytes
from common import parser, report

from featcache.config import parse
from featcache.methods.pretext.run import pretrain
from featcache.methods.pretext.settings import PretextSettings
from featcache.networks.catalogue import NETWORKS
from featcache.testing.videos import write_video
from featcache.training.logs import read_steps

WIDTH, HEIGHT, NUM_FRAMES = 340, 256, 64
"""Sizes of the videos, each a frame longer than the one before; 340 x 256 is that of Kinetics after resizing."""


def main() -> None:
    """Measure each network in turn."""
    options = parser(__doc__)
    options.add_argument("--names", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    options.add_argument("--device", default="cpu")
    options.add_argument("--batch", type=int, help="videos per step; default 32 on a GPU, 2 on a CPU")
    options.add_argument("--steps", type=int, default=8, help="steps that are counted, after as many others")
    options.add_argument("--workers", type=int, default=os.cpu_count(), help="decoding processes")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--cell", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = options.parse_args()
    args.batch = args.batch or (2 if args.device == "cpu" else 32)
    if args.cell:
        answer(lambda: cell(args.cell[0], Path(args.cell[1]), args))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_videos(folder / "videos", args.batch * args.steps)
        for network in args.names:
            arguments = [
                "--device", args.device, "--batch", args.batch, "--steps", args.steps, "--workers", args.workers,
                "--threads", args.threads, "--precision", args.precision, "--cell", network, folder,
            ]  # fmt: skip
            rows.append({"network": network, **measure(__file__, arguments)})
    note = (
        f"{args.batch} videos per step, one clip of 16 frames of 112 pixels each, {args.precision}, {args.threads} "
        f"threads, {args.workers} decoding processes; {args.steps} steps after as many others"
    )
    report("training steps of 3-D networks", rows, as_json=args.json, notes=[note])


def make_videos(folder: Path, number: int) -> None:
    """Make H.264 videos."""
    folder.mkdir(parents=True)
    for index in range(number):
        write_video(folder / f"{index:04d}.mp4", num_frames=NUM_FRAMES + index, width=WIDTH, height=HEIGHT)


def cell(network: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """In the child: two epochs, the second of which is counted."""
    training = {
        "epochs": 2,
        "batch_size": args.batch,
        "device": args.device,
        "threads": args.threads,
        "precision": args.precision,
        "log_steps": args.steps,
        "checkpoint_seconds": 1e9,
        "tensorboard": False,
        "optimiser": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
    }
    out = folder / network
    settings = parse(
        PretextSettings,
        {
            "task": {"name": "rotnet"},
            "backbone": network,
            "source": str(folder / "videos"),
            "workers": args.workers,
            "training": training,
            "out": str(out),
        },
    )
    used: list[float] = []

    def count(stage: str, done: float, total: float, note: str = "", num_failed: int = 0, /) -> None:
        if stage.startswith("seed"):
            used.append(time.process_time())

    result = pretrain(settings, on_stage=count)
    line = read_steps(out / "seed-0")[-1]
    seconds = args.batch / line["items_per_second"]
    return {
        "M parameters": result.num_parameters / 1e6,
        "ms a step": 1e3 * seconds * (1 - line["wait_share"]),
        "CPU s a step": (used[-1] - used[args.steps - 1]) / args.steps,
        "wait share": line["wait_share"],
        "videos/s": line["items_per_second"],
        "peak GB": peak_bytes(args.device) / 1e9,
        "loss": line["loss"],
    }


if __name__ == "__main__":
    main()
