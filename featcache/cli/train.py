"""``train``: temporal modules on a stored frame bank, set predictors on stored clips, and a baseline on videos."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.console import Quiet, bars, print_result
from featcache.cli.source import Dataset, Root, Source, SplitColumn, Subset, selected

if TYPE_CHECKING:
    from featcache.methods.advise.settings import AdviseSettings, R3d50Settings, TmmFineTuneSettings
    from featcache.methods.scale.settings import ScaleSettings

StorePath = Annotated[str, typer.Argument(help="A store of layout `frames` with maps.")]
Feature = Annotated[str | None, typer.Option("--feature", "-f", help="Name of the array, where there are several.")]
Preset = Annotated[
    str | None, typer.Option(help="A module's size: `release` (the default), `ablation-256` or `ablation-2048`.")
]
Kernel = Annotated[
    int | None, typer.Option("--temporal-kernel", help="Frames that a block sees; 1, as released, mixes none.")
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training videos.")]
BatchSize = Annotated[int | None, typer.Option(help="Videos a step.")]
Seeds = Annotated[list[int], typer.Option("--seed", help="Seed of a run; repeat for several.  [default: 0]")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")]
OutFolder = Annotated[str | None, typer.Option("--out", "-o", help="Folder of the run.  [default: runs/STORE/…]")]
Set = Annotated[
    list[str], typer.Option("--set", help="Any other setting by its key, e.g. `training.optimiser.lr=1e-3`.")
]
Online = Annotated[
    bool,
    typer.Option("--online", help="Decode and encode each clip anew, under fresh crops and colours, for comparison."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Train on a store or on videos: AdViSe's modules and baseline, SCALE's predictor, SVT, fine-tuning.",
)


@app.command(epilog="Example: `featcache train advise stores/ucf101 --epochs 200 --set clips.num_clips=2`")
def advise(
    store: StorePath,
    feature: Feature = None,
    preset: Preset = None,
    temporal_kernel: Kernel = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    seed: Seeds = [],
    device: Device = "auto",
    online: Online = False,
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pre-train a temporal module: at which rate was a clip played?"""
    from featcache.config import parse
    from featcache.methods.advise.settings import AdviseSettings

    data = _data(
        AdviseSettings, store, feature, preset, temporal_kernel, epochs, batch_size, seed, device, online, out, set_
    )
    run_advise(parse(AdviseSettings, data), as_json=as_json)


@app.command(
    epilog="Example: `featcache train tmm stores/ucf101 --init runs/ucf101/advise-… --seed 0 --seed 1 --seed 2`"
)
def tmm(
    store: StorePath,
    feature: Feature = None,
    label: Annotated[str, typer.Option("--label", "-l", help="Label column.")] = "label",
    init: Annotated[str | None, typer.Option(help="A `train advise` run to start from; `none`: from scratch.")] = None,
    compare_scratch: Annotated[bool, typer.Option("--compare-scratch", help="Train from scratch too.")] = False,
    preset: Preset = None,
    temporal_kernel: Kernel = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    seed: Seeds = [],
    device: Device = "auto",
    online: Online = False,
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a temporal module and a head on labels, then score test clips, in order and out of it."""
    from featcache.config import parse
    from featcache.methods.advise.settings import TmmFineTuneSettings

    kind = TmmFineTuneSettings
    data = _data(kind, store, feature, preset, temporal_kernel, epochs, batch_size, seed, device, online, out, set_)
    given = {"label": label, "init": None if init in (None, "none") else init, "compare_scratch": compare_scratch}
    run_tmm(parse(kind, {**given, **data}), as_json=as_json)


@app.command(epilog="Example: `featcache train r3d50 --dataset ucf101 --root /data/ucf101 --epochs 200`")
def r3d50(
    source: Source = None,
    dataset: Dataset = None,
    root: Root = None,
    split_column: SplitColumn = None,
    subset: Subset = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    seed: Seeds = [],
    device: Device = "auto",
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pre-train an R3D-50 on playback rate end to end, from the videos: AdViSe's costly baseline."""
    from featcache.config import apply_overrides, parse
    from featcache.methods.advise.settings import R3d50Settings

    where = selected(source, dataset, root, split_column, None, None, subset, None)
    training = _training(epochs, batch_size, seed, device)
    data = apply_overrides({**where, "training": training, "out": out}, set_)
    run_r3d50(parse(R3d50Settings, data), as_json=as_json)


@app.command(epilog="Example: `featcache train scale stores/ucf101-svt --epochs 200 --set loss.symmetric=true`")
def scale(
    store: Annotated[str, typer.Argument(help="A store of layout `clips` with vectors and coordinates.")],
    feature: Feature = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    seed: Seeds = [],
    device: Device = "auto",
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pre-train a set predictor: which clip is hidden here, and which two sets are of one video?"""
    from featcache.config import apply_overrides, parse
    from featcache.methods.scale.settings import ScaleSettings

    training = _training(epochs, batch_size, seed, device)
    data = {"sets": {"store": store, "feature": feature}, "training": training, "out": out}
    run_scale(parse(ScaleSettings, apply_overrides(data, set_)), as_json=as_json)


def _data(
    kind: "type[AdviseSettings | TmmFineTuneSettings]", store: str, feature: str | None, preset: str | None,
    kernel: int | None, epochs: int | None, batch_size: int | None, seeds: list[int], device: str, online: bool,
    out: str | None, assignments: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Settings from flags; training keeps the defaults of its command where nothing is given."""
    import dataclasses

    from featcache.config import apply_overrides
    from featcache.errors import unknown_name
    from featcache.networks.settings import PRESETS

    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    training = _training(epochs, batch_size, seeds, device)
    data: dict[str, Any] = {
        "bank": {"store": store, "feature": feature, "online": online},
        "training": training,
        "out": out,
    }
    if preset is not None or kernel is not None:
        data["tmm"] = dataclasses.asdict(PRESETS[preset or "release"])
        data["tmm"] |= {} if kernel is None else {"temporal_kernel": kernel}
    return apply_overrides(data, assignments)


def _training(epochs: int | None, batch_size: int | None, seeds: list[int], device: str) -> dict[str, Any]:
    """What flags say of the training section; the rest is the command's own."""
    given = {"epochs": epochs, "batch_size": batch_size, "seeds": seeds or None, "device": device}
    return {name: value for name, value in given.items() if value is not None}


def run_advise(settings: "AdviseSettings", *, as_json: bool = False) -> None:
    """Carry out ``train advise`` and print its summary."""
    from featcache.methods.advise.run import pretrain

    with bars() as drawn:
        result = pretrain(settings, on_stage=drawn.update)
    print_result(result, as_json=as_json)


def run_r3d50(settings: "R3d50Settings", *, as_json: bool = False) -> None:
    """Carry out ``train r3d50`` and print its summary."""
    from featcache.methods.advise.end_to_end import pretrain_r3d50

    with bars() as drawn:
        result = pretrain_r3d50(settings, on_stage=drawn.update)
    print_result(result, as_json=as_json)


def run_scale(settings: "ScaleSettings", *, as_json: bool = False) -> None:
    """Carry out ``train scale`` and print its summary."""
    from featcache.methods.scale.run import pretrain_scale

    with bars() as drawn:
        result = pretrain_scale(settings, on_stage=drawn.update)
    print_result(result, as_json=as_json)


def run_tmm(settings: "TmmFineTuneSettings", *, as_json: bool = False) -> None:
    """Carry out ``train tmm`` and print its tables."""
    from featcache.methods.advise.tmm import run_temporal

    with bars() as drawn:
        result = run_temporal(settings, on_stage=drawn.update)
    print_result(result, as_json=as_json)


RUNNERS = {
    "train-advise": run_advise,
    "train-tmm": run_tmm,
    "train-r3d50": run_r3d50,
    "train-scale": run_scale,
}
