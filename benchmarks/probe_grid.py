"""The grid of a `transformer` probe as one stack of networks, against the same networks trained one after another.

The networks of the other side are plain: `torch.nn` modules, `torch.optim.AdamW`, one network after another, on the
same batches, clips, dropout draws and schedule. Their weights are compared with those of the stack. Both sides run in
one warm process and in turn. The default grid has five learning rates with three seeds. The goal is 3 where the
arithmetic is not what takes the time; the row `arithmetic alone` says how long the matrix products of all networks take
at the rate of one large product.

    uv run python benchmarks/probe_grid.py
    uv run python benchmarks/probe_grid.py --channels 768 --width 256 --depth 2 --batch-size 512 --videos 512 \
        --classes 51 --epochs 1
"""

import argparse
import itertools
import time

import numpy as np
import torch
from common import median, parser, report
from torch import Tensor, nn

from featcache.evaluation.clip_training import ClipTable, clip_table, draw_clips, train_stack
from featcache.evaluation.data import make_data
from featcache.evaluation.grid import epoch_batches, initial_weight
from featcache.evaluation.sets import SetEmbedder, embedded_width
from featcache.evaluation.settings import Candidate, ClipTraining
from featcache.evaluation.stack import Embedding
from featcache.machine import keep_freed_memory
from featcache.networks.set_predictor import SetPredictor
from featcache.networks.settings import SetPredictorSettings
from featcache.training.generators import seeded_torch
from featcache.training.schedules import learning_rate_factor
from featcache.training.settings import ScheduleSettings


def main() -> None:
    """Time both sides in turn and print their ratio."""
    options = parser(__doc__)
    options.add_argument("--videos", type=int, default=128)
    options.add_argument("--clips", type=int, default=10, help="clips per video, of which a step takes 8")
    options.add_argument("--channels", type=int, default=16)
    options.add_argument("--classes", type=int, default=8)
    options.add_argument("--width", type=int, default=32)
    options.add_argument("--depth", type=int, default=1)
    options.add_argument("--position-hidden", type=int, default=0, help="0: twice the width, as in the released sizes")
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory("cpu")
    args.position_hidden = args.position_hidden or 2 * args.width
    table, labels, embedding = problem(args)
    training = ClipTraining(epochs=args.epochs, batch_sizes=(args.batch_size,))
    everything = np.arange(args.videos)

    def stack() -> Tensor:
        return train_stack(
            embedding,
            table,
            everything,
            labels,
            training.candidates,
            training.seeds,
            training,
            num_outputs=args.classes,
        ).theta.detach()

    def separate() -> Tensor:
        rows = [
            torch.stack([train_alone(embedding, table, labels, each, seed, training) for seed in training.seeds])
            for each in training.candidates
        ]
        return torch.stack(rows)

    one, other = stack(), separate()
    errors = ((one - other).norm(dim=2) / other.norm(dim=2)).flatten().tolist()
    if median(errors) > 1e-3:
        raise SystemExit(f"the two sides do not train the same networks: weights differ by {median(errors):.2%}")
    sides = {"stack": stack, "separate": separate}
    wall: dict[str, list[float]] = {side: [] for side in sides}
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    for _, (side, run) in itertools.product(range(args.repeats), sides.items()):
        began = time.perf_counter(), time.process_time()
        run()
        wall[side].append(time.perf_counter() - began[0])
        cpu[side].append(time.process_time() - began[1])
    ratios = {
        name: median([apart / together for together, apart in zip(found["stack"], found["separate"], strict=True)])
        for name, found in (("seconds", wall), ("CPU seconds", cpu))
    }
    floor = operations(args, training) / product_rate()
    report(
        "grid of a transformer probe",
        [
            *({"side": side, "seconds": median(wall[side]), "CPU seconds": median(cpu[side])} for side in sides),
            {"side": "separate / stack", **ratios},
            {"side": "arithmetic alone", "seconds": floor},
        ],
        as_json=args.json,
        notes=[
            f"{len(training.candidates)} learning rates x {len(training.seeds)} seeds, {args.videos} videos, "
            f"{args.channels} channels, width {args.width}, depth {args.depth}, positions "
            f"{args.position_hidden}, batches of {args.batch_size} x 8 "
            f"clips, {args.epochs} epochs, {torch.get_num_threads()} threads; weights of the two sides differ by "
            f"{median(errors):.0e} of their norm"
        ],
    )


def problem(args: argparse.Namespace) -> tuple[ClipTable, Tensor, Embedding]:
    """Clips of classes that can be told apart, their labels, and the default predictor of the given size."""
    rng = np.random.default_rng(0)
    labels = np.arange(args.videos) % args.classes
    owner = np.repeat(np.arange(args.videos), args.clips)
    centres = rng.normal(size=(args.classes, args.channels))
    data = make_data(
        (centres[labels][owner] + rng.normal(size=(len(owner), args.channels))).astype(np.float32),
        row_video=owner,
        videos=[str(number) for number in range(args.videos)],
        labels=[f"class{label:03d}" for label in labels],
        positions={"box6": rng.random((len(owner), 6)).astype(np.float32)},
    )
    settings = SetPredictorSettings(width=args.width, depth=args.depth, position_hidden=args.position_hidden)
    embedding = Embedding(
        make=lambda seed: SetEmbedder(SetPredictor(settings, width_in=args.channels), refined=False),
        width=embedded_width(settings, width_in=args.channels, refined=False),
        form=settings.position,
    )
    return clip_table(data, form="box6", coordinates="true", device="cpu"), torch.from_numpy(data.labels), embedding


def train_alone(
    embedding: Embedding, table: ClipTable, labels: Tensor, candidate: Candidate, seed: int, training: ClipTraining
) -> Tensor:
    """Train one network; returns its parameters in the order of the stack."""
    with seeded_torch(seed, "probe-init"):
        embed = embedding.make(seed)
    weight = initial_weight(embedding.width, int(labels.max()) + 1, seed=seed)
    head = nn.Linear(*weight.shape)
    with torch.no_grad():
        head.weight.copy_(weight.T)
        head.bias.zero_()
    parameters = [*embed.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=candidate.lr, weight_decay=candidate.weight_decay, fused=True)
    schedule = ScheduleSettings(kind=training.schedule, warmup_fraction=training.warmup_fraction)
    with seeded_torch(seed, "probe-dropout"):
        for epoch in range(training.epochs):
            clips, _ = draw_clips(table.counts, num_clips=training.num_clips, seed=seed, epoch=epoch)
            rows = torch.from_numpy(table.first[:, None] + clips)
            batches = epoch_batches(len(rows), batch_size=candidate.batch_size, seed=seed, epoch=epoch)
            for step, batch in enumerate(batches):
                at = epoch + step / len(batches)
                factor = learning_rate_factor(at, epochs=training.epochs, schedule=schedule)
                optimiser.param_groups[0]["lr"] = candidate.lr * factor
                features, positions = table.gather(rows[batch])
                vectors = embed(features, positions, None).flatten(0, 1)
                targets = labels[batch].repeat_interleave(rows.shape[1])
                loss = nn.functional.cross_entropy(head(vectors), targets)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    own = [*(each.flatten() for each in embed.parameters()), head.weight.T.flatten(), head.bias]
    return torch.cat(own).detach()


def operations(args: argparse.Namespace, training: ClipTraining) -> float:
    """Multiplications and additions of all matrix products but those within attention, forward and backward."""
    settings = SetPredictorSettings(width=args.width, depth=args.depth, position_hidden=args.position_hidden)
    clips, tokens = args.videos * training.num_clips, args.videos * (training.num_clips + 1)
    hidden = settings.position_hidden
    weights = clips * (args.channels * args.width + 6 * hidden + hidden * args.width)
    weights += tokens * args.depth * (4 + 2 * settings.mlp_ratio) * args.width**2
    weights += clips * (args.channels + args.width) * args.classes
    return 3 * 2 * weights * training.epochs * len(training.candidates) * len(training.seeds)


def product_rate() -> float:
    """Multiplications and additions per second of a large matrix product."""
    one = torch.randn(2048, 2048)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        one @ one
        seconds.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(seconds)


if __name__ == "__main__":
    main()
