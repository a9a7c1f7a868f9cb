"""The cost of one pre-training iteration: AdViSe on a store, AdViSe with its backbone in the loop, R3D-50 end to end.

Each case runs in a separate process to measure its own peak memory, and the processes take turns, iteration by
iteration, so that a busy machine slows all of them alike. An iteration draws the clips (reads or decodes and encodes
them) and runs the forward pass, the backward pass and the optimiser's step. CLIP-B/16 and the R3D-50 have random
weights, which cost as much as trained ones. The predicted ratio is that of operations: the backbone's forward pass on
eight frames, and three times the forward pass of the trained network (forward pass, gradient of activations, gradient
of weights).

    uv run python benchmarks/training_cost.py
    uv run python benchmarks/training_cost.py --device cuda --batch 32 --clips 4

The goals: `ablation-256` 15 times faster than online and 20 times faster than R3D-50, and every preset at least 0.9 of
the predicted ratio. The paper (batch of 32 videos, 4 clips each, one after another; A800): 5.6 s and 4.9 GB against
19.2 s and 40 GB.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import median, parser, report

from featcache.backbones import build_backbone
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.loaders.online import open_source
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.objective import ClipObjective
from featcache.methods.advise.playback import playback_objective
from featcache.methods.advise.run import open_pixels
from featcache.methods.advise.settings import AdviseSettings, R3d50Settings
from featcache.networks.counting import count_macs, count_parameters
from featcache.networks.r3d50 import R3d50
from featcache.networks.settings import PRESETS
from featcache.networks.tmm import TmmClassifier
from featcache.store.reader import open_store
from featcache.testing.videos import write_video
from featcache.training.optimisers import build_optimiser, peak_lr

BACKBONE = "clip-b16"
NUM_FRAMES = 8
GRID, CHANNELS = 14, 768


def main() -> None:
    """Start the cases, let them take turns, print the table."""
    options = parser(__doc__)
    options.add_argument(
        "--presets", nargs="+", default=["ablation-256", "ablation-2048", "release"], choices=list(PRESETS)
    )
    options.add_argument("--batch", type=int, default=2, help="videos per iteration")
    options.add_argument("--clips", type=int, default=1, help="clips per video, one after another")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--folder", type=Path, help="keep videos and store here")
    options.add_argument("--case", nargs=2, metavar=("KIND", "PRESET"), help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.case:
        serve(args)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        make_store(folder, num_videos=args.batch, device=args.device, threads=args.threads)
        cases = [(kind, preset) for preset in args.presets for kind in ("store", "online")] + [("r3d50", "-")]
        measured = take_turns(cases, folder, args)
    backbone = NUM_FRAMES * backbone_macs()
    costs = {case: float(3 * measured[case]["trained_macs"]) for case in cases}
    rows = []
    for kind, preset in cases:
        mine = measured[kind, preset]
        row = {
            "case": f"{preset} {kind}" if preset != "-" else "R3D-50 end to end",
            "seconds": median(mine["seconds"]),
            "peak GB": mine["peak_bytes"] / 1e9,
            "trained M": mine["parameters"] / 1e6,
            "GMAC per clip": (costs[kind, preset] + (backbone if kind == "online" else 0.0)) / 1e9,
        }
        if kind != "store":
            rows.append(row)
            continue
        for other, title in (("online", "online"), ("r3d50", "R3D-50")):
            theirs = (other, preset if other == "online" else "-")
            pairs = zip(measured[theirs]["seconds"], mine["seconds"], strict=True)
            seen = median([slow / fast for slow, fast in pairs])
            predicted = (costs[theirs] + (backbone if other == "online" else 0.0)) / costs[kind, preset]
            row[f"x {title}"] = seen
            row[f"predicted x {title}"] = predicted
            row[f"share of {title}"] = seen / predicted
        rows.append(row)
    notes = [
        f"batch of {args.batch} videos x {args.clips} clips of {NUM_FRAMES} frames, {args.repeats} iterations each, in "
        f"turns; {args.threads} threads; medians, ratios are medians of paired iterations",
        f"backbone {BACKBONE}: {backbone / 1e9:.1f} GMAC per clip",
    ]
    report("cost of one pre-training iteration", rows, as_json=args.json, notes=notes)


def make_store(folder: Path, *, num_videos: int, device: str, threads: int) -> None:
    """Generate videos and their frame bank, once."""
    videos = folder / "videos"
    if not videos.exists():
        videos.mkdir(parents=True)
        for number in range(max(2, num_videos)):
            write_video(videos / f"{number:03d}.mp4", num_frames=16, width=320, height=240)
    extract(
        ExtractSettings(
            source=str(videos),
            out=str(folder / "store"),
            features=(FeatureSettings(name="map", backbone=BACKBONE, weights="random", output="map"),),
            sampling=SamplingSettings(layout="frames", crop_fraction=1.0),
            runtime=RuntimeSettings(device=device, threads=threads),
        )
    )


def take_turns(
    cases: list[tuple[str, str]], folder: Path, args: argparse.Namespace
) -> dict[tuple[str, str], dict[str, Any]]:
    """Run every case in a child process, one iteration of each per round; the first round is not counted."""
    command = [
        sys.executable, __file__, "--folder", str(folder), "--batch", str(args.batch), "--clips", str(args.clips),
        "--device", args.device, "--threads", str(args.threads), "--case",
    ]  # fmt: skip
    children = {
        case: subprocess.Popen([*command, *case], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for case in cases
    }
    try:
        for _ in range(args.repeats + 1):
            for child in children.values():
                ask(child, "step")
        return {case: ask(child, "end") for case, child in children.items()}
    finally:
        for child in children.values():
            child.kill()
            child.wait()


def ask(child: "subprocess.Popen[str]", word: str) -> dict[str, Any]:
    """Send a command to a child and wait for its answer."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{word}\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise SystemExit("a case ended early; its error is above")
    read: dict[str, Any] = json.loads(answer)
    return read


def serve(args: argparse.Namespace) -> None:
    """Serve one case: one iteration per line on stdin, and its figures at the end."""
    torch.set_num_threads(args.threads)
    objective, optimiser = build(args)
    seconds: list[float] = []
    for word in sys.stdin:
        if word.strip() == "end":
            break
        started = time.perf_counter()
        for part in objective.parts(len(seconds), 0):
            objective.loss(part).total.backward()
        optimiser.step()
        optimiser.zero_grad()
        if args.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        print(json.dumps({"seconds": seconds[-1]}), flush=True)
    on_gpu = args.device != "cpu"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    facts = {
        "seconds": seconds[1:],
        "peak_bytes": peak,
        "parameters": count_parameters(objective.module),
        "trained_macs": trained_macs(args),
    }
    print(json.dumps(facts), flush=True)


def build(args: argparse.Namespace) -> tuple[ClipObjective, torch.optim.Optimizer]:
    """The objective of a case, built as its command does, and its optimiser."""
    kind, preset = args.case
    if kind == "r3d50":
        settings: AdviseSettings | R3d50Settings = R3d50Settings(source=str(args.folder / "videos"))
        source: Any = open_pixels(settings)[0]
        module: torch.nn.Module = R3d50(num_classes=len(settings.clips.rates))
    else:
        bank = BankSettings(store=str(args.folder / "store"), online=kind == "online")
        settings = AdviseSettings(bank=bank, tmm=PRESETS[preset])
        source = open_source(settings.bank, videos=open_store(settings.bank.store), device=args.device)
        module = TmmClassifier(settings.tmm, width_in=CHANNELS, grid=GRID, num_classes=len(settings.clips.rates))
    module.to(args.device)
    clips = settings.clips.model_copy(update={"num_clips": args.clips})
    videos = torch.arange(args.batch).numpy()
    objective = playback_objective(source, videos, clips, module=module, batch_size=args.batch, seed=0)
    lr = peak_lr(settings.training.optimiser, batch_size=args.batch)
    return objective, build_optimiser(module, settings.training.optimiser, lr=lr)


def trained_macs(args: argparse.Namespace) -> int:
    """Multiply-accumulates of one forward pass of a clip through the trained network."""
    kind, preset = args.case
    with torch.device("meta"):
        if kind == "r3d50":
            return count_macs(R3d50(num_classes=4).eval(), torch.empty(1, NUM_FRAMES, 224, 224, 3))
        module = TmmClassifier(PRESETS[preset], width_in=CHANNELS, grid=GRID, num_classes=4).eval()
        return count_macs(module, torch.empty(1, NUM_FRAMES, GRID, GRID, CHANNELS))


def backbone_macs() -> int:
    """Multiply-accumulates of one forward pass of a frame through the backbone."""
    backbone = build_backbone(BACKBONE, weights="random")

    class Forward(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> Any:
            return backbone.encode(pixels, [backbone.layers[-1]])

    return count_macs(Forward(), torch.zeros(1, 3, 224, 224))


if __name__ == "__main__":
    main()
