"""Training steps of the pretext tasks on the benchmark's 3-D networks: samples per second, memory, share of waiting.

    uv run python benchmarks/networks.py                      # RotNet on all at full width, 2 videos per step
    uv run python benchmarks/networks.py --device cuda        # 32 videos per step
    uv run python benchmarks/networks.py --names r21d c3d --precision bfloat16
    uv run python benchmarks/networks.py --tasks rotnet vcop prp cvrl tdl rspnet videomae --names r21d-tiny c3d-tiny

Each task on each network has a process of its own, in which `train pretext` runs with the settings of the benchmark on
generated videos: clips of 16 frames of 112 pixels are decoded by other processes, and each step is a forward pass, a
backward pass and the optimiser's step. The first half of the steps is not counted. CPU seconds are those of the
training process, and less than its seconds times its threads where the machine is shared. Memory is its peak, on a GPU
that of torch's allocations.

Each row goes to standard error when it is measured. A second table has the CPU time in which one core makes the views
of a video, and that of decoding alone, its floor.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cells import answer, measure, peak_bytes
from common import median, parser, report

from featcache.config import parse
from featcache.loaders.usable import training_videos
from featcache.loaders.views import ClipShape, frames_of
from featcache.machine import forward_threads
from featcache.methods.pretext.objective import DrawnViews
from featcache.methods.pretext.run import pretrain
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.pretext.task import TASKS
from featcache.networks.catalogue import NETWORKS, WIDTHS
from featcache.testing.videos import write_video
from featcache.training.logs import read_steps

WIDTH, HEIGHT, NUM_FRAMES = 340, 256, 64
"""Sizes of the videos, each a frame longer than the one before, and more frames if a task needs them; 340 x 256 is that
of Kinetics after resizing."""
SHAPE = ClipShape(16, 112)


def main() -> None:
    """Measure each task on each network in turn."""
    networks = [network + ending for ending in WIDTHS for network in NETWORKS]
    options = parser(__doc__)
    options.add_argument("--tasks", nargs="+", choices=TASKS.names(), default=["rotnet"], metavar="TASK")
    options.add_argument("--names", nargs="+", choices=networks, default=list(NETWORKS), metavar="NAME")
    options.add_argument("--device", default="cpu")
    options.add_argument("--batch", type=int, help="videos per step; default 32 on a GPU, 2 on a CPU")
    options.add_argument("--steps", type=int, default=8, help="steps that are counted, after as many others")
    options.add_argument("--workers", type=int, default=os.cpu_count(), help="decoding processes")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--in-process", action="store_true", help="import once for all; memory is not measured")
    options.add_argument("--cell", nargs=3, metavar=("TASK", "NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = options.parse_args()
    args.batch = args.batch or (2 if args.device == "cpu" else 32)
    if args.cell:
        task, network, folder = args.cell
        answer(lambda: cell(task, network, Path(folder), args))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_videos(folder / "videos", args.batch * args.steps, num_frames=frames_for(args.tasks))
        for task in args.tasks:
            for network in args.names:
                arguments = [
                    "--device", args.device, "--batch", args.batch, "--steps", args.steps, "--workers", args.workers,
                    "--threads", args.threads, "--precision", args.precision, "--cell", task, network, folder,
                ]  # fmt: skip
                if args.in_process:
                    found = cell(task, network, folder, args)
                    del found["peak GB"]
                else:
                    found = measure(__file__, arguments)
                rows.append({"network": network, "task": task, **found})
                print(rows[-1], file=sys.stderr)
        views = [views_of(task, folder / "videos") for task in args.tasks]
    note = (
        f"{args.batch} videos per step, clips of 16 frames of 112 pixels, {args.precision}, {args.threads} "
        f"threads, {args.workers} decoding processes; {args.steps} steps after as many others"
    )
    report("training steps of pretext tasks", rows, as_json=args.json, notes=[note])
    report("views of one video on one core", views, as_json=args.json, notes=[f"videos of {WIDTH} x {HEIGHT} pixels"])


def frames_for(tasks: list[str]) -> int:
    """Number of frames that a video needs for all tasks."""
    return max(NUM_FRAMES, *(parse(TASKS.load(task), {}).min_frames(SHAPE) for task in tasks))


def make_videos(folder: Path, number: int, *, num_frames: int) -> None:
    """Make H.264 videos."""
    folder.mkdir(parents=True)
    for index in range(number):
        write_video(folder / f"{index:04d}.mp4", num_frames=num_frames + index, width=WIDTH, height=HEIGHT)


def settings_of(task: str, network: str, videos: Path, **more: Any) -> PretextSettings:
    """A run of a task with the settings of the benchmark."""
    return parse(PretextSettings, {"task": {"name": task}, "backbone": network, "source": str(videos), **more})


def views_of(task: str, videos: Path) -> dict[str, Any]:
    """CPU milliseconds of the views of a video, and of its frames alone, medians over the videos."""
    settings = settings_of(task, "r21d", videos)
    files = training_videos(settings).files
    source = DrawnViews(settings.task, SHAPE, seed=0)
    whole, alone, counts = [], [], []
    with forward_threads(1):
        source.pixels(files.file(0), 0)  # imports
        for number, video in enumerate(files.videos):
            started = time.process_time()
            source.pixels(files.file(number), 0)
            whole.append(time.process_time() - started)
            started = time.process_time()
            frames = frames_of(source.draw(video, epoch=0).views).tolist()
            with files.open(number) as reader:
                for _ in reader.read(frames):
                    pass
            alone.append(time.process_time() - started)
            counts.append(len(frames))
    views, decoding = 1e3 * median(whole), 1e3 * median(alone)
    return {"task": task, "frames": median(counts), "ms": views, "decoding ms": decoding, "ratio": views / decoding}


def cell(task: str, network: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
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
    out = folder / f"{task}-{network}"
    settings = settings_of(task, network, folder / "videos", workers=args.workers, training=training, out=str(out))
    used: list[float] = []

    def count(stage: str, done: float, total: float, note: str = "", num_failed: int = 0, /) -> None:
        if stage.startswith("seed"):
            used.append(time.process_time())

    result = pretrain(settings, on_stage=count)
    line = read_steps(out / "seed-0")[-1]
    seconds = args.batch / line["items_per_second"]
    return {
        "M parameters": result.num_parameters / 1e6,
        "M of heads": result.num_head_parameters / 1e6,
        "ms a step": 1e3 * seconds * (1 - line["wait_share"]),
        "CPU s a step": (used[-1] - used[args.steps - 1]) / args.steps,
        "wait share": line["wait_share"],
        "videos/s": line["items_per_second"],
        "peak GB": peak_bytes(args.device) / 1e9,
        "loss": line["loss"],
    }


if __name__ == "__main__":
    main()
