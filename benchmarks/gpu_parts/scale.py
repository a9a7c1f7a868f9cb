"""Samples per second of SCALE's pre-training, as `train scale` runs it, and its share of the matrix peak.

The peak is measured: one large square product in the same precision. The products of a step are counted from the
settings (`matrix_products.py`), so all other work of a step lowers the share.
"""

import time
from functools import partial
from typing import Any, Literal

import torch
from cells import synchronise
from matrix_products import Product, operations, seconds_of_one, step_products
from scale_steps import made_up_sets, scale_objective, scale_settings, seconds_a_step_of_the_loop

from featcache.loaders.clip_sets import ClipSets
from featcache.machine import set_matmul
from featcache.methods.scale.objective import ScaleObjective
from featcache.networks.settings import SetPredictorSettings
from gpu_parts.bench import Bench, SkippedError, rate

MODES: dict[str, tuple[torch.dtype, bool]] = {
    "float32": (torch.float32, False),
    "TF32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
}
"""Dtype, and whether float32 products use TF32."""
NUM_BATCHES = 8
"""Number of batches of the larger size per epoch; at the end of each epoch the log waits for the device."""
SMALL = SetPredictorSettings(width=32, depth=1, position_hidden=16)
"""A predictor that a laptop compiles in seconds."""
COMPILED: dict[bool | Literal["objective"], str] = {
    False: "",
    "objective": ", all compiled, sets drawn on the device",
    True: ", predictor compiled",
}
"""What is compiled, and how the row says so; the most that can be is measured first."""
COMPILE_SECONDS = 25.0
"""Seconds that a first compiled step may take."""


def run(bench: Bench) -> None:
    """Measure the peaks, then plain steps, then compiled ones."""
    side, seconds = (256, 0.3) if bench.is_small else (8192, 2.0)
    batches = (8, 16) if bench.is_small else (512, 2048)
    width = 64 if bench.is_small else 768
    sets = made_up_sets(NUM_BATCHES * max(batches), width=width)
    peaks = {mode: bench.row(f"peak, {mode}", partial(peak, bench, mode, side)) for mode in MODES}
    for compiled, about in COMPILED.items():
        for mode in ("bfloat16", "TF32", "float32"):
            for batch in batches:
                measure = partial(
                    step, bench, mode, sets, batch=batch, seconds=seconds, compiled=compiled,
                    peak_rate=peaks[mode].get("rate"),
                )  # fmt: skip
                if compiled and not bench.on_gpu:
                    measure = not_compiled
                needs = seconds + 3 + (COMPILE_SECONDS if compiled else 0)
                bench.row(f"{batch} videos, {mode}{about}", measure, needs=needs)


def not_compiled() -> dict[str, Any]:
    """Skip compiling on a CPU, where a C++ compiler takes minutes for a predictor."""
    raise SkippedError("compiling for a CPU takes minutes")


def peak(bench: Bench, mode: str, side: int) -> dict[str, Any]:
    """Operations per second of one square product."""
    dtype, is_tf32 = MODES[mode]
    set_matmul("high" if is_tf32 else "highest")
    square = Product(form="nt", rows=side, inner=side, columns=side)
    repeats = 3 if bench.is_small else 20  # the best one: the first loads kernels
    seconds = seconds_of_one(square, dtype=dtype, device=bench.device, repeats=repeats)
    return {"result": f"{square.operations / seconds / 1e12:.3g} TFLOP/s", "rate": square.operations / seconds}


def step(
    bench: Bench,
    mode: str,
    sets: ClipSets,
    *,
    batch: int,
    seconds: float,
    compiled: bool | Literal["objective"],
    peak_rate: float | None,
) -> dict[str, Any]:
    """Steps of the loop on clips that are on the device."""
    dtype, is_tf32 = MODES[mode]
    set_matmul("high" if is_tf32 else "highest")
    settings = scale_settings(
        batch=batch, device=bench.device, bfloat16=dtype == torch.bfloat16, threads=1 if bench.is_small else 0,
        compiled=compiled, draws="device" if compiled == "objective" else "host",
    )  # fmt: skip
    if bench.is_small:
        settings = settings.model_copy(update={"predictor": SMALL})
    torch.compiler.reset()  # code compiled for one row must neither help nor hinder the next
    objective = scale_objective(sets, settings, device=bench.device)
    began = time.perf_counter()
    warm_up(objective, bench.device, bfloat16=dtype == torch.bfloat16)
    first = time.perf_counter() - began
    each = seconds_a_step_of_the_loop(objective, settings, device=bench.device, budget_seconds=seconds)
    masked = round(settings.loss.mask_ratio * 2 * batch * settings.clips_per_set)
    work = operations(step_products(settings, width_in=sets.features.shape[1], num_masked=masked))
    share = f"{work / each / peak_rate:.1%} of the peak" if peak_rate else "no peak was measured"
    note = f"{1e3 * each:.3g} ms per step, {share}, {first:.2g} s for the first steps"
    return rate(batch, each, "videos") | {
        "step_seconds": each,
        "operations": work,
        "note": note,
    }


def warm_up(objective: ScaleObjective, device: str, *, bfloat16: bool) -> None:
    """Run two steps as in the loop, in which kernels are loaded or compiled."""
    objective.module.train()
    for batch in range(2):
        (part,) = objective.parts(0, batch)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
            loss = objective.loss(part)
        loss.total.backward()
        objective.module.zero_grad()
    synchronise(device)
