"""``train finetune``: a backbone and a linear head on labelled videos, from pixels."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.console import Quiet, bars, print_result
from featcache.cli.source import (
    Dataset,
    GroupBy,
    LowShot,
    Root,
    Source,
    SplitColumn,
    Subset,
    TestFraction,
    selected,
)
from featcache.cli.train import BatchSize, Device, Epochs, Json, OutFolder, Seeds, Set

if TYPE_CHECKING:
    from featcache.methods.finetune.settings import FinetuneSettings


def finetune(
    source: Source = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="Any of `featcache backbones`, e.g. `svt-b-slowfast`.")
    ] = None,
    weights: Annotated[str, typer.Option(help="`default`, `random` or a file, e.g. the teacher of `train svt`.")] = (
        "default"
    ),
    dataset: Dataset = None,
    root: Root = None,
    split_column: SplitColumn = None,
    test_fraction: TestFraction = None,
    group_by: GroupBy = None,
    subset: Subset = None,
    low_shot: LowShot = None,
    label: Annotated[str, typer.Option("--label", "-l", help="Label column.")] = "label",
    linear: Annotated[
        bool, typer.Option("--linear", help="Train the head alone on augmented clips: SVT's linear protocol.")
    ] = False,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror clips; not where direction matters.")] = True,
    clips: Annotated[int | None, typer.Option(help="Clips of a test video.  [default: 1]")] = None,
    crops: Annotated[int | None, typer.Option(help="Crops of each of them.  [default: 3]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode.  [default: one a core]")] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    seed: Seeds = [],
    device: Device = "auto",
    out: OutFolder = None,
    set_: Set = [],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be trained and tested.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a backbone and a linear head on labelled videos, then score test videos."""
    from featcache.config import apply_overrides, parse
    from featcache.errors import ConfigError
    from featcache.methods.finetune.settings import FinetuneSettings

    if backbone is None:
        raise ConfigError("no backbone is given; name one with --backbone, see `featcache backbones`")
    data = selected(source, dataset, root, split_column, test_fraction, group_by, subset, low_shot)
    data |= {"label": label, "backbone": backbone, "weights": weights, "workers": workers, "out": out}
    data |= {"frozen": True, "head_dropout": 0.0} if linear else {}
    data |= {} if flip else {"clips": {"flip_probability": 0.0}}
    views = {"num_clips": clips, "num_crops": crops}
    data["test"] = {name: value for name, value in views.items() if value is not None}
    data["training"] = _training(is_linear=linear, epochs=epochs, batch_size=batch_size, seeds=seed, device=device)
    settings = parse(FinetuneSettings, apply_overrides(data, set_))
    if dry_run:
        run_plan(settings, as_json=as_json)
    else:
        run_finetune(settings, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example: `featcache train finetune --backbone svt-b-slowfast --weights teacher.safetensors "
        "--dataset ucf101 --root /data/ucf101`"
    )(finetune)


def _training(
    *, is_linear: bool, epochs: int | None, batch_size: int | None, seeds: list[int], device: str
) -> dict[str, Any]:
    """What flags say of the training section; the rest is the command's own, or SVT's linear protocol."""
    from featcache.methods.finetune.settings import LINEAR

    given = {"epochs": epochs, "batch_size": batch_size, "seeds": seeds or None, "device": device}
    return (LINEAR.model_dump(mode="json") if is_linear else {}) | {
        name: value for name, value in given.items() if value is not None
    }


def run_plan(settings: "FinetuneSettings", *, as_json: bool = False) -> None:
    """Carry out ``train finetune --dry-run``."""
    from featcache.methods.finetune.run import plan_finetune

    with bars() as drawn:
        plan = plan_finetune(settings, on_stage=drawn.update)
    print_result(plan, as_json=as_json)


def run_finetune(settings: "FinetuneSettings", *, as_json: bool = False) -> None:
    """Carry out ``train finetune`` and print its table."""
    from featcache.methods.finetune.run import finetune as carry_out

    with bars() as drawn:
        result = carry_out(settings, on_stage=drawn.update)
    print_result(result, as_json=as_json)


RUNNERS = {"train-finetune": run_finetune}
