"""A 52-head linear grid against 52 separate runs that each open and read the store again, in one run.

The separate runs are plain: ``torch.nn.Linear``, ``torch.optim``, features in memory, the same batches and schedule;
their weights are compared with the grid's. Everything runs in one warm process, so that neither side pays for start-up
and imports; ``--commands`` times whole `featcache probe linear` commands instead, as users run them. The goal is 5.

    uv run python benchmarks/linear_grid.py --videos 512 --rows 4 --channels 1280 --classes 8 --epochs 10
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import median, parser, report
from torch import Tensor, nn

from featcache.evaluation.grid import epoch_batches, initial_weight, learning_rate_factor, train_grid
from featcache.evaluation.reading import read_data
from featcache.evaluation.settings import Head, LinearSettings
from featcache.testing import stores


def main() -> None:
    """Time both sides in turn and print their ratio."""
    options = parser(__doc__)
    options.add_argument("--videos", type=int, default=512)
    options.add_argument("--rows", type=int, default=4, help="rows per video")
    options.add_argument("--channels", type=int, default=1280)
    options.add_argument("--grid", type=int, default=1, help="side of the stored maps; 1 for pooled features")
    options.add_argument("--classes", type=int, default=8)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--batch-size", type=int, default=128)
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--commands", action="store_true", help="time whole commands; with two classes")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    settings = LinearSettings(seeds=(0,), epochs=args.epochs, batch_size=args.batch_size)
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "store"
        shape = (args.channels,) if args.grid == 1 else (args.grid, args.grid, args.channels)
        stores.write_store(
            store,
            stores.StorePlan(
                records={"features": stores.make_record(shape)},
                num_videos=args.videos,
                rows_per_video=(args.rows,),
                shard_rows=1024,
            ),
        )
        sides = command_sides(store, settings, args) if args.commands else library_sides(store, settings, args)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(args.repeats):
            for side, run in sides.items():
                started = time.perf_counter()
                run()
                seconds[side].append(time.perf_counter() - started)
    medians = {side: median(values) for side, values in seconds.items()}
    ratio = median([apart / together for together, apart in zip(seconds["grid"], seconds["separate"], strict=True)])
    report(
        "linear grid",
        [{"side": side, "seconds": value} for side, value in medians.items()]
        + [{"side": "separate / grid (goal: 5)", "seconds": ratio}],
        as_json=args.json,
        notes=[
            f"{len(settings.heads)} heads, {args.videos * args.rows} rows of {shape}, {args.classes} classes, "
            f"{args.epochs} epochs, batches of {args.batch_size}, {args.threads} threads, {args.device}, "
            + ("whole commands" if args.commands else "one warm process")
        ],
    )


def library_sides(store: Path, settings: LinearSettings, args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Time reading and training in this process, after checking once that both sides train the same heads."""

    def load() -> tuple[Tensor, Tensor]:
        data = read_data(store)
        labels = data.row_video % args.classes
        data.features[range(len(labels)), labels] += 10  # classes that can be told apart, so that training converges
        return torch.from_numpy(data.features).to(args.device), torch.from_numpy(labels).to(args.device)

    def grid() -> list[Tensor]:
        trained = train_grid(*load(), settings.heads, num_classes=args.classes, settings=settings)
        weights = {head: block.weight[0, :, i] for block in trained.blocks for i, head in enumerate(block.index)}
        return [weights[place].cpu() for place in range(len(settings.heads))]

    def separate() -> list[Tensor]:
        return [train_alone(*load(), head, args.classes, settings).cpu() for head in settings.heads]

    # Warm both sides up, and see that they train the same heads. The median, because AdamW at lr 1 steps by the sign of
    # gradients that are rounding noise once a head has converged.
    errors = [float((one - other).norm() / other.norm()) for one, other in zip(grid(), separate(), strict=True)]
    if median(errors) > 1e-5:
        raise SystemExit(f"the two sides do not train the same heads: weights differ by {median(errors):.2%}")
    return {"reading once": load, "grid": grid, "separate": separate}


def train_alone(features: Tensor, labels: Tensor, head: Head, num_classes: int, settings: LinearSettings) -> Tensor:
    """Train one head alone; returns its weights [D, C]."""
    linear = nn.Linear(features.shape[1], num_classes)
    with torch.no_grad():
        linear.weight.copy_(initial_weight(features.shape[1], num_classes, seed=0).T)
        linear.bias.zero_()
    norm = nn.BatchNorm1d(features.shape[1], affine=False) if head.batch_norm else nn.Identity()
    model = nn.Sequential(norm, linear).to(features.device)
    optimizer: torch.optim.Optimizer
    if head.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), lr=head.lr, momentum=settings.momentum, weight_decay=head.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=head.lr, weight_decay=head.weight_decay)
    for epoch in range(settings.epochs):
        batches = epoch_batches(len(features), batch_size=settings.batch_size, seed=0, epoch=epoch)
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = head.lr * learning_rate_factor(epoch + step / len(batches), settings)
            picked = torch.from_numpy(batch).to(features.device)
            loss = nn.functional.cross_entropy(model(features[picked]), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return linear.weight.detach().T


def command_sides(store: Path, settings: LinearSettings, args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Time whole commands: one command with the grid against one command per head."""

    def probe(**changes: object) -> None:
        own = {"seeds": [0], "epochs": args.epochs, "batch_size": args.batch_size, **changes}
        sets = [f"--set=linear.{key}={json.dumps(value)}" for key, value in own.items()]
        command = [str(Path(sys.executable).with_name("featcache")), "probe", "linear", str(store), "--json", *sets]
        subprocess.run(
            [*command, "--device", args.device, "--out", str(store.parent / "out")],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        )

    def separate() -> None:
        for head in settings.heads:
            probe(
                lrs=[head.lr],
                weight_decays=[head.weight_decay],
                optimizers=[head.optimizer],
                batch_norms=[head.batch_norm],
            )

    return {"grid": probe, "separate": separate}


if __name__ == "__main__":
    main()
