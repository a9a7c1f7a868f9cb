"""One iteration of AdViSe's pre-training: every preset from a store and online, and R3D-50 end to end.

An iteration draws clips (reads, or decodes and encodes), runs the forward pass, the backward pass and the optimiser's
step, at the paper's batch of 32 videos and four clips each, one after another, if it fits. Float32 products use TF32.
"""

import argparse
import time
from functools import partial
from typing import Any
from unittest import mock

import training_cost
from cells import synchronise

from featcache.machine import set_matmul
from featcache.networks.settings import PRESETS
from gpu_parts.bench import Bench, took
from gpu_parts.media import make_clips

SMALL = {"BACKBONE": "timm/test_vit", "GRID": 10, "CHANNELS": 64}
"""A backbone for a laptop, and the shape of its maps."""


def run(bench: Bench) -> None:
    """Run the cases, with a smaller backbone on a laptop."""
    with mock.patch.multiple(training_cost, **SMALL if bench.is_small else {"BACKBONE": training_cost.BACKBONE}):
        run_cases(bench)


def run_cases(bench: Bench) -> None:
    """Make the clips and their frame bank once; then run each case."""
    set_matmul("high")
    videos, clips = (2, 1) if bench.is_small else (32, 4)
    make_clips(bench.folder / "videos", videos, num_frames=16)
    bench.row(f"frame bank of {training_cost.BACKBONE} maps", partial(bank, bench, videos), needs=20.0)
    if not (bench.folder / "store").exists():
        return
    presets = [name for name, tmm in PRESETS.items() if tmm.kind == "r3d"]
    cases = [("store", preset) for preset in presets] + [("r3d50", "-")] + [("online", preset) for preset in presets]
    if bench.is_small:
        cases = [("store", "ablation-256"), ("online", "ablation-256")]
    for kind, preset in cases:
        name = (
            "R3D-50 end to end" if kind == "r3d50" else f"{preset}, {'online' if kind == 'online' else 'from a store'}"
        )
        bench.row(f"{name}, {videos} x {clips} clips", partial(iterate, bench, kind, preset, videos, clips), needs=5.0)


def bank(bench: Bench, videos: int) -> dict[str, Any]:
    """Extract the bank."""
    began = time.perf_counter()
    training_cost.make_store(bench.folder, num_videos=videos, device=bench.device, threads=1 if bench.is_small else 0)
    return took(time.perf_counter() - began, "in all")


def iterate(bench: Bench, kind: str, preset: str, videos: int, clips: int) -> dict[str, Any]:
    """Mean time per iteration after a first one that is not counted; a slow iteration is measured once."""
    case = argparse.Namespace(
        case=(kind, preset), folder=bench.folder, device=bench.device, batch=videos, clips=clips
    )  # fmt: skip
    objective, optimiser = training_cost.build(case)
    times: list[float] = []
    ends = time.perf_counter() + min(4.0, bench.left())
    while len(times) < 2 or (time.perf_counter() < ends and len(times) < 20):
        began = time.perf_counter()
        for part in objective.parts(len(times), 0):
            objective.loss(part).total.backward()
        optimiser.step()
        optimiser.zero_grad()
        synchronise(bench.device)
        times.append(time.perf_counter() - began)
        if bench.left() < times[-1]:
            break
    counted = times[1:] or times
    note = f"{len(counted)} iterations" if len(times) > 1 else "the first one, which pays for what others do not"
    return took(sum(counted) / len(counted), "an iteration") | {"note": note}
