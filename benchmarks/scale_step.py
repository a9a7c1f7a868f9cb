"""The cost of a step of SCALE's pre-training: against matrix products, full logits, plain tensors and a DataLoader.

    uv run python benchmarks/scale_step.py rate      # the step against the machine's rate for its own products: >= 0.7
    uv run python benchmarks/scale_step.py logits    # masked rows in chunks against all rows: time and memory
    uv run python benchmarks/scale_step.py command   # the whole of `train scale` against the same steps: <= 1.05
    uv run python benchmarks/scale_step.py loader    # against a DataLoader over one file per video: >= 5 on a GPU

`rate` counts the products of the forward and backward pass from the settings (`matrix_products.py`) and measures each
of their shapes alone: the sum of those times over the step's time is the share. Norms, softmax, dropout, gathers and
the optimiser's step count in the step's time but not in the products'. The share of the peak is the step's rate for its
products over that of a big square product.

`logits` computes MCM's loss for one batch, head included, forward and backward, in three processes: all rows of the
logits as released, only masked rows, and masked rows in chunks as `train scale` does.

`command` runs the whole of `train scale` on a store (opened, checked, logged, checkpointed) and a loop on tensors in
memory that only draws and indexes batches and runs the forward pass, the backward pass and the optimiser's step.
`loader` gives that loop its batches from a DataLoader that reads one .npy file per video.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import answer, measure, peak_bytes, seconds_a_step, synchronise
from common import cpu_seconds, median, parser, report
from matrix_products import Product, operations, seconds_of, seconds_of_one, step_products
from scale_steps import made_up_sets, scale_objective, scale_settings, seconds_a_step_of_the_loop
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from featcache.loaders.clip_sets import open_clip_sets
from featcache.loaders.settings import ClipSetSettings
from featcache.machine import Matmul, set_matmul
from featcache.methods.scale.losses import masked_clip_loss, set_contrast_loss
from featcache.methods.scale.run import build_module, pretrain_scale
from featcache.methods.scale.settings import ScaleSettings
from featcache.networks.set_pretraining import ProjectionHead, ScalePretraining
from featcache.testing.stores import StorePlan, make_record, write_store
from featcache.training.schedules import learning_rate_factor

WIDTH = 768
LOGITS = ("all rows", "masked rows", "masked rows in chunks")
Batches = Iterator[tuple[Tensor, Tensor]]


def main() -> None:
    """Run one of the four measurements."""
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("what", choices=("rate", "logits", "command", "loader"))
    options.add_argument("--batch", type=int, help="videos per step; default 512 (rate, logits), 128 (command, loader)")
    options.add_argument("--videos", type=int, default=512, help="training videos of command and loader")
    options.add_argument("--epochs", type=int, default=50, help="epochs of command; loader takes a tenth")
    options.add_argument("--width", type=int, default=WIDTH, help="channels per clip")
    options.add_argument("--seconds", type=float, default=30.0, help="seconds of steps per measurement")
    options.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the DataLoader")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32")
    options.add_argument("--compile", choices=("predictor", "objective"), help="what is compiled")
    options.add_argument("--draws", choices=("host", "device"), default="host", help="where sets are drawn")
    options.add_argument("--cell", choices=LOGITS, help=argparse.SUPPRESS)
    args = options.parse_args()
    args.batch = args.batch or (512 if args.what in ("rate", "logits") else 128)
    torch.set_num_threads(args.threads)
    set_matmul(matmul_of(args))
    if args.cell:
        answer(lambda: logits_cell(args.cell, args))
        return
    {"rate": rate, "logits": logits, "command": command, "loader": loader}[args.what](args)


def settings_of(args: argparse.Namespace, *, epochs: int = 1) -> ScaleSettings:
    """The published settings at the requested batch size."""
    return scale_settings(
        batch=args.batch, epochs=epochs, device=args.device, bfloat16=args.precision == "bfloat16",
        threads=args.threads, compiled={"predictor": True, "objective": "objective"}.get(args.compile, False),
        draws=args.draws, matmul=matmul_of(args),
    )  # fmt: skip


def matmul_of(args: argparse.Namespace) -> Matmul:
    """The setting of float32 products: TF32 also for float32 products that remain beside a lower precision."""
    return "highest" if args.precision == "float32" else "high"


def rate(args: argparse.Namespace) -> None:
    """The speed of a step as a share of the speed of its own products."""
    settings = settings_of(args)
    sets = made_up_sets(4 * args.batch, width=args.width)
    objective = scale_objective(sets, settings, device=args.device)
    num_masked = round(settings.loss.mask_ratio * 2 * args.batch * settings.clips_per_set)
    products = step_products(settings, width_in=args.width, num_masked=num_masked)
    dtype = torch.bfloat16 if args.precision == "bfloat16" else torch.float32
    square = Product(form="nn", rows=4096, inner=4096, columns=4096)
    times: dict[str, list[float]] = {"step": [], "products": [], "square": []}
    for _ in range(args.repeats):
        times["products"].append(seconds_of(products, dtype=dtype, device=args.device))
        step = seconds_a_step_of_the_loop(objective, settings, device=args.device, budget_seconds=args.seconds)
        times["step"].append(step)
        times["square"].append(seconds_of_one(square, dtype=dtype, device=args.device, repeats=1))
    work = operations(products)
    counted = {"step": work, "products": work, "square": square.operations}
    names = {"step": "step of the loop", "products": "its products alone", "square": "a product of 4,096 cubed"}
    rows = [
        {
            "what": names[name],
            "seconds": median(seconds),
            "Gop": counted[name] / 1e9,
            "Gop/s": counted[name] / 1e9 / median(seconds),
            "share of its products": median([a / b for a, b in zip(times["products"], seconds, strict=True)])
            if name == "step"
            else "",
            "share of the peak": median(
                [
                    work / step / (square.operations / peak)
                    for step, peak in zip(times["step"], times["square"], strict=True)
                ]
            )
            if name == "step"
            else "",
        }
        for name, seconds in times.items()
    ]
    notes = [
        f"batch {args.batch}, {args.width} channels, {args.precision}, {args.threads} threads, compiled: "
        f"{args.compile or 'nothing'}, sets drawn on the {args.draws}; "
        f"{args.batch / median(times['step']):.4g} samples/s; {len(products)} products of {len(set(products))} shapes; "
        "goal 0.7"
    ]
    report("one step against its matrix products", rows, as_json=args.json, notes=notes)


def logits(args: argparse.Namespace) -> None:
    """Three ways to compute MCM's loss, each in its own process."""
    passed = ("batch", "width", "device", "threads", "precision", "seconds")
    flags = [word for name in passed for word in (f"--{name}", getattr(args, name))]
    cells = {name: measure(__file__, ["logits", *flags, "--cell", name]) for name in LOGITS}
    rows = [
        {
            "logits": name,
            "seconds": cell.get("seconds", cell.get("problem")),
            "peak GB": cell["peak_bytes"] / 1e9 if "seconds" in cell else "",
            "beyond the start GB": (cell["peak_bytes"] - cell["base_bytes"]) / 1e9 if "seconds" in cell else "",
        }
        for name, cell in cells.items()
    ]
    note = f"MCM of {args.batch} videos x 2 sets x 8 clips, a quarter masked, forward and backward with the clip head"
    report("full against masked and chunked logits", rows, as_json=args.json, notes=[note])


def logits_cell(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """In the child: seconds per loss and peak memory."""
    settings = settings_of(args)
    num_clips = 2 * args.batch * settings.clips_per_set
    heads, temperature = settings.heads, settings.loss.mcm_temperature
    generator = torch.Generator().manual_seed(0)
    head = ProjectionHead(256, hidden=heads.hidden, width_out=heads.width, num_layers=heads.layers).to(args.device)
    clips = torch.randn(num_clips, 256, generator=generator).to(args.device).requires_grad_()
    keys = torch.randn(num_clips, heads.width, generator=generator).to(args.device)
    keys = functional.normalize(keys, dim=1).requires_grad_()
    masked = (torch.rand(num_clips, generator=generator) < settings.loss.mask_ratio).nonzero()[:, 0].to(args.device)
    everything = torch.arange(num_clips, device=args.device)

    def loss() -> Tensor:
        if name == "all rows":
            losses = functional.cross_entropy(head(clips) @ keys.T / temperature, everything, reduction="none")
            return losses[masked].mean()
        predictions = head(clips.index_select(0, masked))
        if name == "masked rows":
            return functional.cross_entropy(predictions @ keys.T / temperature, masked)
        return masked_clip_loss(predictions, keys, masked, temperature=temperature).loss

    def step() -> None:
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.precision == "bfloat16"):
            total = loss()
        total.backward()

    base = peak_bytes(args.device)
    seconds = seconds_a_step(step, budget_seconds=args.seconds, device=args.device)
    return {"seconds": seconds, "peak_bytes": peak_bytes(args.device), "base_bytes": base}


def command(args: argparse.Namespace) -> None:
    """The whole of ``train scale`` against the same steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = store_settings(folder / "store", args)
        sets = open_clip_sets(settings.sets, form="code7", only_training=True)
        features, positions = sets.features.to(args.device), sets.positions.to(args.device)
        sides: dict[str, Callable[[int], object]] = {
            "featcache train scale": lambda turn: pretrain_scale(
                settings.model_copy(update={"out": str(folder / f"run{turn}")})
            ),
            "plain loop": lambda turn: plain_loop(settings, drawn_batches(features, positions, settings), args),
        }
        once = settings_of(args).training  # costs of a first run count for neither side
        warm = settings.model_copy(update={"training": once, "out": str(folder / "warm")})
        pretrain_scale(warm)
        plain_loop(warm, drawn_batches(features, positions, warm), args)
        wall: dict[str, list[float]] = {side: [] for side in sides}
        cpu: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(args.repeats):
            for side, run in list(sides.items())[:: 1 if turn % 2 == 0 else -1]:
                synchronise(args.device)
                started, used = time.perf_counter(), cpu_seconds()
                run(turn)
                synchronise(args.device)
                wall[side].append(time.perf_counter() - started)
                cpu[side].append(cpu_seconds() - used)
    rows: list[dict[str, Any]] = [
        {"side": side, "seconds": median(wall[side]), "CPU seconds": median(cpu[side])} for side in sides
    ]
    for column, seconds in (("ratio", wall), ("CPU ratio", cpu)):
        rows[0][column] = median([mine / other for mine, other in zip(*seconds.values(), strict=True)])
    steps = args.epochs * (args.videos // args.batch)
    notes = [
        f"{args.epochs} epochs, {steps} steps of {args.batch} videos x 2 x 8 clips, {args.threads} threads, "
        f"{args.repeats} runs of each in turn, the ratio is the median of pairs; goal 1.05"
    ]
    report("a whole training command of SCALE", rows, as_json=args.json, notes=notes)


def loader(args: argparse.Namespace) -> None:
    """Batches from memory against batches from a DataLoader, with the same steps."""
    args.epochs = max(1, args.epochs // 10)
    settings = settings_of(args, epochs=args.epochs)
    sets = made_up_sets(args.videos, width=args.width)
    objective = scale_objective(sets, settings, device=args.device)
    rates: dict[str, list[float]] = {"featcache's loop": [], "DataLoader": []}
    with tempfile.TemporaryDirectory() as name:
        files = VideoFiles.write(Path(name), sets.features, sets.positions)
        for _ in range(args.repeats):
            step = seconds_a_step_of_the_loop(objective, settings, device=args.device, budget_seconds=args.seconds)
            rates["featcache's loop"].append(args.batch / step)
            started = time.perf_counter()
            plain_loop(settings, loaded_batches(files, settings, args), args)
            synchronise(args.device)
            seconds = time.perf_counter() - started
            rates["DataLoader"].append(args.epochs * (args.videos // args.batch) * args.batch / seconds)
    rows: list[dict[str, Any]] = [{"batches": name, "samples/s": median(values)} for name, values in rates.items()]
    rows[0]["times faster"] = median([mine / other for mine, other in zip(*rates.values(), strict=True)])
    notes = [f"batch {args.batch}, {args.videos} videos, one .npy per video, {args.workers} workers; goal 5 on a GPU"]
    report("against a DataLoader", rows, as_json=args.json, notes=notes)


def store_settings(path: Path, args: argparse.Namespace) -> ScaleSettings:
    """Settings of ``train scale`` on a store with ``--videos`` training videos; a third of all videos are test videos.

    Its synthetic videos have no size, so positions are the seven numbers of the released code.
    """
    plan = StorePlan(
        records={"clips": make_record((args.width,))}, rows_per_video=(16,), num_videos=args.videos * 3 // 2,
        shard_rows=4096,
    )  # fmt: skip
    write_store(path, plan)
    settings = settings_of(args, epochs=args.epochs)
    return ScaleSettings.model_validate(
        settings.model_dump()
        | {
            "sets": ClipSetSettings(store=str(path)).model_dump(),
            "predictor": settings.model_dump()["predictor"] | {"position": "code7"},
        }
    )


def plain_loop(settings: ScaleSettings, batches: Batches, args: argparse.Namespace) -> None:
    """Forward pass, backward pass and step per batch: vectors float16 [B, 16, D] and positions float32 [B, 16, n]."""
    module = build_module(settings, width_in=args.width, seed=0).to(args.device).train()
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    own = settings.training.optimiser
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=own.lr, weight_decay=own.weight_decay, fused=True)
    steps_an_epoch = args.videos // args.batch
    for number, (features, positions) in enumerate(batches):
        factor = learning_rate_factor(
            number / steps_an_epoch, epochs=settings.training.epochs, schedule=settings.training.schedule
        )
        for group in optimiser.param_groups:
            group["lr"] = own.lr * factor
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.precision == "bfloat16"):
            loss = plain_loss(module, settings, features.to(args.device), positions.to(args.device))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def plain_loss(module: ScalePretraining, settings: ScaleSettings, features: Tensor, positions: Tensor) -> Tensor:
    """MCM and SET loss of a batch whose clips are in random order."""
    assert module.clip_head is not None
    assert module.target_head is not None
    assert module.set_head is not None
    clips = settings.clips_per_set
    features = torch.cat([features[:, :clips], features[:, clips:]]).float()
    positions = torch.cat([positions[:, :clips], positions[:, clips:]])
    masked = torch.rand(features.shape[:2], device=features.device) < settings.loss.mask_ratio
    masked_at = masked.flatten().nonzero()[:, 0]
    summary, refined = module.predictor(features, positions, masked=masked)
    mcm = masked_clip_loss(
        module.clip_head(refined.flatten(0, 1)[masked_at]),
        module.target_head(features.flatten(0, 1)),
        masked_at,
        temperature=settings.loss.mcm_temperature,
    )
    first, second = module.set_head(summary).chunk(2)
    return (mcm.loss + set_contrast_loss(first, second, temperature=settings.loss.set_temperature).loss) / 2


def drawn_batches(features: Tensor, positions: Tensor, settings: ScaleSettings) -> Batches:
    """Batches of one tensor: videos in a new order each epoch, the clips of each in a random order."""
    generator = torch.Generator().manual_seed(0)
    num_videos, batch = len(features) // 16, settings.training.batch_size
    for _ in range(settings.training.epochs):
        order = torch.randperm(num_videos, generator=generator)
        for videos in order[: num_videos // batch * batch].split(batch):
            picked = torch.rand(len(videos), 16, generator=generator).argsort(dim=1)
            rows = (videos[:, None] * 16 + picked).to(features.device)
            yield features[rows], positions[rows]


def loaded_batches(files: "VideoFiles", settings: ScaleSettings, args: argparse.Namespace) -> Batches:
    """The same from a DataLoader."""
    batches = DataLoader(
        files, batch_size=settings.training.batch_size, shuffle=True, drop_last=True, num_workers=args.workers,
        pin_memory=args.device != "cpu", persistent_workers=args.workers > 0,
    )  # fmt: skip
    for _ in range(settings.training.epochs):
        yield from batches


class VideoFiles(Dataset[tuple[Tensor, Tensor]]):
    """One file of vectors and one of positions per video, read on access: the clips in random order."""

    def __init__(self, folder: Path, num_videos: int) -> None:
        self.folder = folder
        self.num_videos = num_videos

    @classmethod
    def write(cls, folder: Path, features: Tensor, positions: Tensor) -> "VideoFiles":
        """Write the files of videos of 16 clips."""
        num_videos = len(features) // 16
        for video in range(num_videos):
            rows = slice(16 * video, 16 * video + 16)
            np.save(folder / f"{video}.npy", features[rows].numpy())
            np.save(folder / f"{video}.positions.npy", positions[rows].numpy())
        return cls(folder, num_videos)

    def __len__(self) -> int:
        return self.num_videos

    def __getitem__(self, video: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(16)
        features = torch.from_numpy(np.load(self.folder / f"{video}.npy"))
        positions = torch.from_numpy(np.load(self.folder / f"{video}.positions.npy"))
        return features[order], positions[order]


if __name__ == "__main__":
    main()
