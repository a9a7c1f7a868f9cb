"""The cost of a step of SVT's pre-training, the share of waiting for videos, and the saving of a single decoding pass.

    uv run python benchmarks/svt_step.py step                    # tiny on a CPU; base at 32 videos with --device cuda
    uv run python benchmarks/svt_step.py wait --workers 0 1 2    # share of the time that training waits: <= 0.1
    uv run python benchmarks/svt_step.py decode                  # all views from one pass: >= 0.8 of the predicted gain

`step` trains on one batch of decoded views: forward passes of student and teacher, loss, backward pass, clipping,
optimiser step, update of the teacher. It runs in a separate process to measure its own peak memory. `wait` runs
`train svt` on generated videos and reads the log. `decode` reads the frames of the ten views of a video in one pass,
and in one pass per view, from an open file; the prediction is the ratio of the frames that the decoder outputs, counted
in a run that is not timed. With cropping and colour jitter, which are the same on both sides, the ratio is smaller; it
is in the last column.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from cells import answer, measure, peak_bytes
from common import median, parser, report
from scale_steps import seconds_a_step_of_the_loop

from featcache.data.decoding import open_video
from featcache.data.decoding.base import VideoReader
from featcache.data.decoding.pyav import PyAVReader
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.views import View, frames_of, read_views
from featcache.methods.svt.module import build_module
from featcache.methods.svt.objective import SvtObjective
from featcache.methods.svt.run import open_videos, pretrain_svt
from featcache.methods.svt.settings import SvtHeadSettings, SvtSettings, SvtViewSettings
from featcache.methods.svt.views import SvtViewSource, draw_views
from featcache.testing.videos import write_video

SMALL_VIEWS = SvtViewSettings(global_size=112, local_size=48)
GROUP_LENGTHS = {"a key frame every 12": 12, "a key frame every 250": 250}


def main() -> None:
    """Run one of the three measurements."""
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("what", choices=("step", "wait", "decode"))
    options.add_argument("--size", choices=("tiny", "small", "base"), help="default base on a GPU, tiny on a CPU")
    options.add_argument("--batch", type=int, help="videos per step; default 32 on a GPU, 4 on a CPU")
    options.add_argument("--videos", type=int, default=32, help="of wait and decode")
    options.add_argument("--frames", type=int, default=300, help="frames per video")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="decoding processes of wait")
    options.add_argument("--epochs", type=int, default=2, help="of wait")
    options.add_argument("--seconds", type=float, default=60.0, help="seconds of steps per measurement")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--cell", nargs=2, metavar=("FOLDER", "RECOMPUTES"), help=argparse.SUPPRESS)
    args = options.parse_args()
    on_gpu = args.device != "cpu"
    args.size = args.size or ("base" if on_gpu else "tiny")
    args.batch = args.batch or (32 if on_gpu else 4)
    if args.cell:
        answer(lambda: step_cell(Path(args.cell[0]), recomputes_blocks=args.cell[1] == "yes", args=args))
        return
    with tempfile.TemporaryDirectory() as name:
        {"step": step, "wait": wait, "decode": decode}[args.what](Path(name), args)


def settings_of(
    args: argparse.Namespace, folder: Path, *, workers: int, recomputes_blocks: bool = False
) -> SvtSettings:
    """The published settings for the base and small networks; half the side and a smaller head for the tiny one."""
    is_tiny = args.size == "tiny"
    default = SvtSettings(source=str(folder))
    training = default.training.model_copy(
        update={
            "epochs": args.epochs,
            "batch_size": args.batch,
            "device": args.device,
            "threads": args.threads,
            "precision": args.precision,
            "tensorboard": False,
            "schedule": default.training.schedule.model_copy(update={"warmup_fraction": 0.0}),
        }
    )
    return default.model_copy(
        update={
            "size": args.size,
            "workers": workers,
            "recomputes_blocks": recomputes_blocks,
            "views": SMALL_VIEWS if is_tiny else default.views,
            "head": SvtHeadSettings(prototypes=4096) if is_tiny else default.head,
            "training": training,
            "out": str(folder / f"run-{workers}"),
        }
    )


def make_videos(folder: Path, number: int, args: argparse.Namespace, *, group_length: int = 12) -> Path:
    """Make H.264 videos of 340 x 256, the usual size of Kinetics videos after resizing."""
    folder.mkdir(parents=True)
    for index in range(number):
        write_video(
            folder / f"{index:04d}.mp4",
            num_frames=args.frames,
            width=340,
            height=256,
            options={"g": str(group_length), "preset": "veryfast"},
        )
    return folder


def step(folder: Path, args: argparse.Namespace) -> None:
    """Step time and peak memory, with and without gradient checkpointing."""
    videos = make_videos(folder / "videos", args.batch, args)
    rows = []
    for recomputes in ("no", "yes"):
        arguments = [
            "step", "--size", args.size, "--batch", args.batch, "--device", args.device, "--threads", args.threads,
            "--precision", args.precision, "--seconds", args.seconds, "--cell", videos, recomputes,
        ]  # fmt: skip
        rows.append({"recomputes blocks": recomputes, **measure(__file__, arguments)})
    note = f"{args.size}, batch of {args.batch} videos, 10 views each, {args.precision}, {args.threads} threads"
    report("a step of SVT's pre-training", rows, as_json=args.json, notes=[note])


def step_cell(videos: Path, *, recomputes_blocks: bool, args: argparse.Namespace) -> dict[str, Any]:
    """One case: steps of the training loop on one batch that is decoded beforehand."""
    torch.set_num_threads(args.threads)
    settings = settings_of(args, videos, workers=0, recomputes_blocks=recomputes_blocks)
    source, files = SvtViewSource(settings.views, seed=0), open_videos(settings).files
    module = build_module(settings, seed=0).to(args.device)
    objective = SvtObjective(ViewLoader(source, files, workers=0), settings, module=module, seed=0)
    with mock.patch.object(objective, "parts", return_value=objective.parts(0, 0)):
        seconds = seconds_a_step_of_the_loop(objective, settings, device=args.device, budget_seconds=args.seconds)
    return {"seconds": seconds, "videos/s": args.batch / seconds, "peak GB": peak_bytes(args.device) / 1e9}


def wait(folder: Path, args: argparse.Namespace) -> None:
    """Figures from the log of a training run on videos, per number of decoding processes."""
    videos = make_videos(folder / "videos", max(args.videos, args.batch), args)
    rows = []
    for workers in args.workers:
        (line,) = pretrain_svt(settings_of(args, videos, workers=workers)).seeds.values()
        rows.append({"workers": workers, "wait share": line["wait_share"], "videos/s": line["items_per_second"]})
    note = (
        f"{args.size}, batch of {args.batch} videos of {args.frames} frames, {args.epochs} epochs of {args.videos}, "
        f"{args.precision}, {args.threads} threads; goal 0.1 at most"
    )
    report("waiting for videos in SVT's pre-training", rows, as_json=args.json, notes=[note])


def decode(folder: Path, args: argparse.Namespace) -> None:
    """Ten views of each video from one pass and from one pass per view, and the ratio predicted by decoded frames."""
    rows = []
    for name, group_length in GROUP_LENGTHS.items():
        videos = sorted(make_videos(folder / str(group_length), args.videos, args, group_length=group_length).iterdir())
        frames = {"one pass": 0, "one pass per view": 0}
        seconds: dict[str, list[float]] = {"one pass": [], "one pass per view": [], "one, cut": [], "each, cut": []}
        for video in videos:
            frames["one pass"] += decoded(video, read_together)
            frames["one pass per view"] += decoded(video, read_apart)
        for _ in range(args.repeats):
            seconds["one pass"].append(timed(videos, read_together))
            seconds["one pass per view"].append(timed(videos, read_apart))
            seconds["one, cut"].append(timed(videos, read_views))
            seconds["each, cut"].append(timed(videos, lambda reader, views: [read_views(reader, [v]) for v in views]))
        predicted = frames["one pass per view"] / frames["one pass"]
        gain = median_ratio(seconds["one pass per view"], seconds["one pass"])
        rows.append(
            {
                "videos": name,
                "frames, one pass": frames["one pass"] / len(videos),
                "frames, one pass per view": frames["one pass per view"] / len(videos),
                "ms, one pass": 1e3 * median(seconds["one pass"]) / len(videos),
                "ms, one pass per view": 1e3 * median(seconds["one pass per view"]) / len(videos),
                "gain": gain,
                "predicted": predicted,
                "share": gain / predicted,
                "gain, cut": median_ratio(seconds["each, cut"], seconds["one, cut"]),
            }
        )
    note = f"{args.videos} videos of {args.frames} frames of 340 x 256, the ten published views; goal: share 0.8"
    report("decoding the views of a video", rows, as_json=args.json, notes=[note])


def read_together(reader: VideoReader, views: Sequence[View]) -> None:
    """Read the frames of all views in one pass."""
    for _ in reader.read(frames_of(views).tolist()):
        pass


def read_apart(reader: VideoReader, views: Sequence[View]) -> None:
    """Read the frames of one view after another."""
    for view in views:
        read_together(reader, [view])


def timed(videos: Sequence[Path], read: Callable[[VideoReader, Sequence[View]], object]) -> float:
    """Seconds of reading the views of all videos; opening them is not counted."""
    total = 0.0
    for video in videos:
        with open_video(video) as reader:
            views = views_of(video, reader)
            started = time.perf_counter()
            read(reader, views)
            total += time.perf_counter() - started
    return total


def decoded(video: Path, read: Callable[[VideoReader, Sequence[View]], object]) -> int:
    """Number of frames that the decoder outputs while the views of a video are read."""
    count = 0
    plain = PyAVReader._decode

    def counting(reader: PyAVReader, packets: Iterator[Any]) -> Iterator[Any]:
        nonlocal count
        for frame in plain(reader, packets):
            count += 1
            yield frame

    with mock.patch.object(PyAVReader, "_decode", counting), open_video(video) as reader:
        views = views_of(video, reader)
        count = 0
        read(reader, views)
    return count


def views_of(video: Path, reader: VideoReader) -> tuple[View, ...]:
    """The published views of a video."""
    return draw_views(SvtViewSettings(), reader.timeline, video_id=video.stem, epoch=0, seed=0)


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """The median of paired ratios."""
    return median([a / b for a, b in zip(slow, fast, strict=True)])


if __name__ == "__main__":
    main()
