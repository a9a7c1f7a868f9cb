"""``train finetune``: a backbone and a linear head on labelled videos, from pixels."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.console import Quiet, bars, duration, print_facts, print_json, print_line, print_table
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
from featcache.cli.train import BatchSize, Device, Epochs, Json, OutFolder, Seeds, Set, drawer

if TYPE_CHECKING:
    from featcache.methods.finetune.run import FinetunePlan, FinetuneResult
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
        plan = plan_finetune(settings, on_scan=lambda done, total: drawn.update("scan", done, total))
    if as_json:
        print_json(plan.to_dict())
    else:
        print_plan(plan)


def print_plan(plan: "FinetunePlan") -> None:
    """What a run would do."""
    frames, height, width = plan.clip
    facts = {
        "train": f"{plan.num_train} videos of {plan.num_classes} classes",
        "test": ", ".join(f"{num} in {split}" for split, num in plan.num_test.items()) + f", {plan.num_views} views",
        "clip": f"{frames} frames of {height} x {width}",
        "head reads": plan.feature,
        "parameters": f"{plan.num_parameters:,} of the backbone; {plan.num_trained:,} are trained, head included",
        "steps": f"{plan.num_steps:,}, {plan.num_seeds} seeds",
    }
    if plan.num_left_out:
        facts["left out"] = f"{plan.num_left_out} videos that cannot be used"
    print_facts(facts)


def run_finetune(settings: "FinetuneSettings", *, as_json: bool = False) -> None:
    """Carry out ``train finetune`` and print its table."""
    from featcache.methods.finetune.run import finetune as carry_out

    with bars() as drawn:
        result = carry_out(
            settings,
            on_scan=lambda done, total: drawn.update("scan", done, total),
            on_progress=drawer(drawn.update),
            on_test=lambda done, total: drawn.update("test", done, total),
        )
    if as_json:
        print_json(result.to_dict())
        return
    print_finetuned(result)
    if result.weights:
        where = settings.source if settings.dataset is None else f"--dataset {settings.dataset} --root {settings.root}"
        weights = next(iter(result.weights.values()))
        following = f"next: featcache extract {where} --backbone {result.backbone} --weights {weights}"
        print_line(following, dim=True)


def print_finetuned(result: "FinetuneResult") -> None:
    """Accuracies by split."""
    rows = [
        (
            split,
            *(
                f"{100 * each.value:.1f} [{100 * each.low:.1f}, {100 * each.high:.1f}]"
                for each in part.metrics.values()
            ),
            f"{part.num_videos}/{part.coverage.total}",
        )
        for split, part in result.splits.items()
    ]
    names = next(iter(result.splits.values())).metrics
    title = f"{result.label!r}: {result.num_classes} classes, {result.num_views} views, {len(result.seeds)} seeds"
    print_table(title, ("split", *names, "scored"), rows)
    facts = {
        "backbone": f"{result.backbone}, {result.num_parameters:,} parameters",
        "trained": f"{result.num_trained:,} parameters, head included, on {result.num_train} videos",
        "took": duration(result.seconds),
        "run": result.folder,
    }
    for split, part in result.splits.items():
        if part.num_unseen:
            facts[f"unseen in {split}"] = f"{part.num_unseen} videos of classes that were not taught, counted as wrong"
    if result.num_left_out:
        facts["left out"] = f"{result.num_left_out} videos that cannot be used"
    print_facts(facts)


RUNNERS = {"train-finetune": run_finetune}
