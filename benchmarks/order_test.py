"""Do temporal modules use time? Motion from stored maps, by module and by order of frames; PRP against scratch.

Generates the motion set, extracts the stride-16 maps of EfficientNet-Lite0 (real ImageNet weights), deletes the clips
and trains: the head on averaged features (``skip``), r3d blocks with temporal kernel 1 (as released) and with kernel 3.
Test frames are given in order, reversed, shuffled, and with one frame repeated. ``--pretext`` first pre-trains kernel 3
on the playback rate of long clips and fine-tunes with few labels, against training from scratch with the same seeds.
The goals: kernel 3 reaches at least 0.85 on new clips of seen photographs and 0.6 on unseen photographs; the other two
are at chance (0.125).

    uv run python benchmarks/order_test.py
    uv run python benchmarks/order_test.py --pretext
"""

import argparse
import tempfile
from pathlib import Path

from common import parser, report

from featcache.data.motion import MotionSettings, make_motion_set
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, SamplingSettings
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.run import pretrain
from featcache.methods.advise.settings import AdviseSettings, TmmFineTuneSettings
from featcache.methods.advise.tmm import TemporalResult, run_temporal
from featcache.networks.settings import TmmSettings
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

BACKBONE = "timm/tf_efficientnet_lite0"
ORDERS = ("true", "reversed", "shuffled", "one frame")


def main() -> None:
    """Print the tables."""
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, help="keep the store and the runs here")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--hidden", type=int, default=64)
    options.add_argument("--blocks", type=int, default=3, help="number of blocks of a module")
    options.add_argument("--lr", type=float, default=1e-3)
    options.add_argument("--weight-decay", type=float, default=1.0)
    options.add_argument("--layer", default="blocks.4")
    options.add_argument("--kernels", type=int, nargs="+", default=[1, 3])
    options.add_argument("--pretext", action="store_true", help="pre-train on playback rate, then few labels")
    options.add_argument("--pretext-epochs", type=int, default=60)
    options.add_argument("--pretext-frames", type=int, default=64)
    options.add_argument("--device", default="cpu")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        if args.pretext:
            pretext_table(folder, args)
        else:
            order_table(folder, args)


def order_table(folder: Path, args: argparse.Namespace) -> None:
    """Averaging, kernel 1 and kernel 3 on clips of eight frames."""
    store = motion_store(folder / "short", MotionSettings(num_frames=8), layer=args.layer)
    rows = []
    modules = {"averaged features": module(args, kind="skip")}
    modules |= {f"temporal kernel {kernel}": module(args, temporal_kernel=kernel) for kernel in args.kernels}
    for name, tmm in modules.items():
        result = run_temporal(fine_tuning(store, tmm, args, folder / "runs" / name.replace(" ", "-")))
        rows += accuracy_rows(name, result, arm="scratch")
    notes = [
        f"{args.seeds} seeds, {args.epochs} epochs, {args.blocks} blocks, layer {args.layer}",
        "top-1 with 95 % intervals, chance 12.5",
    ]
    report("motion by module and order of frames", rows, as_json=args.json, notes=notes)


def pretext_table(folder: Path, args: argparse.Namespace) -> None:
    """Kernel 3 with and without playback-rate pre-training, with 40 and 10 labels per class."""
    motion = MotionSettings(num_frames=args.pretext_frames, window=(0.15, 0.25))
    store = motion_store(folder / f"long-{args.pretext_frames}", motion, layer=args.layer)
    tmm = module(args, temporal_kernel=3)
    pretext = AdviseSettings(
        bank=BankSettings(store=str(store)),
        tmm=tmm,
        training=training(args, epochs=args.pretext_epochs, lr=args.lr, weight_decay=1e-6),
        out=str(folder / "runs" / "pretext"),
    )
    pretrained = pretrain(pretext)
    accuracy = [line["accuracy"] for line in pretrained.seeds.values()]
    rows = []
    for labels in (40, 10):
        settings = fine_tuning(store, None, args, folder / "runs" / f"few-{labels}", stride=4)
        settings = settings.model_copy(
            update={"init": pretrained.folder, "compare_scratch": True, "labels_per_class": labels}
        )
        result = run_temporal(settings)
        for arm in ("pretrained", "scratch"):
            rows += accuracy_rows(f"{arm}, {labels} labels per class", result, arm=arm)
        rows += [
            {
                "module": f"difference, {labels} labels per class",
                "split": split,
                "true": f"{100 * delta.value:+.1f} [{100 * delta.low:+.1f}, {100 * delta.high:+.1f}]",
            }
            for split, delta in result.delta.items()
        ]
    rates = ", ".join(f"{100 * value:.0f} %" for value in accuracy)
    notes = [f"{args.seeds} seeds; accuracy of the rate in the last epoch of pre-training: {rates} (chance 25 %)"]
    report("playback-rate pre-training", rows, as_json=args.json, notes=notes)


def accuracy_rows(name: str, result: TemporalResult, *, arm: str) -> list[dict[str, str]]:
    """One row per split, with one accuracy per order of the frames."""
    rows = []
    for split, orders in result.metrics[arm].items():
        cells = {order: orders[order]["top1"] for order in ORDERS}
        texts = {
            order: f"{100 * top1.value:.1f} [{100 * top1.low:.1f}, {100 * top1.high:.1f}]"
            for order, top1 in cells.items()
        }
        rows.append({"module": name, "split": split, **texts})
    return rows


def module(args: argparse.Namespace, *, kind: str = "r3d", temporal_kernel: int = 1) -> TmmSettings:
    """A small module."""
    return TmmSettings(
        kind=kind, hidden=args.hidden, out=2 * args.hidden, num_blocks=args.blocks, temporal_kernel=temporal_kernel,
        head_hidden=128,
    )  # fmt: skip


def training(args: argparse.Namespace, *, epochs: int, lr: float, weight_decay: float) -> TrainingSettings:
    """Training settings of both stages."""
    return TrainingSettings(
        epochs=epochs,
        batch_size=32,
        optimiser=OptimiserSettings(lr=lr, weight_decay=weight_decay),
        schedule=ScheduleSettings(warmup_fraction=min(2.0 / epochs, 0.1)),
        seeds=tuple(range(args.seeds)),
        device=args.device,
        tensorboard=False,
    )


def fine_tuning(
    store: Path, tmm: TmmSettings | None, args: argparse.Namespace, out: Path, *, stride: int = 1
) -> TmmFineTuneSettings:
    """Settings of fine-tuning on motion labels, with clips of eight frames."""
    return TmmFineTuneSettings(
        bank=BankSettings(store=str(store)),
        label="motion",
        tmm=tmm,
        sampler="spread",
        stride=stride,
        test_clips=1,
        training=training(args, epochs=args.epochs, lr=args.lr, weight_decay=args.weight_decay),
        out=str(out),
    )


def motion_store(folder: Path, motion: MotionSettings, *, layer: str) -> Path:
    """A store of the maps of a motion set, made once."""
    store = folder / "store"
    listing = make_motion_set(folder / "videos", motion)
    extract(
        ExtractSettings(
            source=str(listing),
            out=str(store),
            features=(
                FeatureSettings(backbone=BACKBONE, layer=layer, output="map", input_size=motion.size, name="map"),
            ),
            sampling=SamplingSettings(layout="frames", crop_fraction=1.0),
        )
    )
    return store


if __name__ == "__main__":
    main()
