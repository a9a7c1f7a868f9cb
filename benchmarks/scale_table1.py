"""SCALE's Table 1: the cost of a training step of ViT-B methods, on a store and on pixels.

Every cell is a process of its own: forward pass, backward pass and optimiser step of SCALE's predictor on clip vectors
in memory (768 channels, two sets of 8 clips per video, the loop of `train scale`), of VideoMAE (90 % masked) and of
MoCo-v3, dense and sparse (10 % of the tokens kept), on random pixels. So decoding and augmentation are not counted for
the methods on pixels. The costs that SCALE has instead are always printed below the table: the extraction of its 16
clips per video, measured here, and the operations that it adds to multi-crop inference. On a CPU a cell that would not
end within `--budget` seconds or not fit into the memory, judged by the method's last cell, is left out with a note.

    uv run python benchmarks/scale_table1.py
    uv run python benchmarks/scale_table1.py --device cuda --precision tf32

The paper's numbers are from one RTX 3090, at the largest batch size that fits each method into its 24 GB.
"""

import argparse
import contextlib
from typing import Any

import psutil
import torch
from cells import OUT_OF_MEMORY, answer, limit_memory, measure, peak_bytes, seconds_a_step
from common import parser, report
from pixel_methods import NUM_FRAMES, SIZE, SPARSE_SHARE, clip_encoder, moco_step, videomae_step
from scale_steps import made_up_sets, scale_objective, scale_settings, seconds_a_step_of_the_loop

from featcache.machine import set_matmul
from featcache.networks.counting import count_macs
from featcache.networks.set_predictor import SetPredictor
from featcache.networks.settings import SetPredictorSettings

SCALE = "SCALE on a store"
METHODS = (SCALE, "VideoMAE", "MoCo-v3 dense", "MoCo-v3 sparse")
BATCHES = (8, 19, 57, 512, 2048)
PAPER = {  # (samples per second, GB)
    (SCALE, 2048): (9225.0, 19.52),
    ("VideoMAE", 19): (33.5, 22.80),
    ("MoCo-v3 dense", 8): (8.7, 23.47),
    ("MoCo-v3 sparse", 57): (28.8, 23.62),
}
MEMORY_SHARE = 0.7
"""Share of the free memory that a cell on the CPU may take."""
CLIPS_PER_VIDEO, EPOCHS = 16, 500
TEST_VIEWS, TEST_SIZE = 15, 256


def main() -> None:
    """Measure cell by cell and print the table."""
    options = parser(__doc__)
    options.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options.add_argument("--batches", nargs="+", type=int, help="default: 8 19 57 512 2048; on a CPU 2 too")
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32")
    options.add_argument("--threads", type=int, default=0, help="on a CPU; 0: torch's default")
    options.add_argument("--seconds", type=float, default=20.0, help="seconds of steps per cell")
    options.add_argument("--budget", type=float, default=240.0, help="on a CPU: longest predicted time of two steps")
    options.add_argument("--videos", type=int, default=9537, help="videos in memory for SCALE; UCF101 trains on 9,537")
    options.add_argument("--width", type=int, default=768, help="channels per clip for SCALE")
    options.add_argument("--compile", action="store_true", help="compile SCALE's predictor")
    options.add_argument("--cell", nargs=2, metavar=("METHOD", "BATCH"), help=argparse.SUPPRESS)
    args = options.parse_args()
    args.batches = args.batches or [*([2] if args.device == "cpu" else []), *BATCHES]
    if args.cell:
        answer(lambda: measured_cell(args.cell[0], int(args.cell[1]), args))
        return
    cells = {(method, batch): cell for method in args.methods for batch, cell in row_of(method, args).items()}
    encoding = run("extraction", 8 if args.device != "cpu" else 1, args)
    rows = [
        {
            "method": method,
            "batch": batch,
            **texts(cells[method, batch], batch=batch),
            **paper_texts(method, batch),
        }
        for method in args.methods
        for batch in sorted(args.batches)
    ]
    rates = {
        batch: batch / cells[SCALE, batch]["seconds"]
        for batch in args.batches
        if "seconds" in cells.get((SCALE, batch), {})
    }
    report("SCALE, Table 1", rows, as_json=args.json, notes=notes(encoding, rates, args))


def row_of(method: str, args: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """The cells of one method by batch size, smallest first; on a CPU those that would cost too much are left out."""
    cells: dict[int, dict[str, Any]] = {}
    last: tuple[int, dict[str, Any]] | None = None
    for batch in sorted(args.batches):
        problem = None if args.device != "cpu" else too_much(last, batch, budget=args.budget, memory=free_memory())
        cells[batch] = {"problem": problem} if problem else run(method, batch, args)
        if "seconds" in cells[batch]:
            last = batch, cells[batch]
        elif problem is None and args.device == "cpu":  # a larger batch would fail too, after a longer time
            rest = [larger for larger in args.batches if larger > batch]
            return cells | {larger: {"problem": f"left out: {OUT_OF_MEMORY} at {batch}"} for larger in rest}
    return cells


def too_much(last: tuple[int, dict[str, Any]] | None, batch: int, *, budget: float, memory: float) -> str | None:
    """Why a batch size is left out, extrapolated from the last one; ``None`` if it is not.

    Args:
        last: A smaller batch size and its cell: seconds per step, peak and base memory in bytes.
        batch: The batch size.
        budget: Seconds that two steps may take.
        memory: Bytes that the batch may take beyond the base.
    """
    if last is None:
        return None
    done, cell = last
    seconds = cell["seconds"] * batch / done
    needed = (cell["peak_bytes"] - cell["base_bytes"]) * batch / done
    if needed > memory:
        return f"left out: up to {needed / 1e9:.0f} GB"
    return f"left out: about {seconds:.0f} s per step" if 2 * seconds > budget else None


def free_memory() -> float:
    """Number of bytes that a cell may take."""
    return float(MEMORY_SHARE * psutil.virtual_memory().available)


def run(method: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """One cell in a child process."""
    passed = ("device", "precision", "threads", "seconds", "budget", "videos", "width")
    flags = [word for name in passed for word in (f"--{name}", getattr(args, name))]
    return measure(__file__, [*flags, *(["--compile"] if args.compile else []), "--cell", method, batch])


def texts(cell: dict[str, Any], *, batch: int) -> dict[str, Any]:
    """Columns of one cell."""
    if "seconds" not in cell:
        return {"samples/s": cell["problem"], "peak GB": ""}
    return {"samples/s": batch / cell["seconds"], "peak GB": cell["peak_bytes"] / 1e9}


def paper_texts(method: str, batch: int) -> dict[str, Any]:
    """The paper's numbers for this cell, if it prints any."""
    rate, memory = PAPER.get((method, batch), ("", ""))
    return {"paper, samples/s": f"{rate:,}" if rate else "", "paper, GB": memory}


def notes(encoding: dict[str, Any], rates: dict[int, float], args: argparse.Namespace) -> list[str]:
    """Notes below the table: the cost of extraction, and what the predictor adds to inference."""
    lines = [f"{args.device}, {args.precision}; on a CPU the peak is of resident memory, imports included"]
    if "seconds" not in encoding:
        return [*lines, f"extraction: {encoding['problem']}"]
    sample = encoding["seconds"] * CLIPS_PER_VIDEO
    lines.append(
        f"extraction, once: {sample:.3g} s per sample ({CLIPS_PER_VIDEO} clips of 16 frames through ViT-B, "
        f"{1 / sample:.3g} samples/s, {encoding['macs'] * CLIPS_PER_VIDEO / 1e12:.2f} TMAC), and decoding on top"
    )
    for batch, rate in rates.items():
        spread = 1 / (1 / rate + sample / EPOCHS)
        lines.append(
            f"SCALE at {batch} with its extraction spread over {EPOCHS} epochs: {spread:.3g} samples/s "
            f"(without: {rate:.3g})"
        )
    added, backbone = encoding["predictor_macs"], TEST_VIEWS * encoding["view_macs"]
    lines.append(
        f"inference on {TEST_VIEWS} views of {TEST_SIZE}: the predictor adds {added / 1e6:.1f} MMAC to "
        f"{backbone / 1e12:.2f} TMAC of the backbone, {100 * added / backbone:.5f} % (paper: about 0.001 %)"
    )
    return lines


def measured_cell(method: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """In the child: seconds per step and peak memory."""
    if args.threads:
        torch.set_num_threads(args.threads)
    set_matmul("highest" if args.precision == "float32" else "high")
    if method == "extraction":
        return extraction(batch, args)
    if args.device == "cpu":
        limit_memory(int(free_memory() / MEMORY_SHARE))
    base = peak_bytes(args.device)
    if method == SCALE:
        seconds = scale_cell(batch, args)
    else:
        kind = {"device": args.device, "bfloat16": args.precision == "bfloat16"}
        if method == "VideoMAE":
            step = videomae_step(batch, **kind)
        else:
            step = moco_step(batch, **kind, share=SPARSE_SHARE if method == "MoCo-v3 sparse" else 1.0)
        seconds = seconds_a_step(step, budget_seconds=args.seconds, device=args.device)
    return {"seconds": seconds, "peak_bytes": peak_bytes(args.device), "base_bytes": base}


def scale_cell(batch: int, args: argparse.Namespace) -> float:
    """Seconds per step of the loop."""
    settings = scale_settings(
        batch=batch, device=args.device, bfloat16=args.precision == "bfloat16", threads=args.threads,
        compiled=args.compile,
    )  # fmt: skip
    objective = scale_objective(made_up_sets(max(args.videos, batch), width=args.width), settings, device=args.device)
    return seconds_a_step_of_the_loop(objective, settings, device=args.device, budget_seconds=args.seconds)


def extraction(batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and operations of one clip through the encoder, and of the set predictor on the test views."""
    encoder = clip_encoder(device=args.device)
    pixels = torch.randn(batch, NUM_FRAMES, 3, SIZE, SIZE, device=args.device)
    bfloat16 = args.precision == "bfloat16"
    cast = torch.autocast(torch.device(args.device).type, torch.bfloat16) if bfloat16 else contextlib.nullcontext()

    def step() -> None:
        with torch.no_grad(), cast:
            encoder(pixels)

    seconds = seconds_a_step(step, budget_seconds=args.seconds, device=args.device) / batch
    with torch.device("meta"):
        predictor = SetPredictor(SetPredictorSettings(), width_in=768).eval()
        views = torch.empty(1, TEST_VIEWS, 768), torch.empty(1, TEST_VIEWS, 6)
    return {
        "seconds": seconds,
        "macs": count_macs(encoder, pixels[:1]),
        "view_macs": count_macs(clip_encoder(device="cpu", size=TEST_SIZE), torch.zeros(1, NUM_FRAMES, 3, 256, 256)),
        "predictor_macs": count_macs(predictor, *views),
    }


if __name__ == "__main__":
    main()
